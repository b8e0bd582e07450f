"""What a user may ask for about who may come."""

import pytest

from zorya.control import access
from zorya.core import errors
from zorya.core.model import LOOPBACK


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["10.0.0.0/8"], ("10.0.0.0/8",)),
        (["192.168.1.7"], ("192.168.1.7/32",)),
        (["fd00::1"], ("fd00::1/128",)),
        (["FD00:0::/8", "10.0.0.0/255.0.0.0"], ("fd00::/8", "10.0.0.0/8")),
        (["::/0", "0.0.0.0/0", "::/0"], ("::/0", "0.0.0.0/0")),
        (list(LOOPBACK), LOOPBACK),
    ],
)
def test_networks_are_kept_in_one_form_and_each_once(texts: list[str], kept: tuple[str, ...]) -> None:
    assert access.parse_allow(texts) == kept


@pytest.mark.parametrize(
    "text", ["", "everybody", "10.0.0.0/33", "10.0.0", "::1/129", "10.0.0.0/8/8", "example.com", " "]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="is no network"):
        access.parse_allow(["10.0.0.0/8", text])


@pytest.mark.parametrize(
    ("text", "network", "address"),
    [("10.1.2.3/8", "10.0.0.0/8", "10.1.2.3"), ("fd00::5/64", "fd00::/64", "fd00::5")],
)
def test_an_address_with_bits_beyond_its_prefix_is_refused_with_both_that_could_be_meant(
    text: str, network: str, address: str
) -> None:
    with pytest.raises(errors.InvalidInput) as raised:
        access.parse_allow([text])
    assert f"Write {network} for the network, {address} for the address." in raised.value.hint


def test_nobody_and_too_many_are_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="no network"):
        access.parse_allow([])
    with pytest.raises(errors.InvalidInput, match="at most"):
        access.parse_allow([f"10.{n // 256}.{n % 256}.0/24" for n in range(access.MOST_NETWORKS + 1)])


@pytest.mark.parametrize("bind", [["127.0.0.1"], ["::1"], ["127.0.0.1", "::1", "127.8.8.8"], ["localhost"], ["::1%lo"]])
def test_this_host_alone_is_allowed_by_default_where_nobody_else_can_come(bind: list[str]) -> None:
    assert access.allow_by_default(bind) == LOOPBACK


@pytest.mark.parametrize("bind", [["0.0.0.0"], ["127.0.0.1", "10.0.0.5"], ["::"], ["fe80::1%eth0"], ["db.example.com"]])
def test_who_may_come_has_to_be_said_where_others_can(bind: list[str]) -> None:
    with pytest.raises(errors.InvalidInput) as raised:
        access.allow_by_default(bind)
    assert ", ".join(bind) in raised.value.message
    assert "--allow 10.0.0.0/8" in raised.value.hint


@pytest.mark.parametrize(
    ("allow", "only"),
    [(LOOPBACK, True), (("127.0.0.1/32",), True), (("::1/128", "10.0.0.0/8"), False), (("0.0.0.0/0",), False)],
)
def test_rules_for_this_host_alone_are_told_from_others(allow: tuple[str, ...], only: bool) -> None:
    assert access.is_for_loopback(allow) == only


def test_a_number_of_clients_is_at_least_one() -> None:
    access.check_max_clients(None)
    access.check_max_clients(1)
    for number in (0, -1):
        with pytest.raises(errors.InvalidInput):
            access.check_max_clients(number)
