"""PyMySQL, unchanged, through the endpoint."""

import datetime
import decimal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pymysql
import pytest
from pymysql.constants import CLIENT, ER

from clients.mariadb.shop import (
    BYTES,
    HUGE,
    ODD_DATABASE,
    ODD_PASSWORD,
    ODD_TABLE,
    ODD_USER,
    PROCEDURE,
    TEXT,
    Shop,
    quoted,
)
from waiting import wait_until

Connection: TypeAlias = "pymysql.Connection[Any]"


@pytest.fixture
def connection(shop: Shop) -> Iterator[Connection]:
    """A session that commits by itself."""
    with connect(shop, autocommit=True) as opened:
        yield opened


def connect(shop: Shop, **more: Any) -> Connection:
    """Open a session without TLS."""
    return pymysql.connect(**shop.told(ssl_disabled=True, charset="utf8mb4", **more))


def ask(connection: Connection, sql: str, *values: Any) -> tuple[tuple[Any, ...], ...]:
    """Run one statement, answer its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return tuple(cursor.fetchall())


def test_values_come_back_as_they_were_sent(connection: Connection) -> None:
    ask(connection, "CREATE TEMPORARY TABLE t (i BIGINT, d DECIMAL(20, 5), s TEXT, b BLOB, w DATE, n INT)")
    values = (2**62, decimal.Decimal("-1.50000"), TEXT, BYTES, datetime.date(2024, 2, 29), None)
    ask(connection, "INSERT INTO t VALUES (%s, %s, %s, _binary %s, %s, %s)", *values)
    assert ask(connection, "SELECT * FROM t") == (values,)


def test_transaction_is_kept_when_it_commits_and_undone_when_it_is_rolled_back(shop: Shop) -> None:
    with connect(shop) as connection:
        ask(connection, "CREATE OR REPLACE TABLE kept (n INT PRIMARY KEY)")
        ask(connection, "INSERT INTO kept VALUES (1)")
        connection.commit()
        ask(connection, "INSERT INTO kept VALUES (2)")
        with pytest.raises(pymysql.err.IntegrityError):
            ask(connection, "INSERT INTO kept VALUES (1)")
        connection.rollback()
        assert ask(connection, "SELECT n FROM kept") == ((1,),)


def test_result_of_100_megabytes_arrives_whole_when_it_is_streamed(connection: Connection) -> None:
    with connection.cursor(pymysql.cursors.SSCursor) as cursor:
        cursor.execute("SELECT seq, REPEAT('x', 50000) FROM seq_1_to_2000")
        received = 0
        for expected, (number, text) in enumerate(cursor.fetchall_unbuffered(), 1):
            assert number == expected
            received += len(text)
    assert received == 100_000_000


def test_value_of_20_megabytes_goes_there_and_back(connection: Connection) -> None:
    [[returned]] = ask(connection, "SELECT _binary %s", HUGE)
    assert returned == HUGE


def test_procedure_answers_several_results_and_its_parameters(connection: Connection) -> None:
    ask(connection, PROCEDURE.format(name="of_pymysql"))
    with connection.cursor() as cursor:
        cursor.callproc("of_pymysql", (21, 0, 7))
        results = [cursor.fetchall()]
        while cursor.nextset():
            results.append(cursor.fetchall())
    assert results[:2] == [((21,),), ((1,), (2,), (3,))]
    assert ask(connection, "SELECT @_of_pymysql_1, @_of_pymysql_2") == ((42, 8),)


def test_several_statements_go_in_one(shop: Shop) -> None:
    with connect(shop, client_flag=CLIENT.MULTI_STATEMENTS) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1; SET @a = 2; SELECT @a; SELEKT")
        assert cursor.fetchall() == ((1,),)
        assert cursor.nextset()
        assert cursor.nextset()
        assert cursor.fetchall() == ((2,),)
        with pytest.raises(pymysql.err.ProgrammingError, match="SELEKT"):
            cursor.nextset()


def test_several_statements_are_refused_when_the_client_has_not_asked_for_it(connection: Connection) -> None:
    with pytest.raises(pymysql.err.ProgrammingError):
        ask(connection, "SELECT 1; SELECT 2")


def test_rows_are_loaded_from_the_clients_file(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text("".join(f"{n}\trow {n} \N{HORSE}\n" for n in range(20000)))
    with connect(shop, local_infile=True) as connection:
        ask(connection, "CREATE TEMPORARY TABLE loaded (n INT, t TEXT)")
        ask(connection, "LOAD DATA LOCAL INFILE %s INTO TABLE loaded CHARACTER SET utf8mb4", str(file))
        assert ask(connection, "SELECT SUM(n), COUNT(*), MAX(t) FROM loaded") == ((199990000, 20000, "row 9999 🐎"),)


def test_session_is_of_latin1_when_the_client_says_so(shop: Shop) -> None:
    with pymysql.connect(**shop.told(ssl_disabled=True, charset="latin1")) as connection:
        found = ask(connection, "SELECT @@character_set_client, 'é', HEX(CONVERT('é' USING utf8mb4))")
    assert found == (("latin1", "é", "C3A9"),)


def test_names_may_have_quotes_and_any_letters(shop: Shop, connection: Connection) -> None:
    ask(connection, f"CREATE OR REPLACE DATABASE {quoted(ODD_DATABASE)}")
    ask(connection, "CREATE OR REPLACE USER %s@'%%' IDENTIFIED BY %s", ODD_USER, ODD_PASSWORD)
    try:
        granted = quoted(ODD_DATABASE.replace("%", "\\%")).replace("%", "%%")
        ask(connection, f"GRANT ALL ON {granted}.* TO %s@'%%'", ODD_USER)
        with connect(shop, user=ODD_USER, password=ODD_PASSWORD, database=ODD_DATABASE) as odd:
            ask(odd, f"CREATE TABLE {quoted(ODD_TABLE)} AS SELECT 1 AS n")
            assert ask(odd, "SELECT SUBSTRING_INDEX(USER(), '@', 1), DATABASE()") == ((ODD_USER, ODD_DATABASE),)
            assert ask(odd, "SHOW TABLES") == ((ODD_TABLE,),)
    finally:
        ask(connection, "DROP USER %s@'%%'", ODD_USER)
        ask(connection, f"DROP DATABASE {quoted(ODD_DATABASE)}")


def test_only_the_query_ends_when_it_is_killed(shop: Shop, connection: Connection) -> None:
    with connect(shop) as busy:
        outcome: list[BaseException] = []

        def sleep() -> None:
            try:
                ask(busy, "SELECT SLEEP(100)")
            except pymysql.Error as error:
                outcome.append(error)

        thread = threading.Thread(target=sleep)
        thread.start()
        begun = "SELECT 1 FROM information_schema.processlist WHERE id = %s AND info LIKE 'SELECT SLEEP%%'"
        wait_until(lambda: ask(connection, begun, busy.thread_id()), "the query is under way")
        ask(connection, "KILL QUERY %s", busy.thread_id())
        thread.join(30)
        assert [error.args[0] for error in outcome] == [ER.QUERY_INTERRUPTED]
        assert ask(busy, "SELECT 1") == ((1,),)


def test_session_ends_when_it_is_killed(shop: Shop, connection: Connection) -> None:
    other = connect(shop)
    other_id = other.thread_id()
    ask(connection, "KILL CONNECTION %s", other_id)
    gone = "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %s"
    wait_until(lambda: ask(connection, gone, other_id) == ((0,),), "the session is gone")
    with pytest.raises(pymysql.err.OperationalError):
        other.ping(reconnect=False)


def test_session_keeps_what_it_has_over_a_freeze(connection: Connection, settle: Callable[[], None]) -> None:
    ask(connection, "CREATE TEMPORARY TABLE mine AS SELECT seq FROM seq_1_to_1000")
    ask(connection, "SET @mine = 'žluť', SESSION sort_buffer_size = 123456, SESSION sql_mode = 'ANSI_QUOTES'")
    ask(connection, "PREPARE doubled FROM 'SELECT ? * 2'")
    [[before]] = ask(connection, "SELECT CONNECTION_ID()")
    for _ in range(3):
        settle()
        connection.ping(reconnect=False)
        settle()
        found = ask(connection, "SELECT COUNT(*), @mine, @@sort_buffer_size, @@sql_mode, CONNECTION_ID() FROM mine")
        assert found == ((1000, "žluť", 123456, "ANSI_QUOTES", before),)
        assert ask(connection, "EXECUTE doubled USING 21") == ((42,),)


def test_engine_stays_awake_while_a_session_holds_a_lock(
    shop: Shop, connection: Connection, stays_awake: Callable[[str], None], settle: Callable[[], None]
) -> None:
    assert ask(connection, "SELECT GET_LOCK('till', 0)") == ((1,),)
    stays_awake("lock")
    with connect(shop) as other:
        assert ask(other, "SELECT GET_LOCK('till', 0)") == ((0,),)
    stays_awake("lock")
    assert ask(connection, "SELECT RELEASE_LOCK('till')") == ((1,),)
    settle()
    assert ask(connection, "SELECT 1") == ((1,),)


def test_engine_stays_awake_within_a_transaction(
    shop: Shop, stays_awake: Callable[[str], None], settle: Callable[[], None]
) -> None:
    with connect(shop) as connection:
        ask(connection, "CREATE OR REPLACE TABLE open_one (n INT)")
        ask(connection, "INSERT INTO open_one VALUES (1)")
        stays_awake("transaction")
        connection.commit()
        settle()
        assert ask(connection, "SELECT n FROM open_one") == ((1,),)
