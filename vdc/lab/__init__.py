"""The lab: several hosts made out of one machine, to watch a host die and everything on it live on.

Each host is a network namespace with its own agent, etcd member and state folder; two more namespaces play
the switches of the underlays, and one is a client on the overlay. Nothing of it is in the root namespace.
`vdc.lab.api` is the whole of what the command line and the tests use.
"""
