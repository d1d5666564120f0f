"""Random faults from a seed against a lab, judged at the client: `make soak MINUTES=60`."""
