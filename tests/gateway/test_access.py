"""gateway/access.py: which addresses may come."""

import pytest

from zorya.core.model import LOOPBACK
from zorya.gateway.access import allows


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::1%lo"])
def test_loopback_may_come_by_default(address: str) -> None:
    assert allows(LOOPBACK, address)


@pytest.mark.parametrize("address", ["10.0.0.1", "::2", "fe80::1%eth0", "::ffff:10.0.0.1"])
def test_nobody_else_may_come_by_default(address: str) -> None:
    assert not allows(LOOPBACK, address)


def test_networks_of_both_kinds_are_told_apart() -> None:
    assert allows(("10.0.0.0/8", "2001:db8::/32"), "10.255.0.1")
    assert allows(("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1")
    assert not allows(("0.0.0.0/0",), "2001:db8::1")
    assert not allows(("::/0",), "10.0.0.1")


def test_nobody_may_come_when_nothing_is_allowed() -> None:
    assert not allows((), "127.0.0.1")
