"""Who may log in, as a real server says it, and how it is kept from changing."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pymysql
import pytest

from engines.base_cluster import DATABASE, PASSWORD, USER
from engines.mariadb.clusters import Cluster, rows
from waiting import wait_until
from zorya.core import errors, identity
from zorya.core.accounts import Account, Accounts
from zorya.core.model import Secret
from zorya.engines.mariadb import administrator, identities, verifiers


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Cluster]:
    """One running engine for all these tests."""
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
def user(server: Cluster) -> Iterator[Any]:
    """A session of the cluster's user. What it makes in a test it removes."""
    with server.connect() as connection:
        yield connection
        for made in ("one@'%'", "one@'10.%'", "two@'%'", "three@'%'", "''@'%'"):
            rows(connection, f"DROP USER IF EXISTS {made}")
        for role in ("reader", "writer"):
            rows(connection, f"DROP ROLE IF EXISTS {role}")
        for database in ("a_b", "other"):
            rows(connection, f"DROP DATABASE IF EXISTS {database}")


def known(server: Cluster) -> Accounts:
    """Answer what the server says."""

    async def ask() -> Accounts:
        held = await server.engine.hold_identities(server.folders)
        await held.close()
        return held.identities

    return asyncio.run(ask())


def account(server: Cluster, user: str, host: str = "%") -> Account:
    (found,) = [one for one in known(server).accounts if (one.user, one.host) == (user, host)]
    return found


def test_a_new_cluster_is_known_as_its_server_knows_it_when_nothing_has_changed(server: Cluster) -> None:
    before = identity.from_json(server.folders.identities.read_text())
    assert isinstance(before, Accounts)
    assert replace(before, stamp="") == known(server)


def test_the_administrator_is_not_among_the_accounts_when_they_are_read(server: Cluster) -> None:
    name = administrator.read(server.folders.conf).name.value
    assert [(one.user, one.host) for one in known(server).accounts] == [(USER, "%")]
    assert name not in known(server).to_json()


def test_the_methods_of_an_account_are_told_in_their_order_when_it_has_several(server: Cluster, user: Any) -> None:
    rows(user, "CREATE USER one@'%' IDENTIFIED BY 'x'")
    assert [(way.plugin, way.verifier) for way in account(server, "one").methods] == [
        ("mysql_native_password", verifiers.new(Secret("x")))
    ]
    rows(user, "ALTER USER one@'%' IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('x')")
    ways = account(server, "one").methods
    assert [way.plugin for way in ways] == ["unix_socket", "mysql_native_password"]
    assert ways[1].verifier == verifiers.new(Secret("x"))
    rows(user, "ALTER USER one@'%' IDENTIFIED BY ''")
    assert [way.verifier.value for way in account(server, "one").methods] == [""]


def test_an_account_with_an_ed25519_key_is_told_with_its_plugin_when_there_is_one(server: Cluster, user: Any) -> None:
    with server.connect_as_admin() as admin:
        loaded = rows(admin, "SELECT 1 FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'ed25519'")
    if not loaded:
        pytest.skip("this MariaDB has no plugin for Ed25519")
    rows(user, "CREATE USER one@'%' IDENTIFIED VIA ed25519 USING PASSWORD('x')")
    assert [way.plugin for way in account(server, "one").methods] == ["ed25519"]


def test_what_is_asked_of_a_client_is_told_when_an_account_asks_for_it(server: Cluster, user: Any) -> None:
    rows(user, "CREATE USER one@'%' REQUIRE SSL")
    one = account(server, "one")
    assert (one.needs_tls, one.needs_certificate, one.is_locked, one.password_expired) == (True, False, False, False)
    for requirement in ("X509", "SUBJECT '/CN=x'"):
        rows(user, f"ALTER USER one@'%' REQUIRE {requirement}")
        assert account(server, "one").needs_certificate
    rows(user, "ALTER USER one@'%' REQUIRE NONE ACCOUNT LOCK")
    assert account(server, "one").is_locked
    assert not account(server, "one").needs_tls
    rows(user, "ALTER USER one@'%' ACCOUNT UNLOCK PASSWORD EXPIRE")
    assert account(server, "one").password_expired
    rows(user, "ALTER USER one@'%' IDENTIFIED BY 'x' PASSWORD EXPIRE INTERVAL 10 DAY")
    assert not account(server, "one").password_expired


def test_the_databases_that_an_account_opens_are_told_when_it_has_a_right_in_them(server: Cluster, user: Any) -> None:
    rows(user, "CREATE USER one@'%'")
    rows(user, "CREATE DATABASE a_b")
    assert account(server, "one").opens == ("information\\_schema",)
    rows(user, "GRANT SELECT ON `a\\_b`.* TO one@'%'")
    assert account(server, "one").opens == ("a\\_b", "information\\_schema")
    rows(user, "CREATE TABLE shop.t (id INT)")
    rows(user, "GRANT SELECT (id) ON shop.t TO one@'%'")
    assert account(server, "one").opens == ("a\\_b", "information\\_schema", "shop")
    rows(user, "DROP TABLE shop.t")


def test_the_databases_of_roles_are_told_when_they_are_granted_to_roles(server: Cluster, user: Any) -> None:
    for statement in (
        "CREATE USER one@'%'",
        "CREATE DATABASE other",
        "CREATE ROLE reader",
        "CREATE ROLE writer",
        "GRANT SELECT ON other.* TO reader",
        "GRANT reader TO writer",
        "GRANT writer TO one@'%'",
    ):
        rows(user, statement)
    assert "other" in account(server, "one").opens
    assert not {"reader", "writer"} & {one.user for one in known(server).accounts}


def test_nothing_changes_while_it_is_held_when_somebody_tries(server: Cluster, user: Any) -> None:
    tried = ["CREATE USER two@'%'", "CREATE DATABASE other", "ALTER USER one@'%' ACCOUNT LOCK", "DROP USER one@'%'"]
    rows(user, "CREATE USER one@'%'")
    for statement in tried:
        with server.connect() as other:
            held = _hold_until_waited_for(server, other, statement)
        assert held != known(server), statement


def _hold_until_waited_for(server: Cluster, other: Any, statement: str) -> Accounts:
    """Hold, have somebody try to change something, see that he waits, and let go."""

    async def hold() -> Accounts:
        held = await server.engine.hold_identities(server.folders)
        attempt = threading.Thread(target=rows, args=(other, statement))
        attempt.start()

        def waits() -> bool:
            with server.connect_as_admin() as admin:
                states = rows(admin, f"SELECT STATE FROM information_schema.PROCESSLIST WHERE ID = {other.thread_id()}")
            return "lock" in str(states)

        await asyncio.to_thread(wait_until, waits, "the other one waits")
        assert attempt.is_alive()
        await held.close()
        await asyncio.to_thread(attempt.join)
        return held.identities

    return asyncio.run(hold())


async def test_it_is_given_up_when_somebody_elses_statement_is_in_the_way(server: Cluster) -> None:
    with server.connect() as slow:
        rows(slow, "CREATE TABLE IF NOT EXISTS t (id INT)")
        rows(slow, "LOCK TABLES t WRITE")
        with pytest.raises(errors.EngineProblem):
            await server.engine.hold_identities(server.folders)
        rows(slow, "UNLOCK TABLES")
        rows(slow, "DROP TABLE t")


def test_what_was_held_is_kept_by_the_stop_when_the_engine_stops_meanwhile(server: Cluster) -> None:
    async def hold_and_stop() -> None:
        held = await server.engine.hold_identities(server.folders)
        await server.engine.checkpoint(server.folders)
        assert server.process is not None
        server.process.send_signal(server.engine.stop_signal)
        await asyncio.to_thread(server.process.wait, 60)
        await held.close()
        await held.close()

    asyncio.run(hold_and_stop())
    assert server.engine.ended_cleanly(server.folders)
    server.start()


def test_a_password_is_another_when_it_was_set(server: Cluster) -> None:
    try:
        new = server.engine.new_verifier(Secret("another"))
        asyncio.run(server.engine.set_password(server.folders, USER, new))
        with pytest.raises(pymysql.OperationalError):
            server.connect()
        with server.connect(password="another") as session:
            assert rows(session, "SELECT DATABASE()") == [(DATABASE,)]
        server.kill()
        server.start()
        server.connect(password="another").close()
    finally:
        asyncio.run(server.engine.set_password(server.folders, USER, server.verifier))
    with pytest.raises(errors.EngineProblem):
        asyncio.run(server.engine.set_password(server.folders, "nobody", server.verifier))
    with pytest.raises(ValueError, match="verifier"):
        asyncio.run(server.engine.set_password(server.folders, USER, PASSWORD))


def test_passwords_expire_by_their_age_when_they_have_a_lifetime() -> None:
    day = 86400
    assert not identities._is_expired({}, 10 * day, 5)
    assert identities._is_expired({"password_last_changed": 0}, 10 * day, 0)
    assert identities._is_expired({"password_last_changed": day}, 10 * day, 5)
    assert not identities._is_expired({"password_last_changed": day, "password_lifetime": 0}, 10 * day, 5)
    assert identities._is_expired({"password_last_changed": day, "password_lifetime": 9}, 10 * day, 0)
    assert not identities._is_expired({"password_last_changed": day, "password_lifetime": 10}, 10 * day, 0)
