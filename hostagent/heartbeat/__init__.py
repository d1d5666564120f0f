"""Peer liveness: datagrams on both underlay networks, silence measured, never called death."""
