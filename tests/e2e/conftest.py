"""What several files of these tests need."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fix_home import clear_environment, make_folder, prepare_home
from harness import running
from zorya.engines.postgres import installations


@pytest.fixture(scope="session")
def majors() -> list[int]:
    """The major versions of PostgreSQL that are here, the oldest first."""
    return sorted({installations.version_key(found.version)[0] for found in installations.find(None)})


@pytest.fixture(scope="session")
def all_templates(templates: Path, majors: list[int]) -> Iterator[Path]:
    """As `templates`, for every major version that is here."""
    folder = make_folder()
    home = prepare_home(folder, templates)
    with pytest.MonkeyPatch.context() as patch:
        clear_environment(patch)
        with running(home) as server:
            for major in majors:
                server.run("create", f"v{major}", "--version", str(major))
    yield home
    shutil.rmtree(folder)
