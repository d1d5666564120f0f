"""Where the cluster's state lives: one protocol, etcd behind it, an in-memory twin for simulation."""
