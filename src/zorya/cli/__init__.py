"""The `zorya` command: a client of the REST API. Only `up` and `doctor` touch the server's code."""
