"""The gateway's TCP sockets: listening ones, and the options of those of clients and engines."""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable

from zorya.core import errors
from zorya.core.model import Address

BACKLOG = 4096
"""Connections that the kernel holds before they are accepted; it takes no more than net.core.somaxconn of them."""

KEEPALIVE_IDLE_S = 60
KEEPALIVE_INTERVAL_S = 15
KEEPALIVE_PROBES = 4
"""A client whose host is gone is noticed after two minutes: 60 s of silence and four probes without an answer."""


def open_listeners(addresses: Iterable[str], port: int) -> list[socket.socket]:
    """Listen on `port` of every address, or on none.

    Raises PortInUse, InvalidSetting for an address that this host cannot listen on, and HostProblem for the rest.
    """
    with contextlib.ExitStack() as opened:
        listeners = [opened.enter_context(_open_listener(Address(host=host, port=port))) for host in addresses]
        opened.pop_all()
        return listeners


def _open_listener(address: Address) -> socket.socket:
    family = _parse_family(address.host)
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _explain(error, address) from error
    try:
        listener.settimeout(0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _set_up_for_clients(listener)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _explain(error, address) from error
    return listener


def _parse_family(host: str) -> socket.AddressFamily:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError as error:
        raise errors.InvalidSetting(
            f"bind: {host!r} is not an IP address.", hint="Give addresses such as 127.0.0.1 or ::1."
        ) from error
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _explain(error: OSError, address: Address) -> errors.ZoryaError:
    match error.errno:
        case errno.EADDRINUSE:
            return errors.PortInUse(
                f"{address} is in use by another program or cluster.",
                hint=f"Choose another port, or stop what listens on it: `ss -ltnp 'sport = :{address.port}'` shows it.",
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return errors.InvalidSetting(
                f"bind: this host cannot listen on {address.host}: {error.strerror}.",
                hint="`ip address` lists the addresses that this host has.",
            )
        case _:
            return errors.HostProblem(f"Listening on {address} failed: {error.strerror}.")


def _set_up_for_clients(listener: socket.socket) -> None:
    """Have accepted connections without Nagle's delay, and probed while silent: they inherit the listener's options."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def new_engine_socket(address: Address) -> socket.socket:
    """Answer an unconnected, non-blocking socket without Nagle's delay for a connection to `address`."""
    engine = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    engine.settimeout(0)
    engine.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return engine


async def readable(sock: socket.socket) -> None:
    """Return when there is something to read, or the end. Nobody else may watch the socket meanwhile."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


async def writable(sock: socket.socket) -> None:
    """Return when there is room to write, or nobody reads any more. Nobody else may watch the socket meanwhile."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)
