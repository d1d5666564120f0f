"""The audit log on this host's own disk, before it is in the store."""
