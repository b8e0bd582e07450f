"""Node's packages for the tests that run it."""

import shutil
import subprocess
from pathlib import Path

import pytest


def install(package: Path, folder: Path) -> Path:
    """Copy a package to `folder` and install what it needs, so that test runs side by side do not meet in it."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"this host has no {program}")
    shutil.copytree(package, folder, ignore=shutil.ignore_patterns("node_modules"))
    installed = subprocess.run(
        ["npm", "ci", "--prefer-offline", "--no-audit", "--no-fund"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr
    return folder
