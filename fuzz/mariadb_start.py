"""Fuzz a MariaDB client's response to the greeting, and its login; see README.md."""

import sys

import atheris

with atheris.instrument_imports(include=["zorya.gateway"]):
    from gateway.mariadb import hostile

atheris.Setup(sys.argv, hostile.try_start)
atheris.Fuzz()
