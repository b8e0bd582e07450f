"""mysqlclient, which is MariaDB's own C library, unchanged, through the endpoint."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients.mariadb.shop import BYTES, HUGE, ODD_DATABASE, ODD_PASSWORD, ODD_USER, PROCEDURE, TEXT, Shop, quoted

MySQLdb = pytest.importorskip("MySQLdb", reason="mysqlclient is not installed (it is compiled: libmariadb-dev)")

from MySQLdb import cursors  # type: ignore[import-untyped]  # noqa: E402

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="session")


@pytest.fixture
def connection(shop: Shop) -> Iterator[Any]:
    """A session that commits by itself."""
    opened = connect(shop, autocommit=True)
    yield opened
    opened.close()


def connect(shop: Shop, **more: Any) -> Any:
    """Open a session; the library tries no TLS by itself."""
    return MySQLdb.connect(**shop.told(**{"charset": "utf8mb4", **more}))


def ask(connection: Any, sql: str, *values: Any) -> tuple[tuple[Any, ...], ...]:
    """Run one statement, answer its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values or None)
        return tuple(cursor.fetchall())


def test_values_come_back_as_they_were_sent(connection: Any) -> None:
    ask(connection, "CREATE TEMPORARY TABLE t (i BIGINT, s TEXT, b BLOB, n INT)")
    ask(connection, "INSERT INTO t VALUES (%s, %s, %s, %s)", 2**62, TEXT, BYTES, None)
    assert ask(connection, "SELECT * FROM t") == ((2**62, TEXT, BYTES, None),)


def test_transaction_is_undone_when_it_is_rolled_back(shop: Shop, settle: Callable[[], None]) -> None:
    connection = connect(shop)
    ask(connection, "CREATE OR REPLACE TABLE undone (n INT)")
    ask(connection, "INSERT INTO undone VALUES (1)")
    connection.rollback()
    settle()
    assert ask(connection, "SELECT COUNT(*) FROM undone") == ((0,),)
    connection.close()


@pytest.mark.parametrize("options", [{}, {"compress": True}], ids=str)
def test_result_of_20_megabytes_arrives_whole_when_it_is_streamed(shop: Shop, options: dict[str, bool]) -> None:
    connection = connect(shop, **options)
    with connection.cursor(cursors.SSCursor) as cursor:
        cursor.execute("SELECT seq, REPEAT('x', 50000) FROM seq_1_to_400")
        assert sum(len(text) for _number, text in cursor) == 20_000_000
    assert ask(connection, "SHOW STATUS LIKE 'Compression'") == (("Compression", "ON" if options else "OFF"),)
    connection.close()


def test_value_of_20_megabytes_goes_there_and_back_when_it_is_compressed(shop: Shop) -> None:
    connection = connect(shop, compress=True)
    [[returned]] = ask(connection, "SELECT %s", HUGE)
    assert returned.encode() == HUGE
    connection.close()


def test_procedure_answers_several_results_and_its_parameters(connection: Any) -> None:
    ask(connection, PROCEDURE.format(name="of_mysqlclient"))
    with connection.cursor() as cursor:
        cursor.callproc("of_mysqlclient", (21, 0, 7))
        results = [cursor.fetchall()]
        while cursor.nextset():
            results.append(cursor.fetchall())
    assert results[:2] == [((21,),), ((1,), (2,), (3,))]
    assert ask(connection, "SELECT @_of_mysqlclient_1, @_of_mysqlclient_2") == ((42, 8),)


def test_rows_are_loaded_from_the_clients_file(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text("".join(f"{n}\trow {n}\n" for n in range(5000)))
    connection = connect(shop, local_infile=True, compress=True)
    ask(connection, "CREATE TEMPORARY TABLE loaded (n INT, t TEXT)")
    ask(connection, "LOAD DATA LOCAL INFILE %s INTO TABLE loaded", str(file))
    assert ask(connection, "SELECT SUM(n), COUNT(*) FROM loaded") == ((12497500, 5000),)
    connection.close()


def test_many_rows_go_in_one_statement(connection: Any) -> None:
    ask(connection, "CREATE TEMPORARY TABLE many (n INT, t TEXT)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO many VALUES (%s, %s)", [(n, TEXT) for n in range(5000)])
    assert ask(connection, "SELECT SUM(n), COUNT(DISTINCT t) FROM many") == ((12497500, 1),)


def test_session_becomes_another_users_without_a_new_connection(
    shop: Shop, connection: Any, settle: Callable[[], None]
) -> None:
    ask(connection, f"CREATE OR REPLACE DATABASE {quoted(ODD_DATABASE)}")
    ask(connection, "CREATE OR REPLACE USER %s@'%%' IDENTIFIED BY %s", ODD_USER, ODD_PASSWORD)
    granted = quoted(ODD_DATABASE.replace("%", "\\%")).replace("%", "%%")
    ask(connection, f"GRANT ALL ON {granted}.* TO %s@'%%'", ODD_USER)
    other = connect(shop)
    before = ask(other, "SELECT CONNECTION_ID()")
    ask(other, "SET @mine = 1")
    settle()
    other.change_user(ODD_USER, ODD_PASSWORD, ODD_DATABASE)
    found = ask(other, "SELECT CURRENT_USER(), DATABASE(), @mine")
    assert found == ((f"{ODD_USER}@%", ODD_DATABASE, None),)
    assert ask(other, "SELECT CONNECTION_ID()") == before
    other.close()
    ask(connection, "DROP USER %s@'%%'", ODD_USER)
    ask(connection, f"DROP DATABASE {quoted(ODD_DATABASE)}")


def test_session_is_of_latin1_when_the_client_says_so(shop: Shop) -> None:
    connection = connect(shop, charset="latin1")
    assert ask(connection, "SELECT @@character_set_client, %s, LENGTH(%s)", "é", "é") == (("latin1", "é", 1),)
    connection.close()


def test_session_keeps_what_it_has_over_a_freeze(connection: Any, settle: Callable[[], None]) -> None:
    ask(connection, "CREATE TEMPORARY TABLE mine AS SELECT seq FROM seq_1_to_1000")
    ask(connection, "SET @mine = 'žluť', SESSION sort_buffer_size = 123456")
    for _ in range(2):
        settle()
        assert ask(connection, "SELECT COUNT(*), @mine, @@sort_buffer_size FROM mine") == ((1000, "žluť", 123456),)
    settle()
    connection.ping()
