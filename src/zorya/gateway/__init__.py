"""Client connections: accept, read the startup, wake the cluster, attach the client to its engine."""
