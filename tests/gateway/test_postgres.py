"""Real clients and a real PostgreSQL on either side of the gateway, attached in either way."""

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psycopg
import pytest

from bare_postgres import initialised
from gateway.fakes import FakeEndpoint, FakeKeep, RunningGateway, connected, eventually, free_port, running, startup
from zorya.core import errors
from zorya.core.model import Address, Entrance, Handoff
from zorya.core.settings import Settings
from zorya.engines import handoff
from zorya.engines.postgres import installations
from zorya.gateway.attach import Way

ACCESS = """\
local all all reject
host all all 127.0.0.2/32 reject
host all all all trust
"""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A running PostgreSQL that trusts every client but those from 127.0.0.2."""

    address: Address
    inlet: Path | None
    problem: str
    """Why there is no inlet."""

    def entrance(self, way: Way) -> Entrance:
        inlet = self.inlet if way is Way.HANDOFF else None
        return Entrance(address=self.address, handoff=Handoff(inlet=inlet, reason="The test says so."))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Engine]:
    """As Zorya starts it, with the handoff library if that was built. It takes clients over TCP as well."""
    found = installations.find(None)
    if not found:
        pytest.skip("no PostgreSQL is installed")
    library = handoff.examine()
    with initialised(found[0]) as bare:
        folders, port = bare.folders, free_port()
        environment: Mapping[str, str] = {}
        (folders.root / "pg_hba.conf").write_text(ACCESS)
        if library.path is not None:
            # Where the engine's account can read it.
            copy = Path(shutil.copy(library.path, folders.root / "handoff.so"))
            copy.chmod(0o755)
            environment = handoff.environment(
                copy, folders=folders, listener=str(folders.given_up / f".s.PGSQL.{port}")
            )
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(folders.given_up),
            "hba_file": str(folders.root / "pg_hba.conf"),
        }
        with bare.running(port, options, environment):
            yield Engine(
                address=Address(host="127.0.0.1", port=port),
                inlet=folders.inlet if library.path else None,
                problem=library.reason,
            )


@pytest.fixture
def entrance(postgres: Engine, way: Way) -> Entrance:
    if way is Way.HANDOFF and postgres.inlet is None:
        pytest.skip(postgres.problem)
    return postgres.entrance(way)


@pytest.fixture
def endpoint() -> FakeEndpoint:
    """A sleeping cluster whose engine does no TLS: the gateway does it."""
    endpoint = FakeEndpoint("shop")
    endpoint.speaks_tls = endpoint.speaks_direct_tls = False
    return endpoint


def connection_string(port: int, **more: str) -> str:
    told = {"host": "127.0.0.1", "user": "postgres", "dbname": "postgres", "sslmode": "disable", **more}
    return psycopg.conninfo.make_conninfo(port=port, **told)


@pytest.fixture
async def port(gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance) -> int:
    endpoint.runs(entrance)
    return gateway.open(endpoint)


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
async def test_psycopg_is_served(port: int, sslmode: str) -> None:
    async with await psycopg.AsyncConnection.connect(connection_string(port, sslmode=sslmode)) as connection:
        cursor = await connection.execute("select 6 * 7")
        assert await cursor.fetchone() == (42,)


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
async def test_psycopg_is_served_when_the_cluster_sleeps(
    gateway: RunningGateway, endpoint: FakeEndpoint, entrance: Entrance, sslmode: str
) -> None:
    endpoint.starts(entrance)
    conninfo = connection_string(gateway.open(endpoint), sslmode=sslmode)
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        cursor = await connection.execute("select 6 * 7")
        assert await cursor.fetchone() == (42,)
    assert endpoint.wakes == 1


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


async def test_copy_goes_in_and_out(port: int) -> None:
    block = "".join(f"{number}\t{'x' * 100}\n" for number in range(1000)).encode()
    async with (
        await psycopg.AsyncConnection.connect(connection_string(port)) as connection,
        connection.cursor() as cursor,
    ):
        await cursor.execute("create temporary table t (n int, s text)")
        async with cursor.copy("copy t from stdin") as copy:
            for _ in range(50):
                await copy.write(block)
        async with cursor.copy("copy t to stdout") as copy:
            received = b"".join([bytes(data) async for data in copy])
    assert received == block * 50


async def test_query_is_cancelled_through_the_gateway(port: int, postgres: Engine) -> None:
    async with await psycopg.AsyncConnection.connect(connection_string(port)) as connection:
        query = asyncio.create_task(connection.execute("select pg_sleep(60)"), name="query")
        await query_runs(postgres, connection.info.backend_pid)
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await query


async def query_runs(postgres: Engine, pid: int) -> None:
    """Wait until this session is in `pg_sleep`."""
    async with await psycopg.AsyncConnection.connect(
        connection_string(postgres.address.port), autocommit=True
    ) as observer:
        found = None
        while found is None:
            cursor = await observer.execute(
                "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'", [pid]
            )
            found = await cursor.fetchone()


@pytest.mark.parametrize("sslmode", ["disable", "require"])
class TestOnePlace:
    """A gateway that takes no more than one client."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(max_clients=1, attach="relay")

    async def test_query_is_cancelled_when_all_places_are_taken(
        self, gateway: RunningGateway, endpoint: FakeEndpoint, postgres: Engine, sslmode: str
    ) -> None:
        endpoint.runs(postgres.entrance(Way.RELAY))
        conninfo = connection_string(gateway.open(endpoint), sslmode=sslmode)
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            query = asyncio.create_task(connection.execute("select pg_sleep(60)"), name="query")
            await query_runs(postgres, connection.info.backend_pid)
            await connection.cancel_safe()
            with pytest.raises(psycopg.errors.QueryCanceled):
                await query


async def test_last_message_of_the_engine_arrives_when_it_ends_the_session(
    port: int, endpoint: FakeEndpoint, way: Way
) -> None:
    connection = await psycopg.AsyncConnection.connect(connection_string(port), autocommit=True)
    with pytest.raises(psycopg.errors.AdminShutdown):
        await connection.execute("select pg_terminate_backend(pg_backend_pid())")
    await connection.close()
    await eventually(lambda: endpoint.ended == (way is Way.RELAY), "a relayed session's end is noted")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_engine_knows_where_the_client_comes_from_when_it_is_handed_over(
    postgres: Engine, endpoint: FakeEndpoint, keep: FakeKeep, host: str
) -> None:
    if postgres.inlet is None:
        pytest.skip(postgres.problem)
    endpoint.runs(postgres.entrance(Way.HANDOFF))
    async with running(Settings(bind=["127.0.0.1", "::1"]), keep=keep) as gateway:
        try:
            conninfo = connection_string(gateway.open(endpoint), host=host)
        except errors.InvalidSetting as error:
            pytest.skip(f"no IPv6 here: {error}")
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            with socket.socket(fileno=os.dup(connection.fileno())) as own:
                address = own.getsockname()[:2]
            cursor = await connection.execute(
                "select host(client_addr), client_port from pg_stat_activity where pid = pg_backend_pid()"
            )
            assert await cursor.fetchone() == address
            assert address[0] == host


async def test_rule_about_an_address_works_when_clients_are_handed_over(
    gateway: RunningGateway, endpoint: FakeEndpoint, postgres: Engine
) -> None:
    if postgres.inlet is None:
        pytest.skip(postgres.problem)
    endpoint.runs(postgres.entrance(Way.HANDOFF))
    port = gateway.open(endpoint)
    said = {}
    for source in ("127.0.0.1", "127.0.0.2"):
        async with connected(port, source=source) as client:
            client.send(startup(user="postgres"))
            said[source] = await client.read(1)
            if said[source] == b"E":
                rest = await client.read_to_end()
                assert b'pg_hba.conf rejects connection for host "127.0.0.2"' in rest
    assert said == {"127.0.0.1": b"R", "127.0.0.2": b"E"}


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
async def test_libpq_shows_the_sentence_when_the_start_fails(
    gateway: RunningGateway, endpoint: FakeEndpoint, sslmode: str
) -> None:
    endpoint.fails(errors.StartFailed("x", client_message="The engine of shop could not start."))
    with pytest.raises(psycopg.OperationalError, match=r"FATAL:  The engine of shop could not start\."):
        await psycopg.AsyncConnection.connect(connection_string(gateway.open(endpoint), sslmode=sslmode))


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
async def test_libpq_shows_the_sentence_when_an_engine_that_was_up_takes_no_connections(
    gateway: RunningGateway, endpoint: FakeEndpoint, sslmode: str
) -> None:
    nobody = Address(host="127.0.0.1", port=free_port())
    endpoint.runs(Entrance(address=nobody, handoff=Handoff(inlet=None, reason="The test says so.")))
    with pytest.raises(psycopg.OperationalError, match=r"FATAL:  The engine of shop runs but takes no connections\."):
        await psycopg.AsyncConnection.connect(connection_string(gateway.open(endpoint), sslmode=sslmode))


async def test_asyncpg_raises_the_right_class_when_the_engine_is_late(
    gateway: RunningGateway, endpoint: FakeEndpoint
) -> None:
    endpoint.fails(errors.WakeTimeout("The engine of shop was not ready in 30 s."))
    with pytest.raises(asyncpg.CannotConnectNowError, match="not ready in 30 s"):
        await asyncpg.connect(
            host="127.0.0.1", port=gateway.open(endpoint), user="postgres", database="postgres", timeout=20
        )
