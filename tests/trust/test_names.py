"""For which names the certificate is made, and which names it is good for."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.core import errors
from zorya.core.settings import Settings
from zorya.trust import host, names

HOST = names.Host(name="db1.Example.com", addresses=(ip_address("192.0.2.7"), ip_address("2001:db8::7")))
ALWAYS = ("*.zorya.localhost", "zorya.localhost", "localhost", "127.0.0.1", "::1")

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
           |-- 192.0.2.2
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
           |-- 192.0.2.2
              /32 host LOCAL
"""
IF_INET6 = """\
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
fd000000000000000000000000000002 04 40 00 82     eth0
20010db8000000000000000000000abc 04 40 00 01     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


@pytest.mark.parametrize(
    ("given", "more"),
    [
        ({}, ()),
        ({"bind": ["127.0.0.1", "10.0.0.5"]}, ("10.0.0.5",)),
        ({"bind": ["2001:DB8:0::5", "fe80::1%eth0"]}, ("2001:db8::5", "fe80::1")),
        ({"bind": ["0.0.0.0"]}, ("db1.example.com", "192.0.2.7")),
        ({"bind": ["::"]}, ("db1.example.com", "2001:db8::7")),
        ({"bind": ["0.0.0.0", "::"]}, ("db1.example.com", "192.0.2.7", "2001:db8::7")),
        ({"api_bind": "0.0.0.0"}, ("db1.example.com", "192.0.2.7")),
        ({"api_bind": "10.0.0.6"}, ("10.0.0.6",)),
        (
            {"tls_names": ["DB.example.com.", "*.b.example", "10.1.1.1", "localhost"]},
            ("db.example.com", "*.b.example", "10.1.1.1"),
        ),
    ],
)
def test_the_certificate_names_what_clients_may_connect_to(given: dict[str, Any], more: tuple[str, ...]) -> None:
    assert names.wanted(Settings(**given), HOST) == (*ALWAYS, *more)


def test_the_domain_and_what_is_below_it_are_named() -> None:
    assert names.wanted(Settings(domain="db.example"), HOST)[:2] == ("*.db.example", "db.example")


@pytest.mark.parametrize(
    "name", ["", "two words", "ümlaut.example", "-a.example", "a..b", "a.*.b", "*", "x" * 64, "a." * 127 + "a"]
)
def test_a_name_that_no_certificate_can_have_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidSetting, match="tls_names"):
        names.wanted(Settings(tls_names=[name]), HOST)


def test_a_domain_that_leaves_no_room_for_names_is_refused() -> None:
    with pytest.raises(errors.InvalidSetting, match="domain"):
        names.wanted(Settings(domain=".".join(["a" * 61] * 5)), HOST)


def test_a_hosts_name_that_does_not_fit_is_left_out() -> None:
    odd = names.Host(name="my host", addresses=())
    assert names.wanted(Settings(bind=["0.0.0.0"]), odd) == ALWAYS


@pytest.mark.parametrize(
    ("asked", "good"),
    [
        ("main.zorya.localhost", True),
        ("MAIN.zorya.LOCALHOST", True),
        ("zorya.localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("0:0::1", True),
        ("a.main.zorya.localhost", False),
        (".zorya.localhost", False),
        ("*.zorya.localhost", False),
        ("zorya.localhost.evil.example", False),
        ("127.0.0.2", False),
        ("127.1", False),
        ("evil.example", False),
        ("localhost.", False),
        ("", False),
    ],
)
def test_a_star_stands_for_one_label(asked: str, good: bool) -> None:
    assert names.are_good_for(ALWAYS, asked) is good


@given(st.text())
def test_any_text_is_a_name_or_none(text: str) -> None:
    parsed = names.parse(text)
    if parsed is not None:
        assert parsed == parsed.lower() == names.parse(parsed)
        assert parsed.isascii()


def test_the_kernels_tables_are_read() -> None:
    assert list(map(str, host.parse_ipv4(FIB_TRIE))) == ["192.0.2.2", "192.0.2.2"]
    assert list(map(str, host.parse_ipv6(IF_INET6))) == ["fd00::2"]
    assert host.parse_ipv4("") == host.parse_ipv6("") == []


def test_this_hosts_addresses_are_found() -> None:
    """By asking for the one that the kernel would use for a way out, where there is one."""
    found = host.read()
    assert found.name == Path("/proc/sys/kernel/hostname").read_text().strip()
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    if not routes:
        pytest.skip("this host has no IPv4 network")
    assert any(address.version == 4 for address in found.addresses)
    assert not any(address.is_loopback or address.is_link_local for address in found.addresses)
