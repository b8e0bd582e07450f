"""Real clients and a real PostgreSQL on either side of the gateway."""

import asyncio
import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from gateway.fakes import FakeEndpoint, RunningGateway, eventually, free_port
from zorya.core import errors
from zorya.core.model import Address

PG_CTL_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
SYSTEM_USER = "zorya"


def run_as_ordinary_user(*command: str | Path) -> None:
    """Run a program of PostgreSQL, which refuses to work for root."""
    user = SYSTEM_USER if os.geteuid() == 0 else None
    group = pwd.getpwnam(user).pw_gid if user else None
    subprocess.run(
        command,
        user=user,
        group=group,
        extra_groups=[] if user else None,
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator[Address]:
    """A running PostgreSQL that trusts everyone on the loopback interface."""
    pg_ctl = next(iter(PG_CTL_PLACES), None) or shutil.which("pg_ctl")
    if pg_ctl is None:
        pytest.skip("no PostgreSQL is installed")
    if os.geteuid() == 0 and SYSTEM_USER not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip(f"as root this needs a system user {SYSTEM_USER}")
    folder = Path(tempfile.mkdtemp(prefix="zorya-gateway-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, SYSTEM_USER)
    address = Address(host="127.0.0.1", port=free_port())
    data = folder / "data"
    options = f"-p {address.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        run_as_ordinary_user(pg_ctl, "init", "-D", data, "-o", "-U postgres -A trust --no-sync")
        run_as_ordinary_user(pg_ctl, "start", "-w", "-D", data, "-l", folder / "log", "-o", options)
        cleanup.callback(run_as_ordinary_user, pg_ctl, "stop", "-D", data, "-m", "immediate")
        yield address


def connection_string(port: int, **more: str) -> str:
    return psycopg.conninfo.make_conninfo(host="127.0.0.1", port=port, user="postgres", dbname="postgres", **more)


@pytest.fixture
async def port(gateway: RunningGateway, endpoint: FakeEndpoint, postgres: Address) -> int:
    endpoint.serve_at(postgres)
    return gateway.open(endpoint)


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
async def test_psycopg_is_served(port: int, sslmode: str) -> None:
    async with await psycopg.AsyncConnection.connect(connection_string(port, sslmode=sslmode)) as connection:
        cursor = await connection.execute("select 6 * 7")
        assert await cursor.fetchone() == (42,)


async def test_asyncpg_is_served(port: int) -> None:
    connection = await asyncpg.connect(host="127.0.0.1", port=port, user="postgres", database="postgres")
    assert await connection.fetchval("select 6 * 7") == 42
    await connection.close()


async def test_large_results_and_large_input_arrive_whole(port: int) -> None:
    text = "zorya" * 1_000_000
    async with await psycopg.AsyncConnection.connect(connection_string(port)) as connection:
        cursor = await connection.execute("select %s, repeat('x', 20000000)", [text])
        row = await cursor.fetchone()
    assert row == (text, "x" * 20_000_000)


async def test_query_is_cancelled_through_the_gateway(port: int, postgres: Address) -> None:
    async with (
        await psycopg.AsyncConnection.connect(connection_string(port)) as connection,
        await psycopg.AsyncConnection.connect(connection_string(postgres.port), autocommit=True) as observer,
    ):
        query = asyncio.create_task(connection.execute("select pg_sleep(60)"), name="query")
        pid = connection.info.backend_pid
        found = None
        while found is None:
            cursor = await observer.execute(
                "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'", [pid]
            )
            found = await cursor.fetchone()
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await query


async def test_last_message_of_the_engine_arrives_when_it_ends_the_session(
    port: int, postgres: Address, endpoint: FakeEndpoint
) -> None:
    connection = await psycopg.AsyncConnection.connect(connection_string(port), autocommit=True)
    with pytest.raises(psycopg.errors.AdminShutdown):
        await connection.execute("select pg_terminate_backend(pg_backend_pid())")
    await connection.close()
    await eventually(lambda: endpoint.present == 0, "the client is counted out")


@pytest.mark.parametrize("sslmode", ["disable", "prefer"])
async def test_libpq_shows_the_sentence_when_the_start_fails(
    gateway: RunningGateway, endpoint: FakeEndpoint, sslmode: str
) -> None:
    endpoint.fail(errors.StartFailed("x", client_message="The engine of shop could not start."))
    with pytest.raises(psycopg.OperationalError, match=r"FATAL:  The engine of shop could not start\."):
        await psycopg.AsyncConnection.connect(connection_string(gateway.open(endpoint), sslmode=sslmode))


async def test_libpq_is_refused_when_it_insists_on_tls(port: int, endpoint: FakeEndpoint) -> None:
    with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
        await psycopg.AsyncConnection.connect(connection_string(port, sslmode="require"))
    assert endpoint.wakes == 0


async def test_asyncpg_raises_the_right_class_when_the_engine_is_late(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    endpoint.fail(errors.WakeTimeout("The engine of shop was not ready in 30 s."))
    with pytest.raises(asyncpg.CannotConnectNowError, match="not ready in 30 s"):
        await asyncpg.connect(
            host="127.0.0.1", port=gateway.open(endpoint), user="postgres", database="postgres", timeout=20
        )
