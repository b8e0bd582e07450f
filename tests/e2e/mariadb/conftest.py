"""Servers that have MariaDB's template ready, so that no test has to wait until it is made."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fix_home import clear_environment, make_folder, prepare_home
from harness import Server, running
from lending import Lender
from zorya.engines.mariadb import installations


@pytest.fixture(scope="session")
def templates(templates: Path) -> Iterator[Path]:
    """As the fixture that it overrides, with MariaDB's template as well."""
    if not installations.find(None):
        pytest.skip("this host has no MariaDB 10.6 or newer (Debian: mariadb-server)")
    folder = make_folder()
    home = prepare_home(folder, templates)
    with pytest.MonkeyPatch.context() as patch:
        clear_environment(patch)
        with running(home) as server:
            server.api.create({"name": "shop", "engine": "mariadb"})
            server.api.delete("shop")
    yield home
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def lender(templates: Path) -> Iterator[Lender]:
    """The server that tests use one after the other."""
    with Lender(templates) as made:
        yield made


@pytest.fixture(scope="session")
def quick_lender(templates: Path) -> Iterator[Lender]:
    """The same, with clusters that freeze almost at once."""
    with Lender(templates, ZORYA_FREEZE_AFTER="0.05") as made:
        yield made


@pytest.fixture
def quick_shop(quick_lender: Lender) -> Iterator[Server]:
    """A server with a MariaDB cluster "shop", new and asleep, that freezes almost at once."""
    with quick_lender.lend() as lent:
        lent.api.create({"name": "shop", "engine": "mariadb"})
        yield lent


@pytest.fixture
def root(shop: Server) -> Path:
    """The file with the root that clients of the server trust."""
    return shop.home / "tls" / "ca.pem"
