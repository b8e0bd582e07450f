"""Fuzz the ways in which a startup packet names a cluster; see README.md."""

import sys

import atheris

with atheris.instrument_imports(include=["zorya.gateway"]):
    from gateway import hostile

atheris.Setup(sys.argv, hostile.try_naming)
atheris.Fuzz()
