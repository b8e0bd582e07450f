"""Clients that are handed over through the inlet, and those that come by the relay's address."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from certificates import new_tls
from engines.base_cluster import DATABASE, PASSWORD, USER
from engines.mariadb.clusters import Cluster, Workshop, rows
from zorya.engines import handoff as library_room
from zorya.engines.mariadb import configuration
from zorya.gateway import handoff


@pytest.fixture(scope="module")
def library(workshop: Workshop) -> Path:
    placed = library_room.place(workshop.home, workshop.account)
    if placed.path is None:
        pytest.skip(placed.reason)
    return placed.path


class Endpoint:
    """Takes clients at a port of its own and hands each over, as the gateway does."""

    def __init__(self, inlet: Path) -> None:
        self._inlet = inlet
        self._door = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._door.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, peer = self._door.accept()
            except OSError:
                return
            with client:
                assert asyncio.run(handoff.hand_over(client, peer, self._inlet))

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self._thread.join()


@pytest.fixture(scope="module")
def server(cluster: Cluster, library: Path) -> Iterator[Cluster]:
    """An engine with the library and with TLS."""
    cluster.start(new_tls(), library=library)
    yield cluster
    cluster.kill()


@pytest.fixture(scope="module")
def endpoint(server: Cluster) -> Iterator[Endpoint]:
    made = Endpoint(server.folders.inlet)
    yield made
    made.close()


@contextlib.contextmanager
def handed_over(endpoint: Endpoint, source: str = "127.0.0.1", **options: Any) -> Iterator[Any]:
    """A session of a client that comes from the address `source`."""
    connection = pymysql.connect(
        **{
            "host": "127.0.0.1",
            "port": endpoint.port,
            "bind_address": source,
            "user": USER,
            "password": PASSWORD.value,
            "database": DATABASE,
            "autocommit": True,
            "ssl_disabled": True,
            **options,
        }
    )
    with connection:
        yield connection


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_a_client_is_seen_where_it_comes_from_when_it_is_handed_over(endpoint: Endpoint) -> None:
    with handed_over(endpoint, "127.1.2.3") as session:
        assert rows(session, "SELECT USER(), CURRENT_USER()") == [("zorya@127.1.2.3", "zorya@%")]


def test_accounts_of_a_network_admit_its_addresses_alone_when_clients_are_handed_over(endpoint: Endpoint) -> None:
    with handed_over(endpoint) as session:
        rows(session, "CREATE USER near@'127.9.%' IDENTIFIED BY 'x'")
        with handed_over(endpoint, "127.9.0.1", user="near", password="x", database=None) as near:
            assert rows(near, "SELECT CURRENT_USER()") == [("near@127.9.%",)]
        with (
            pytest.raises(pymysql.OperationalError) as refused,
            handed_over(endpoint, "127.8.0.1", user="near", password="x", database=None),
        ):
            pass
        assert refused.value.args == (1045, "Access denied for user 'near'@'127.8.0.1' (using password: YES)")
        rows(session, "DROP USER near@'127.9.%'")


def test_an_account_that_requires_tls_is_let_in_with_tls_alone_when_clients_are_handed_over(endpoint: Endpoint) -> None:
    with handed_over(endpoint) as session:
        rows(session, "CREATE USER safe@'%' IDENTIFIED BY 'x' REQUIRE SSL")
        with handed_over(
            endpoint, user="safe", password="x", database=None, ssl_disabled=False, ssl=_trusting()
        ) as safe:
            assert rows(safe, "SHOW STATUS LIKE 'Ssl_cipher'")[0][1]
        with (
            pytest.raises(pymysql.OperationalError) as refused,
            handed_over(endpoint, user="safe", password="x", database=None),
        ):
            pass
        assert refused.value.args[0] == 1045
        rows(session, "DROP USER safe@'%'")


def test_all_are_served_when_a_hundred_come_at_once(server: Cluster, endpoint: Endpoint) -> None:
    with contextlib.ExitStack() as open_ones:
        sessions = [open_ones.enter_context(handed_over(endpoint)) for _ in range(100)]
        numbers = {rows(session, "SELECT CONNECTION_ID()")[0][0] for session in sessions}
        assert len(numbers) == 100


def test_a_query_is_killed_when_another_session_asks(endpoint: Endpoint) -> None:
    with handed_over(endpoint) as slow, handed_over(endpoint) as other:
        killer = threading.Timer(0.2, rows, (other, f"KILL QUERY {slow.thread_id()}"))
        killer.start()
        with contextlib.suppress(pymysql.MySQLError):
            assert rows(slow, "SELECT SLEEP(60)") == [(1,)]
        killer.join()
        assert rows(slow, "SELECT 1") == [(1,)]


def test_a_client_is_served_when_it_was_handed_over_to_a_frozen_engine(server: Cluster, endpoint: Endpoint) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    thaw = threading.Timer(0.3, os.kill, (server.pid, signal.SIGCONT))
    thaw.start()
    with handed_over(endpoint) as session:
        assert rows(session, "SELECT 1") == [(1,)]
    thaw.join()


def test_the_relays_address_is_what_readiness_answers_when_there_is_an_inlet(server: Cluster) -> None:
    assert server.folders.inlet.is_socket()
    with server.connect() as session:
        assert rows(session, "SELECT USER()") == [("zorya@127.0.0.1",)]


class FromRelay:
    """A socket that begins as the relay's do: from its address, with a header that names the true one."""

    @staticmethod
    def connect(server: Cluster, client: str, source: str = configuration.RELAY_ADDRESS) -> socket.socket:
        address = (server.address.host, server.address.port)
        made = socket.create_connection(address, source_address=(source, 0))
        made.sendall(f"PROXY TCP4 {client} 127.0.0.1 4321 3306\r\n".encode())
        return made


@contextlib.contextmanager
def relayed(server: Cluster, client: str, **options: Any) -> Iterator[Any]:
    session = pymysql.connect(
        **{"user": USER, "password": PASSWORD.value, "ssl_disabled": True, "defer_connect": True, **options}
    )
    session.connect(FromRelay.connect(server, client, options.pop("source", configuration.RELAY_ADDRESS)))
    with session:
        yield session


def test_a_relayed_client_is_seen_where_it_comes_from_when_the_relay_says_so(server: Cluster) -> None:
    with relayed(server, "10.1.2.3") as session:
        assert rows(session, "SELECT USER()") == [("zorya@10.1.2.3",)]


def test_a_client_cannot_say_where_it_comes_from_when_it_is_not_the_relay(server: Cluster) -> None:
    with FromRelay.connect(server, "10.1.2.3", "127.0.0.1") as sock:
        session = pymysql.connect(user=USER, password=PASSWORD.value, ssl_disabled=True, defer_connect=True)
        with pytest.raises(pymysql.MySQLError):
            session.connect(sock)


def test_tls_is_spoken_through_the_relay_when_a_client_asks_for_it(server: Cluster) -> None:
    session = pymysql.connect(user=USER, password=PASSWORD.value, ssl=_trusting(), defer_connect=True, host="x")
    session.connect(FromRelay.connect(server, "10.1.2.3"))
    with session:
        assert rows(session, "SHOW STATUS LIKE 'Ssl_cipher'")[0][1]
