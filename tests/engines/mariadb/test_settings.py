"""What a server is told: capacity online, certificates, and what is right whatever the bounds are."""

import asyncio
import signal
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certificates import new_tls
from engines.base_cluster import ACU
from engines.mariadb.clusters import Cluster, rows
from waiting import wait_until
from zorya.core.capacity import Bounds
from zorya.engines.base import TlsFiles
from zorya.engines.mariadb import configuration, privileges, sizes

CAPACITIES = st.integers(1, 512).map(lambda quarters: quarters / 4)


@pytest.fixture
def server(cluster: Cluster) -> Iterator[Cluster]:
    """The engine, started with TLS."""
    cluster.start(new_tls())
    yield cluster
    cluster.kill()


def _no_signal(_: signal.Signals) -> None:
    raise AssertionError("a server forgets its administrator at SIGHUP")


def _reload(server: Cluster) -> None:
    asyncio.run(server.engine.reload(server.instance, _no_signal))


def _served(server: Cluster) -> bytes:
    """Answer the certificate that newcomers get, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with server.connect(ssl=context, ssl_disabled=False) as session:
        found: bytes = session._sock.getpeercert(binary_form=True)
        return found


def _variables(server: Cluster, names: Any) -> dict[str, int]:
    with server.connect() as session:
        listed = ", ".join(f"'{name}'" for name in names)
        found = rows(session, f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({listed})")
    return {name: int(value) for name, value in found}


def test_a_server_takes_what_follows_its_capacity_when_it_changes(server: Cluster) -> None:
    with server.connect() as kept:
        for capacity in (2.0, 0.25, 1.0):
            server.instance = replace(server.instance, capacity=capacity)
            assert asyncio.run(server.engine.write_capacity(server.instance))
            assert not asyncio.run(server.engine.write_capacity(server.instance))
            _reload(server)
            wanted = sizes.following(capacity, server.instance.bounds, ACU)
            wait_until(lambda wanted=wanted: _variables(server, wanted) == wanted, "the server has taken it")  # type: ignore[misc]
            assert rows(kept, "SELECT 1") == [(1,)]


def test_a_new_certificate_is_served_when_it_was_written_and_sessions_go_on(server: Cluster) -> None:
    with server.connect() as kept:
        new = new_tls("another")
        server.instance = replace(server.instance, tls=new)
        asyncio.run(server.engine.write_configuration(server.instance))
        _reload(server)
        assert _served(server) == ssl.PEM_cert_to_DER_cert(new.certificate)
        assert rows(kept, "SELECT 1") == [(1,)]


def test_the_old_certificate_is_served_when_the_new_one_does_not_fit_its_key(server: Cluster) -> None:
    assert server.instance.tls is not None
    before = _served(server)
    odd = replace(new_tls(), key=new_tls().key)
    asyncio.run(server.engine.write_configuration(replace(server.instance, tls=odd)))
    _reload(server)
    assert _served(server) == before


def test_clients_without_tls_are_turned_away_when_it_is_required(server: Cluster) -> None:
    server.instance = replace(server.instance, requires_tls=True)
    asyncio.run(server.engine.write_configuration(server.instance))
    _reload(server)
    with pytest.raises(pymysql.OperationalError) as refused:
        server.connect()
    assert refused.value.args[0] in {1045, 3159, 4228}
    assert _served(server)
    server.instance = replace(server.instance, requires_tls=False)
    asyncio.run(server.engine.write_configuration(server.instance))
    _reload(server)
    server.connect().close()


@pytest.mark.parametrize(("oldest", "offered"), [("1.3", "TLSv1.3"), ("1.2", "TLSv1.2"), ("1.0", "TLSv1.0")])
def test_versions_of_tls_are_spoken_from_the_oldest_on_when_it_is_set(
    cluster: Cluster, oldest: str, offered: str
) -> None:
    cluster.start(new_tls(min_version=oldest))
    try:
        with cluster.connect() as session:
            assert rows(session, "SELECT @@tls_version")[0][0].split(",")[0] == offered
        assert _served(cluster)
    finally:
        cluster.kill()


@given(CAPACITIES, CAPACITIES)
def test_nothing_falls_when_the_capacity_rises(one: float, other: float) -> None:
    least, most = sorted((one, other))
    bounds = Bounds(least=least, most=most)
    low, high = (sizes.following(capacity, bounds, ACU) for capacity in (least, most))
    assert low.keys() == high.keys()
    assert all(low[name] <= high[name] for name in low)


@given(CAPACITIES, CAPACITIES)
def test_what_is_kept_leaves_room_for_sessions_at_every_capacity(one: float, other: float) -> None:
    bounds = Bounds(least=min(one, other), most=max(one, other))
    fixed = sizes.at_start(bounds, ACU)
    for capacity in (bounds.least, bounds.most):
        memory = ACU.memory_of(capacity)
        chosen = sizes.following(capacity, bounds, ACU)
        taken = chosen["innodb_buffer_pool_size"] + fixed["aria_pagecache_buffer_size"] + fixed["key_buffer_size"]
        assert taken <= memory * 0.6
        assert chosen["innodb_io_capacity"] <= chosen["innodb_io_capacity_max"]
        assert 100 <= fixed["max_connections"] <= 5000


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_a_settings_file_says_what_it_was_given_when_a_path_is_odd(name: str) -> None:
    quoted = configuration.quote(Path("/x") / name)
    assert quoted.startswith('"')
    assert quoted.endswith('"')
    assert "\n" not in quoted


def test_patterns_leave_out_the_systems_database_and_nothing_that_is_a_word() -> None:
    patterns = list(privileges.patterns())
    assert not any(_matches(pattern, "mysql") for pattern in patterns)
    for name in ("a", "maria", "mysqk", "nysql", "mzsql", "mytql", "mysrl", "mysqlx", "x" * 64, "my_ql", "12345"):
        assert any(_matches(pattern, name) for pattern in patterns), name


def _matches(pattern: str, name: str) -> bool:
    """Whether a name is like a pattern of one letter after the other, with a `%` at its end at the most."""
    at = 0
    while pattern:
        first, rest = (pattern[:2], pattern[2:]) if pattern.startswith("\\") else (pattern[:1], pattern[1:])
        if first == "%":
            return not rest
        if at == len(name) or (first[-1] != name[at] and first != "_"):
            return False
        at, pattern = at + 1, rest
    return at == len(name)


def test_tls_files_do_not_show_their_key() -> None:
    made: TlsFiles = new_tls()
    assert made.key.value not in repr(made)
