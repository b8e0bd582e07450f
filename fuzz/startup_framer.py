"""Fuzz the start of a connection, and what follows from a startup packet; see README.md."""

import sys

import atheris

with atheris.instrument_imports(include=["zorya.gateway"]):
    from gateway import hostile

atheris.Setup(sys.argv, hostile.try_startup_framer)
atheris.Fuzz()
