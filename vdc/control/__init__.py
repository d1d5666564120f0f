"""What acts on the cluster as a whole: desired state, and the leader's reconcile loops over it."""
