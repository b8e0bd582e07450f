"""Whether a client may come to a cluster at all. Pure."""

import functools
import ipaddress

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def allows(allow: tuple[str, ...], address: str) -> bool:
    """Whether one of the networks, in CIDR notation, holds the address. One with a zone (`fe80::1%eth0`) has none."""
    client = ipaddress.ip_address(address.partition("%")[0])
    return any(client in network for network in _parse(allow))


@functools.lru_cache(maxsize=256)
def _parse(allow: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in allow)
