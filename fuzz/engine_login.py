"""Fuzz what an engine says while it is logged in to; see README.md."""

import sys

import atheris

with atheris.instrument_imports(include=["zorya.gateway"]):
    from gateway import hostile

atheris.Setup(sys.argv, hostile.try_engine_login)
atheris.Fuzz()
