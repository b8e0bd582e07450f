"""Who may come to a cluster: reads and checks what a user asks for. Pure; the gateway carries it out."""

import ipaddress
from collections.abc import Sequence

from zorya.core import errors
from zorya.core.model import LOOPBACK

MOST_NETWORKS = 256
"""The most networks that one cluster may allow: all are looked through for each client."""


def parse_allow(texts: Sequence[str]) -> tuple[str, ...]:
    """Answer the networks in CIDR notation, each once, in the order given; a bare address stands for itself alone.

    Raises InvalidInput that says which is none, and which network an address with bits beyond its prefix belongs to.
    """
    if not texts:
        raise errors.InvalidInput(
            "Nobody could connect to a cluster that allows no network.",
            hint="Give at least one, such as 127.0.0.1 for this host alone.",
        )
    if len(texts) > MOST_NETWORKS:
        raise errors.InvalidInput(
            f"A cluster allows {MOST_NETWORKS} networks at most.", hint="Join neighbours to larger ones."
        )
    return tuple(dict.fromkeys(_parse_network(text) for text in texts))


def _parse_network(text: str) -> str:
    shown = text if len(text) <= 50 else text[:50] + "..."
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise errors.InvalidInput(
            f"{shown!r} is no network.", hint="A network is written like 10.0.0.0/8, fd00::/8 or 192.168.1.7."
        ) from None
    address = text.partition("/")[0]
    raise errors.InvalidInput(
        f"{shown!r} is an address within a network.", hint=f"Write {meant} for the network, {address} for the address."
    )


def allow_by_default(bind: Sequence[str]) -> tuple[str, ...]:
    """Answer who may come to a cluster that does not say so itself, on a server that listens on these addresses.

    Raises InvalidInput where others than this host's own processes can reach it: who of them may come has to be said.
    """
    if is_loopback(bind):
        return LOOPBACK
    raise errors.InvalidInput(
        f"This server listens on {', '.join(bind)}, so a cluster has to say who may connect.",
        hint="Use --allow, such as --allow 10.0.0.0/8; --allow 127.0.0.1 is this host alone.",
    )


def is_loopback(bind: Sequence[str]) -> bool:
    """Whether only this host's own processes can reach these addresses."""
    return all(_is_loopback_address(one) for one in bind)


def _is_loopback_address(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return text.lower() == "localhost"


def is_for_loopback(allow: Sequence[str]) -> bool:
    """Whether none of these networks has an address of another host."""
    return all(ipaddress.ip_network(one).is_loopback for one in allow)


def check_max_clients(number: int | None) -> None:
    """Raise InvalidInput unless this can be the most clients that a cluster serves; None is no limit of its own."""
    if number is not None and number < 1:
        raise errors.InvalidInput(
            f"{number} cannot be the most clients of a cluster.", hint="Choose at least 1, or none for no limit."
        )
