"""Which account a client is, by value, and in the order in which a real server looks at them."""

import asyncio

import pytest

from gateway.mariadb.raw_client import Attempt, converse
from gateway.mariadb.real_mariadb import RealMariaDb
from zorya.core.accounts import Account
from zorya.gateway.mariadb import hosts


def account(user: str, host: str) -> Account:
    return Account(
        user=user,
        host=host,
        methods=(),
        is_locked=False,
        password_expired=False,
        needs_tls=False,
        needs_certificate=False,
        opens=(),
    )


@pytest.mark.parametrize(
    ("pattern", "address", "fits"),
    [
        ("%", "192.0.2.1", True),
        ("", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.10", False),
        ("192.0.2.%", "192.0.2.10", True),
        ("192.0.2._", "192.0.2.10", False),
        ("192.0.2.__", "192.0.2.10", True),
        ("192.0.%.1", "192.0.99.1", True),
        ("localhost", "127.0.0.1", False),
        ("192.0.2.0/255.255.255.0", "192.0.2.77", True),
        ("192.0.2.0/255.255.255.0", "192.0.3.77", False),
        ("192.0.2.1/255.255.255.0", "192.0.2.1", False),
        ("192.0.2.0/255.255.255.0", "2001:db8::1", False),
        ("192.0.2.0/0.0.0.0", "192.0.2.0", False),
        ("2001:db8::%", "2001:db8::1", True),
        ("::1", "::1", True),
        (r"192.0.2\.1", "192.0.2.1", True),
        ("192.0.2.(1)", "192.0.2.1", False),
    ],
)
def test_host_is_compared_with_the_address(pattern: str, address: str, fits: bool) -> None:
    assert hosts.matches_host(pattern, address) is fits


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("shop", "shop", True),
        ("shop", "Shop", False),
        (r"sh\_p", "sh_p", True),
        (r"sh\_p", "shop", False),
        ("sh_p", "shop", True),
        ("%", "anything\n", True),
        ("s%p%", "soap opera", True),
        ("\\", "\\", True),
        (".*", "shop", False),
    ],
)
def test_database_is_compared_with_the_pattern(pattern: str, name: str, fits: bool) -> None:
    assert hosts.matches(pattern, name) is fits


def test_name_comes_before_none_when_both_hosts_are_the_same() -> None:
    found = hosts.choose([account("", "%"), account("ann", "%")], "ann", "192.0.2.1")
    assert found == account("ann", "%")


def test_nobody_is_chosen_when_no_host_fits() -> None:
    assert hosts.choose([account("ann", "10.%"), account("bob", "%")], "ann", "192.0.2.1") is None
    assert not hosts.is_any_from([account("ann", "10.%")], "192.0.2.1")


# All that match 127.0.0.1. Each account of the server has its own host for a password.
PATTERNS = [
    "%",
    "127.%",
    "127.0.%",
    "%.1",
    "127.0.0.%",
    "127.0.0._",
    "127.0._.1",
    "127._.0.1",
    "___.0.0.1",
    "1%1",
    "%7.%.1",
    "127.0.0.0/255.255.255.0",
    "127.0.0.0/255.0.0.0",
    "127.0.0.1",
]


async def test_order_of_hosts_is_the_servers(real: RealMariaDb) -> None:
    rest = list(PATTERNS)
    for pattern in PATTERNS:
        real.run(f"CREATE USER ranked@'{pattern}' IDENTIFIED BY '{pattern}'")
    try:
        while rest:
            chosen = hosts.choose([account("ranked", pattern) for pattern in rest], "ranked", "127.0.0.1")
            assert chosen is not None
            attempt = Attempt(user=b"ranked", password=chosen.host.encode())
            assert (await asyncio.to_thread(converse, real.port, attempt))[1][:1] == b"\0", f"{chosen.host} of {rest}"
            rest.remove(chosen.host)
            real.run(f"DROP USER ranked@'{chosen.host}'")
    finally:
        for pattern in rest:
            real.run(f"DROP USER ranked@'{pattern}'")
