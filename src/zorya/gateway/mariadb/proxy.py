"""Telling an engine whose connection it is that the gateway makes: the PROXY protocol, version 2. Pure.

The layout is that of https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt, section 2.2. The engine believes it
of RELAY_ADDRESS alone (`engines.mariadb.configuration`), from which no client may come.
"""

import ipaddress

from zorya.core.model import Address

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_TCP_OVER = {4: 0x11, 6: 0x21}


def header(client: Address, engine: Address) -> bytes:
    """Answer what goes before everything else: a client is at this address, and wants the engine's.

    Both have to be of one family; where they are not, the engine's is left out as all zeros. It is not looked at.
    """
    source = ipaddress.ip_address(client.host.partition("%")[0])
    target = ipaddress.ip_address(engine.host)
    packed = target.packed if target.version == source.version else bytes(len(source.packed))
    body = source.packed + packed + client.port.to_bytes(2) + engine.port.to_bytes(2)
    return _SIGNATURE + bytes([_VERSION_2_PROXY, _TCP_OVER[source.version]]) + len(body).to_bytes(2) + body
