"""psycopg 3, unchanged, through the endpoint."""

import contextlib
import threading

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from harness import Server
from waiting import wait_until

MEGABYTE = 1024 * 1024


def test_values_come_back_as_they_were_sent(url: str) -> None:
    values = (1, 2.5, "žluťoučký kůň", b"\0\xff" * 1000, [1, None, 3], Jsonb({"a": [1, 2]}))
    with psycopg.connect(url) as connection:
        for binary in (False, True):
            row = connection.execute(
                "SELECT %s::int, %s::float8, %s::text, %s::bytea, %s::int[], %s::jsonb", values, binary=binary
            ).fetchone()
            assert row == (*values[:-1], {"a": [1, 2]})


@pytest.mark.parametrize("options", [{}, {"sslmode": "disable"}, {"sslmode": "prefer", "gssencmode": "prefer"}])
def test_client_is_served_when_it_prefers_or_forgoes_encryption(url: str, options: dict[str, str]) -> None:
    with psycopg.connect(url, **options) as connection:  # type: ignore[arg-type]
        assert connection.execute("SELECT current_user").fetchone() == ("zorya",)


def test_transaction_is_kept_when_it_commits_and_undone_when_it_fails(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int PRIMARY KEY)")
        connection.commit()
        with connection.transaction():
            connection.execute("INSERT INTO kept VALUES (1)")
            with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
                connection.execute("INSERT INTO kept VALUES (2), (1)")
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]


@pytest.mark.parametrize("form", ["TEXT", "BINARY", "CSV"])
def test_rows_are_the_same_when_copied_in_and_out(url: str, form: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TEMP TABLE source AS SELECT n, md5(n::text) AS t FROM generate_series(1, 50000) n")
        connection.execute("CREATE TEMP TABLE target (LIKE source)")
        out, into = (sql.SQL("COPY {} {} (FORMAT {})").format(*map(sql.SQL, words)) for words in (
            ("source", "TO STDOUT", form),
            ("target", "FROM STDIN", form),
        ))  # fmt: skip
        with connection.cursor().copy(out) as copied:
            data = b"".join(bytes(chunk) for chunk in copied)
        with connection.cursor().copy(into) as copy:
            for start in range(0, len(data), 70_000):
                copy.write(data[start : start + 70_000])
        left = connection.execute("SELECT * FROM source EXCEPT SELECT * FROM target").fetchall()
        assert left == []
        assert connection.execute("SELECT count(*) FROM target").fetchone() == (50000,)


def test_copy_in_is_undone_when_the_client_gives_it_up(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE t (n int)")
        with contextlib.suppress(ZeroDivisionError), connection.cursor().copy("COPY t FROM STDIN") as copy:
            copy.write_row((1,))
            raise ZeroDivisionError
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_listener_is_notified_when_another_session_notifies(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as notifier:
        listener.execute("LISTEN news")
        notifier.execute("SELECT pg_notify('news', repeat('x', 7000))")
        [note] = listener.notifies(timeout=30, stop_after=1)
        assert (note.channel, len(note.payload), note.pid) == ("news", 7000, notifier.info.backend_pid)


def test_large_object_is_read_as_it_was_written(url: str) -> None:
    content = bytes(range(256)) * 8192
    with psycopg.connect(url) as connection:
        [[oid]] = connection.execute("SELECT lo_from_bytea(0, %s)", [content]).fetchall()
        connection.execute("SELECT lo_put(%s, 1000000, %s)", [oid, b"here"])
        [[read]] = connection.execute("SELECT lo_get(%s)", [oid], binary=True).fetchall()
        assert read == content[:1000000] + b"here" + content[1000004:]
        # The interface of C programs, which libpq's lo_* functions call.
        [[handle]] = connection.execute("SELECT lo_open(%s, 393216)", [oid]).fetchall()
        [[position]] = connection.execute("SELECT lo_lseek64(%s, 0, 2)", [handle]).fetchall()
        assert position == len(content)
        connection.execute("SELECT lo_unlink(%s)", [oid])


def test_result_of_100_megabytes_arrives_whole(url: str) -> None:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT repeat(chr(64 + n % 26), 1048576) FROM generate_series(1, 100) n").fetchall()
    assert len(rows) == 100
    assert all(text == chr(64 + n % 26) * MEGABYTE for n, [text] in enumerate(rows, 1))


def test_result_of_100_megabytes_arrives_whole_when_it_is_streamed(url: str) -> None:
    with psycopg.connect(url) as connection:
        stream = connection.cursor().stream("SELECT n, repeat('x', 1000) FROM generate_series(1, 100000) n")
        received = 0
        for expected, (number, text) in enumerate(stream, 1):
            assert number == expected
            received += len(text)
        assert received == 100_000_000


def test_parameter_of_50_megabytes_arrives_whole(url: str) -> None:
    with psycopg.connect(url) as connection:
        value = b"0123456789" * 5_000_000
        row = connection.execute("SELECT length(%b), md5(%b) = md5(%b)", [value, value[:1000], value[:1000]]).fetchone()
        assert row == (len(value), True)


def test_prepared_statement_is_used_again(url: str) -> None:
    with psycopg.connect(url) as connection:
        for n in range(20):
            assert connection.execute("SELECT %s::int + 1", [n], prepare=True).fetchone() == (n + 1,)
        held = connection.execute("SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql").fetchone()
        assert held == (1,)


def test_pipeline_keeps_the_order_and_ends_at_the_first_error(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", [n]) for n in range(500)]
        assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(500)]
        with pytest.raises(psycopg.errors.DivisionByZero):
            run_both_in_a_pipeline(connection, "SELECT 1 / 0", "SELECT 1")
        assert connection.execute("SELECT 1").fetchone() == (1,)


def run_both_in_a_pipeline(connection: psycopg.Connection, one: str, other: str) -> None:
    """Send two statements together."""
    with connection.pipeline():
        connection.execute(one)
        connection.execute(other)


def test_server_side_cursor_fetches_in_parts(url: str) -> None:
    with psycopg.connect(url) as connection, connection.cursor(name="parts") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT generate_series(1, 1000)")
        assert sum(n for [n] in cursor) == 500500


def test_only_the_query_ends_when_it_is_cancelled(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as busy, psycopg.connect(url, autocommit=True) as watcher:
        outcome: list[BaseException] = []

        def run() -> None:
            try:
                busy.execute("SELECT pg_sleep(100)")
            except psycopg.Error as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        active = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        pid = busy.info.backend_pid
        wait_until(lambda: watcher.execute(active, [pid]).fetchone(), "the query is under way")
        busy.cancel_safe()
        thread.join(30)
        assert [type(error) for error in outcome] == [psycopg.errors.QueryCanceled]
        assert busy.execute("SELECT 1").fetchone() == (1,)


async def test_asynchronous_connections_are_served_side_by_side(url: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(url) as one,
        await psycopg.AsyncConnection.connect(url) as other,
    ):
        await one.execute("CREATE TEMP TABLE mine (n int)")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await other.execute("SELECT * FROM mine")


def test_session_is_known_with_its_application_name(server: Server, url: str) -> None:
    with psycopg.connect(url, application_name="bookkeeping", options="-c work_mem=7MB") as connection:
        row = connection.execute(
            "SELECT application_name, current_setting('work_mem') FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        ).fetchone()
        assert row == ("bookkeeping", "7MB")
        assert server.show()["sessions"] >= 1
