"""The names and addresses of this host, as the kernel tells them. Asks no name server."""

import ipaddress
import socket
from pathlib import Path

from zorya.trust.names import Host, IPAddress

_PROC = Path("/proc/net")
_GLOBAL_SCOPE = "00"
_TEMPORARY = 0x01


def read() -> Host:
    """Answer what this host calls itself. Where the kernel does not tell an address, it is left out."""
    found = [*parse_ipv4(_read("fib_trie")), *parse_ipv6(_read("if_inet6"))]
    return Host(name=socket.gethostname(), addresses=tuple(dict.fromkeys(found)))


def parse_ipv4(fib_trie: str) -> list[IPAddress]:
    """Answer the host's own addresses in the kernel's routing table, without loopback's."""
    found: list[IPAddress] = []
    address = ""
    for line in map(str.strip, fib_trie.splitlines()):
        if line.startswith("|-- "):
            address = line.removeprefix("|-- ")
        elif line.startswith("/32 host LOCAL"):
            found.append(ipaddress.IPv4Address(address))
    return [one for one in found if not one.is_loopback]


def parse_ipv6(if_inet6: str) -> list[IPAddress]:
    """Answer the addresses that others may reach, without temporary ones (RFC 8981), which change every day.

    Fields of the file: address, interface, length of the prefix, scope, flags (linux/if_addr.h), name; all hexadecimal.
    """
    rows = [line.split() for line in if_inet6.splitlines()]
    return [
        ipaddress.IPv6Address(int(row[0], 16))
        for row in rows
        if row[3] == _GLOBAL_SCOPE and not int(row[4], 16) & _TEMPORARY
    ]


def _read(name: str) -> str:
    try:
        return (_PROC / name).read_text()
    except OSError:
        return ""
