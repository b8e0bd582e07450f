"""node-postgres, unchanged, through the endpoint; what is checked stands in node/checks.mjs."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.node_package import install

FOLDER = Path(__file__).parent / "node"
CHECKS = ("values", "prepared", "notify", "stream", "large", "cancel", "pool")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the folder with its packages installed."""
    folder = install(FOLDER, tmp_path_factory.mktemp("node") / "package")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("check", CHECKS)
def test_check_passes_when_node_runs_it(package: Path, url: str, check: str) -> None:
    done = subprocess.run(
        ["node", "checks.mjs", check, url], cwd=package, capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{check}: ok\n"), done.stderr
