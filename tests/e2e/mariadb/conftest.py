"""What the tests of MariaDB clusters share beside the servers that all tests have."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import Server
from lending import Lender
from zorya.engines.mariadb import installations


@pytest.fixture(scope="session", autouse=True)
def _needs_mariadb() -> None:
    if not installations.find(None):
        pytest.skip("this host has no MariaDB 10.6 or newer (Debian: mariadb-server)")


@pytest.fixture(scope="session")
def quick_lender(templates: Path) -> Iterator[Lender]:
    """A server that tests use one after the other, with clusters that freeze almost at once."""
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
