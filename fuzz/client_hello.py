"""Fuzz the first message of a TLS connection; see README.md."""

import sys

import atheris

with atheris.instrument_imports(include=["zorya.gateway"]):
    from gateway import hostile

atheris.Setup(sys.argv, hostile.try_client_hello)
atheris.Fuzz()
