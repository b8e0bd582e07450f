"""A process that outlives the server: thaws frozen engines and holds the endpoints' sockets until the next server."""
