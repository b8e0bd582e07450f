"""Ports that are reserved for programs which are about to start."""

import asyncio
import socket

import pytest

from zorya.core import ports


async def test_a_server_can_listen_on_a_reserved_port_and_nobody_else_is_given_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ports, "KEPT_S", 0.2)
    port = ports.reserve()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
    while True:
        await asyncio.sleep(0.05)
        with socket.socket() as later:
            try:
                later.bind(("127.0.0.1", port))
            except OSError:
                continue
            return


async def test_ports_are_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "KEPT_S", 0.0)
    found = [ports.reserve() for _ in range(50)]
    assert len(set(found)) == 50
    await asyncio.sleep(0)


def test_a_port_is_free_at_once_where_nobody_could_let_it_go() -> None:
    port = ports.reserve()
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
