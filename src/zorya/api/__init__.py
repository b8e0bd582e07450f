"""The REST API: clusters, events and the server itself, over a Unix socket and loopback TCP."""
