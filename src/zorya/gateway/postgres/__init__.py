"""PostgreSQL's side of the gateway: its protocol, proving who a client is, the life of a connection."""
