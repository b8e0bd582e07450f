"""asyncmy and aiomysql, unchanged, through the endpoint."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import pytest

from clients.mariadb.shop import BYTES, HUGE, PROCEDURE, TEXT, Shop

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="session")


@pytest.fixture(scope="module", params=["asyncmy", "aiomysql"])
def driver(request: pytest.FixtureRequest) -> ModuleType:
    """The client."""
    found = pytest.importorskip(request.param)
    assert isinstance(found, ModuleType)
    return found


def told(shop: Shop, **more: Any) -> dict[str, Any]:
    """Answer where to connect and how, in the words that both have."""
    named = shop.told(charset="utf8mb4", autocommit=True, **more)
    return {("db" if name == "database" else name): value for name, value in named.items()}


@pytest.fixture
async def connection(driver: ModuleType, shop: Shop) -> AsyncIterator[Any]:
    """One session."""
    opened = await driver.connect(**told(shop))
    yield opened
    await opened.ensure_closed()


async def ask(connection: Any, sql: str, *values: Any) -> tuple[tuple[Any, ...], ...]:
    """Run one statement, answer its rows."""
    async with connection.cursor() as cursor:
        await cursor.execute(sql, values or None)
        return tuple(tuple(row) for row in await cursor.fetchall())


async def test_values_come_back_as_they_were_sent(connection: Any) -> None:
    await ask(connection, "CREATE TEMPORARY TABLE t (i BIGINT, s TEXT, b BLOB, n INT)")
    # In hexadecimal digits: not every aiomysql can quote bytes with every PyMySQL.
    await ask(connection, "INSERT INTO t VALUES (%s, %s, UNHEX(%s), %s)", 2**62, TEXT, BYTES.hex(), None)
    assert await ask(connection, "SELECT * FROM t") == ((2**62, TEXT, BYTES, None),)


async def test_result_of_20_megabytes_arrives_whole_when_it_is_streamed(driver: ModuleType, connection: Any) -> None:
    received = 0
    async with connection.cursor(driver.cursors.SSCursor) as cursor:
        await cursor.execute("SELECT seq, REPEAT('x', 50000) FROM seq_1_to_400")
        while rows := await cursor.fetchmany(50):
            received += sum(len(text) for _number, text in rows)
    assert received == 20_000_000


async def test_value_of_20_megabytes_arrives_whole(connection: Any) -> None:
    # It does not come back: asyncmy loses a row that takes two packets.
    assert await ask(connection, "SELECT MD5(%s)", HUGE.decode()) == ((hashlib.md5(HUGE).hexdigest(),),)


async def test_procedure_answers_several_results_and_its_parameters(driver: ModuleType, connection: Any) -> None:
    name = f"of_{driver.__name__}"
    await ask(connection, PROCEDURE.format(name=name))
    async with connection.cursor() as cursor:
        await cursor.callproc(name, (21, 0, 7))
        first = await cursor.fetchall()
        assert await cursor.nextset()
        second = await cursor.fetchall()
        await cursor.nextset()
    assert [tuple(map(tuple, rows)) for rows in (first, second)] == [((21,),), ((1,), (2,), (3,))]
    assert await ask(connection, f"SELECT @_{name}_1, @_{name}_2") == ((42, 8),)


async def test_pool_serves_more_callers_than_it_has_sessions(driver: ModuleType, shop: Shop) -> None:
    async with driver.create_pool(minsize=2, maxsize=5, **told(shop)) as pool:

        async def call(n: int) -> Any:
            async with pool.acquire() as connection:
                return await ask(connection, "SELECT %s", n)

        assert await asyncio.gather(*(call(n) for n in range(100))) == [((n,),) for n in range(100)]


async def test_pool_gives_another_session_when_one_was_killed(
    driver: ModuleType, shop: Shop, connection: Any, settle: Callable[[], None]
) -> None:
    async with driver.create_pool(minsize=1, maxsize=1, **told(shop)) as pool:
        async with pool.acquire() as pooled:
            [[killed]] = await ask(pooled, "SELECT CONNECTION_ID()")
        await ask(connection, "KILL CONNECTION %s", killed)
        settle()
        async with asyncio.timeout(30), pool.acquire() as pooled:
            await pooled.ping()
            assert await ask(pooled, "SELECT CONNECTION_ID() <> %s", killed) == ((1,),)


async def test_transactions_of_two_sessions_are_apart(driver: ModuleType, shop: Shop, connection: Any) -> None:
    await ask(connection, "CREATE OR REPLACE TABLE apart (n INT)")
    other = await driver.connect(**told(shop))
    await other.begin()
    await ask(other, "INSERT INTO apart VALUES (1)")
    assert await ask(connection, "SELECT COUNT(*) FROM apart") == ((0,),)
    await other.rollback()
    await ask(other, "INSERT INTO apart VALUES (2)")
    assert await ask(connection, "SELECT n FROM apart") == ((2,),)
    await other.ensure_closed()


async def test_session_keeps_what_it_has_over_a_freeze(connection: Any, settle: Callable[[], None]) -> None:
    await ask(connection, "CREATE TEMPORARY TABLE mine AS SELECT seq FROM seq_1_to_1000")
    await ask(connection, "SET @mine = 'žluť', SESSION sort_buffer_size = 123456")
    for _ in range(2):
        settle()
        found = await ask(connection, "SELECT COUNT(*), @mine, @@sort_buffer_size FROM mine")
        assert found == ((1000, "žluť", 123456),)


async def test_prepared_statement_is_used_again(shop: Shop, settle: Callable[[], None]) -> None:
    asyncmy = pytest.importorskip("asyncmy")
    connection = await asyncmy.connect(**told(shop))
    async with await connection.prepare("SELECT ? + 1, ?") as statement:
        for n in range(4):
            settle()
            assert (await statement.execute((n, TEXT))).rows == ((n + 1, TEXT),)
    await connection.ensure_closed()
