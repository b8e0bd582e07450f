"""Fuzz a client's answers to requests for authentication; see README.md."""

import sys

import atheris

with atheris.instrument_imports(include=["zorya.gateway"]):
    from gateway import hostile

atheris.Setup(sys.argv, hostile.try_authentication)
atheris.Fuzz()
