"""Who may log in: known from the first moment, read from a running engine, and kept from changing."""

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from engines.base_cluster import DATABASE, USER
from engines.clusters import Cluster, Workshop
from waiting import wait_until
from zorya.core import errors, failpoints
from zorya.core.identity import Database, Identities, Role, from_json
from zorya.core.model import Secret
from zorya.engines.postgres import admin, identities

CHANGES = (
    "CREATE ROLE newcomer",
    "ALTER ROLE guest NOLOGIN",
    "ALTER ROLE guest PASSWORD 'x'",
    "ALTER ROLE guest CONNECTION LIMIT 1",
    "ALTER ROLE guest VALID UNTIL 'infinity'",
    "ALTER ROLE guest RENAME TO visitor",
    "DROP ROLE guest",
    "CREATE DATABASE newcomer",
    "ALTER DATABASE guesthouse CONNECTION LIMIT 1",
    "ALTER DATABASE guesthouse ALLOW_CONNECTIONS false",
    "ALTER DATABASE guesthouse RENAME TO inn",
    "ALTER DATABASE guesthouse OWNER TO zorya",
    "DROP DATABASE guesthouse",
)


def parse(text: str) -> Identities:
    """Answer the identities that a file has."""
    found = from_json(text)
    assert isinstance(found, Identities)
    return found


USUAL = Role(verifier=None, may_log_in=True, is_superuser=False, connection_limit=-1, valid_until=None)


def read(cluster: Cluster) -> Identities:
    async def hold() -> Identities:
        held = await cluster.engine.hold_identities(cluster.folders)
        await held.close()
        return held.identities

    return asyncio.run(hold())


@contextlib.contextmanager
def guest(cluster: Cluster) -> Iterator[psycopg.Connection]:
    """A role and a database to be changed, and who may change them."""
    with cluster.connect_as_admin() as session:
        session.execute("CREATE ROLE guest LOGIN")
        session.execute("CREATE DATABASE guesthouse")
        try:
            yield session
        finally:
            session.execute("DROP DATABASE guesthouse")
            session.execute("DROP ROLE guest")


def test_identities_of_a_new_cluster_are_those_that_its_engine_then_has(running: Cluster) -> None:
    first = parse(running.folders.identities.read_text())
    assert read(running) == replace(first, stamp="")
    assert first.roles == {USER: replace(USUAL, verifier=running.verifier)}
    assert {name: one.allows_connections for name, one in first.databases.items()} == {
        DATABASE: True,
        "postgres": True,
        "template1": True,
        "template0": False,
    }


def test_identities_of_a_new_cluster_can_be_read_by_zorya_alone(cluster: Cluster) -> None:
    found = cluster.folders.identities.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_uid == os.geteuid()


def test_clusters_of_one_template_have_nonces_and_identifiers_of_their_own(
    cluster: Cluster, workshop: Workshop
) -> None:
    sibling = workshop.make(f"twin{cluster.major}", cluster.instance.installation.major)
    contents = [(one.folders.data / "global" / "pg_control").read_bytes() for one in (cluster, sibling)]
    assert contents[0][:8] != contents[1][:8]
    nonces = [parse(one.folders.identities.read_text()).mock_nonce for one in (cluster, sibling)]
    assert nonces[0] != nonces[1]
    assert [len(nonce) for nonce in nonces] == [32, 32]


def test_building_again_makes_a_whole_cluster_when_it_was_interrupted_before_the_data_appeared(
    cluster: Cluster, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(failpoints._actions(), "create.identities", "enospc")
        with pytest.raises(errors.DiskFull):
            workshop.make(f"torn{cluster.major}", cluster.instance.installation.major)
    torn = workshop.make(f"torn{cluster.major}", cluster.instance.installation.major)
    torn.start()
    try:
        assert read(torn) == replace(parse(torn.folders.identities.read_text()), stamp="")
        torn.connect().close()
    finally:
        torn.kill()


def test_nothing_is_made_when_what_should_be_a_verifier_is_a_password(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="not a SCRAM-SHA-256 verifier"):
        asyncio.run(cluster.engine.build(cluster.instance, Secret("hunter2")))


def test_everything_that_decides_on_a_login_is_read(running: Cluster) -> None:
    long_ago = datetime.min.replace(tzinfo=UTC)
    roles = {
        "limited": ("LOGIN CONNECTION LIMIT 3", replace(USUAL, connection_limit=3)),
        "barred": ("NOLOGIN", replace(USUAL, may_log_in=False)),
        "mighty": ("LOGIN SUPERUSER", replace(USUAL, is_superuser=True)),
        "timed": (
            "LOGIN VALID UNTIL '2031-02-03 04:05:06.789012+00'",
            replace(USUAL, valid_until=datetime(2031, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)),
        ),
        "endless": ("LOGIN VALID UNTIL 'infinity'", USUAL),
        "far": ("LOGIN VALID UNTIL '20000-01-01'", USUAL),
        "never": ("LOGIN VALID UNTIL '-infinity'", replace(USUAL, valid_until=long_ago)),
        "ancient": ("LOGIN VALID UNTIL '0044-03-15 BC'", replace(USUAL, valid_until=long_ago)),
        'quo"ted ü': ("LOGIN", USUAL),
        "pgadmin": ("LOGIN", USUAL),
    }
    with running.connect_as_admin() as session:
        try:
            for name, (options, _) in roles.items():
                session.execute(sql.SQL("CREATE ROLE {} " + options).format(sql.Identifier(name)))
            session.execute("CREATE ROLE old LOGIN PASSWORD 'md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'")
            session.execute("CREATE DATABASE closed ALLOW_CONNECTIONS false CONNECTION LIMIT 7")
            found = read(running)
        finally:
            for name in (*roles, "old"):
                session.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
            session.execute("DROP DATABASE IF EXISTS closed")
    expected = {name: role for name, (_, role) in roles.items()}
    expected["old"] = replace(USUAL, verifier=Secret("md5" + 32 * "a"))
    assert {name: role for name, role in found.roles.items() if name != USER} == expected
    assert found.databases["closed"] == Database(allows_connections=False, connection_limit=7)
    assert parse(found.to_json()) == found


def test_name_that_is_not_utf8_is_read_as_its_bytes(running: Cluster) -> None:
    with running.connect_as_admin() as session:
        session.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        socket = str(running.folders.socket)
        with running.connect(host=socket, user="zorya_admin", dbname="latin", client_encoding="LATIN1") as other:
            other.execute('CREATE ROLE "caf\xe9"')
            try:
                found = read(running)
            finally:
                other.execute('DROP ROLE "caf\xe9"')
        session.execute("DROP DATABASE latin WITH (FORCE)")
    assert "caf\udce9" in found.roles
    assert parse(found.to_json()) == found


async def test_nothing_that_decides_changes_while_it_is_held(running: Cluster) -> None:
    with guest(running) as session:
        session.execute("SET lock_timeout = '100ms'")
        held = await running.engine.hold_identities(running.folders)
        for change in CHANGES:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                session.execute(change)
        # Who only logs in is not kept waiting.
        running.connect().close()
        await held.close()
        await held.close()
        session.execute("ALTER ROLE guest CONNECTION LIMIT 1")
        session.execute("ALTER DATABASE guesthouse CONNECTION LIMIT 1")


def test_holding_fails_when_somebody_is_changing_a_role(running: Cluster) -> None:
    with running.connect_as_admin(autocommit=False) as session:
        session.execute("CREATE ROLE half_made")
        with pytest.raises(errors.EngineProblem, match="lock timeout"):
            read(running)
        session.rollback()
    assert "half_made" not in read(running).roles


async def test_what_holds_is_no_session_and_does_not_keep_from_resting(running: Cluster) -> None:
    watcher = running.engine.watcher(running.folders)
    assert running.process is not None
    first = running.process.pid
    held = await running.engine.hold_identities(running.folders)
    try:
        seen = await watcher.observe(frozenset(), first)
        assert seen.clients == set()
        assert "session" not in seen.busy
        assert seen.idle_s is None
        for options in ({"application_name": "psql"}, {}):
            with running.connect_as_admin(**options) as person:
                assert (await watcher.observe(frozenset(), first)).clients == {person.info.backend_pid}
        # The name alone makes nobody Zorya.
        with running.connect(application_name=admin.APPLICATION) as impostor:
            assert (await watcher.observe(frozenset(), first)).clients == {impostor.info.backend_pid}
    finally:
        await held.close()
        await watcher.close()


async def test_engine_stops_cleanly_while_its_identities_are_held(running: Cluster) -> None:
    mark = running.log_mark()
    held = await running.engine.hold_identities(running.folders)
    await asyncio.to_thread(running.stop)
    await held.close()
    assert "database system is shut down" in running.log(mark)


async def test_holding_fails_when_the_engine_is_gone(running: Cluster) -> None:
    lock = running.folders.data / "postmaster.pid"
    left = lock.read_text()
    await asyncio.to_thread(running.stop)
    with pytest.raises(errors.EngineProblem):
        await running.engine.hold_identities(running.folders)
    # As a crash leaves it.
    lock.write_text(left)
    with pytest.raises(errors.EngineProblem):
        await running.engine.hold_identities(running.folders)
    lock.unlink()


async def test_open_transaction_survives_defaults_that_would_end_it(running: Cluster) -> None:
    defaults = ["idle_in_transaction_session_timeout", *(["transaction_timeout"] if running.major >= 17 else [])]
    with running.connect_as_admin() as session:
        for name in defaults:
            session.execute(sql.SQL("ALTER ROLE zorya_admin SET {} = '500ms'").format(sql.Identifier(name)))
        held = await running.engine.hold_identities(running.folders)
        try:
            other = running.connect_as_admin(autocommit=False)
            other.execute("SELECT 1")
            wait_until(lambda: other.info.backend_pid not in open_transactions(session), "one that came later is ended")
            other.close()
            assert len(open_transactions(session)) == 1
        finally:
            await held.close()
            for name in defaults:
                session.execute(sql.SQL("ALTER ROLE zorya_admin RESET {}").format(sql.Identifier(name)))


def open_transactions(session: psycopg.Connection) -> list[int]:
    """Answer the processes of all sessions that wait within a transaction."""
    rows = session.execute("SELECT pid FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'").fetchall()
    return [pid for (pid,) in rows]


@pytest.mark.parametrize(
    ("epoch_s", "expected"),
    [
        (None, None),
        (0.0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1.5, datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)),
        (float("inf"), None),
        (float("-inf"), datetime.min.replace(tzinfo=UTC)),
        (1e13, None),
        (-1e13, datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_point_in_time_is_pythons_or_never_or_long_ago(epoch_s: float | None, expected: datetime | None) -> None:
    assert identities.moment(epoch_s) == expected


def test_point_in_time_keeps_microseconds() -> None:
    at = datetime(2099, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert identities.moment((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)) == at
