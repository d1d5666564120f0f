"""Certificates of the cluster: its authority, what hosts and people show, join tokens, TLS contexts."""
