"""asyncpg, unchanged, through the endpoint."""

import asyncio
import io
from collections.abc import AsyncIterator

import asyncpg
import pytest

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="module")


@pytest.fixture
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    """One session."""
    opened = await asyncpg.connect(url)
    yield opened
    await opened.close()


async def test_values_come_back_as_they_were_sent(connection: asyncpg.Connection) -> None:
    values = (1, 2.5, "žluťoučký kůň", b"\0\xff" * 1000, [1, None, 3])
    row = await connection.fetchrow("SELECT $1::int, $2::float8, $3::text, $4::bytea, $5::int[]", *values)
    assert tuple(row) == values


async def test_rows_are_the_same_when_copied_in_and_out(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TEMP TABLE t (n int, t text)")
    rows = [(n, f"row {n}") for n in range(20000)]
    assert await connection.copy_records_to_table("t", records=rows) == "COPY 20000"
    out = io.BytesIO()
    await connection.copy_from_table("t", output=out, format="csv")
    out.seek(0)
    await connection.execute("CREATE TEMP TABLE again (LIKE t)")
    await connection.copy_to_table("again", source=out, format="csv")
    assert [tuple(row) for row in await connection.fetch("SELECT * FROM again ORDER BY n")] == rows


async def test_listener_is_notified_when_another_session_notifies(connection: asyncpg.Connection, url: str) -> None:
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        heard.set_result(str(payload))

    await connection.add_listener("news", hear)
    notifier = await asyncpg.connect(url)
    await notifier.execute("NOTIFY news, 'good'")
    async with asyncio.timeout(30):
        assert await heard == "good"
    await notifier.close()


async def test_large_object_is_read_as_it_was_written(connection: asyncpg.Connection) -> None:
    content = bytes(range(256)) * 8192
    oid = await connection.fetchval("SELECT lo_from_bytea(0, $1)", content)
    assert await connection.fetchval("SELECT lo_get($1)", oid) == content


async def test_result_of_100_megabytes_arrives_whole(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch("SELECT repeat('x', 1048576) AS t FROM generate_series(1, 100)")
    assert sum(len(row["t"]) for row in rows) == 100 * 1024 * 1024


async def test_prepared_statement_is_used_again(connection: asyncpg.Connection) -> None:
    statement = await connection.prepare("SELECT $1::int * 2")
    assert [await statement.fetchval(n) for n in range(50)] == [2 * n for n in range(50)]


async def test_many_rows_are_inserted_in_one_pipeline(connection: asyncpg.Connection) -> None:
    await connection.execute("CREATE TEMP TABLE t (n int)")
    await connection.executemany("INSERT INTO t VALUES ($1)", [(n,) for n in range(5000)])
    assert await connection.fetchval("SELECT sum(n) FROM t") == 12497500


async def test_cursor_fetches_in_parts(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("SELECT generate_series(1, 1000) AS n", prefetch=50):
            total += row["n"]
    assert total == 500500


async def test_only_the_query_ends_when_its_time_is_up(connection: asyncpg.Connection) -> None:
    with pytest.raises(TimeoutError):
        await connection.fetch("SELECT pg_sleep(100)", timeout=0.2)
    assert await connection.fetchval("SELECT 1") == 1


async def test_pool_serves_more_callers_than_it_has_sessions(url: str) -> None:
    async with asyncpg.create_pool(url, min_size=2, max_size=5) as pool:
        found = await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(200)))
    assert found == list(range(200))
