"""Ports that are reserved for programs which are about to start."""

import socket

import pytest

from zorya.core import ports


def test_a_server_can_listen_on_a_reserved_port_and_nobody_else_is_given_it() -> None:
    port = ports.reserve()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()


def test_ports_are_different_and_the_oldest_are_let_go() -> None:
    found = [ports.reserve() for _ in range(ports.KEPT)]
    assert len(set(found)) == ports.KEPT
    first = found[0]
    ports.reserve()
    with socket.socket() as free:
        free.bind(("127.0.0.1", first))
