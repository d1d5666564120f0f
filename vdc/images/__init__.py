"""Images: names, content-addressed files on a host, inspection of what somebody wants to import."""
