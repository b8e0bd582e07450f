"""Which account a client gets, by where it comes from. Pure.

The rules are those of sql/sql_acl.cc: compare_hostname, get_magic_sort, acl_user_compare and find_user_or_anon. Names
are not resolved (`skip_name_resolve`), so that a host is an address, and `localhost` stands for no client over TCP.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from zorya.core.accounts import Account

MAX_HOST_CHARACTERS = 255
_MOST_WILD = 31
"""More wildcards than these count as so many."""

_NETMASK = re.compile(r"([0-9.]+)/([0-9.]+)")


def is_any_from(accounts: Iterable[Account], address: str) -> bool:
    """Whether any account may come from this address (acl_check_host)."""
    return any(matches_host(account.host, address) for account in accounts)


def choose(accounts: Iterable[Account], user: str, address: str) -> Account | None:
    """Answer the account that a client is that says it is `user`; None if there is none.

    The most specific host decides, be it that of an account without a name; between equals the one with a name.
    """
    fitting = [one for one in accounts if one.user in (user, "") and matches_host(one.host, address)]
    return min(fitting, key=lambda one: (_generality(one.host), not one.user, _reversed(one.host)), default=None)


def matches_host(pattern: str, address: str) -> bool:
    """Whether a client at this address may be an account with this host."""
    network = _parse_network(pattern)
    if network is not None and (number := _parse_ipv4(address)) is not None:
        base, mask = network
        return number & mask == base
    # Of old, no host is any.
    return matches(pattern or "%", address)


def matches(pattern: str, text: str) -> bool:
    r"""Whether a text is as the pattern says: `%` is anything, `_` any character, `\` takes the meaning from both."""
    return _compile(pattern).fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> re.Pattern[str]:
    wild = {"%": ".*", "_": "."}
    parts, rest = [], iter(re.sub("%+", "%", pattern))
    for letter in rest:
        if letter == "\\":
            parts.append(re.escape(next(rest, letter)))
        else:
            parts.append(wild.get(letter) or re.escape(letter))
    return re.compile("".join(parts), re.DOTALL)


def _parse_network(pattern: str) -> tuple[int, int] | None:
    """Answer address and mask of a host that is written so, for IPv4; a mask of all zeros is none (calc_ip)."""
    found = _NETMASK.fullmatch(pattern)
    base, mask = (_parse_ipv4(found[1]), _parse_ipv4(found[2])) if found else (None, None)
    return (base, mask) if base is not None and mask else None


def _parse_ipv4(text: str) -> int | None:
    try:
        return int(ipaddress.IPv4Address(text))
    except ValueError:
        return None


def _generality(host: str) -> int:
    """Answer a number that is the larger, the more a host stands for: get_magic_sort, which explains it at length."""
    literals = singles = many = prefix = 0
    rest = iter(re.sub("%+", "%", host or "%"))
    for letter in rest:
        if letter in "%_":
            if not many and not singles:
                prefix = literals
            many += letter == "%"
            singles += letter == "_"
        else:
            if letter == "\\":
                next(rest, None)
            literals += 1
    many, singles = min(many, _MOST_WILD), min(singles, _MOST_WILD)
    open_ = MAX_HOST_CHARACTERS - literals - singles if many else 0
    whole, part = MAX_HOST_CHARACTERS + 1, _MOST_WILD + 1
    if open_ > singles:
        return (((open_ * 2 + 1) * whole + many) * part + singles) * whole + prefix
    return ((singles * 2 * whole + open_) * part + many) * whole + prefix


def _reversed(host: str) -> tuple[int, ...]:
    """Order hosts that are equally specific from the last to the first (acl_user_compare)."""
    return (*(-byte for byte in host.encode("utf-8", "surrogateescape")), 1)
