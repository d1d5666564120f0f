"""The host agent: runs the VMs of one host, keeps pairs in lockstep, serves the API."""
