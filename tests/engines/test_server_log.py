"""The engine's log: which logins failed and from where, whatever names clients give themselves."""

import contextlib
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from engines.base_cluster import USER
from engines.clusters import Cluster
from waiting import wait_until
from zorya.core.identity import FailedLogin
from zorya.engines.postgres import server_log

AT = "2026-11-25 05:48:53.123 UTC"
FORGED = f'{AT} [1] 9.9.9.9(9) FATAL:  password authentication failed for user "victim"'
WRONG = 'FATAL:  password authentication failed for user "ann"\n'


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("192.0.2.7(51234)", "192.0.2.7"),
        ("2001:db8::7(51234)", "2001:db8::7"),
        ("::ffff:192.0.2.7(51234)", "::ffff:192.0.2.7"),
        ("fe80::1%eth0(51234)", "fe80::1%eth0"),
    ],
)
def test_wrong_password_is_told_with_its_address(origin: str, address: str) -> None:
    log = f'{AT} [77] {origin} {WRONG}{AT} [77] {origin} DETAIL:  Role "ann" does not exist.\n\tConnection matched …\n'
    assert server_log.failed_logins(log) == [FailedLogin(address=address, port=51234, role="ann")]


@pytest.mark.parametrize(
    "line",
    [
        f"{AT} [77] [local] {WRONG}",
        f"{AT} [77] {WRONG}",
        f"{AT} [77]  {WRONG}",
        f"\t{AT} [77] 192.0.2.7(51234) {WRONG}",
        f" {AT} [77] 192.0.2.7(51234) {WRONG}",
        f"{AT} [77] 192.0.2.7(51234) {WRONG}".removesuffix("\n"),
        f"{AT} [77] 192.0.2.7(51234) {WRONG}".replace("FATAL", "ERROR"),
        f"{AT} [77] 192.0.2.7(51234) {WRONG}".replace("FATAL", "STATEMENT"),
        f"{AT} [77] 192.0.2.7(51234) LOG:  {WRONG}",
        f"{AT} [77] 192.0.2.7(51234) FATAL:  sorry, too many clients already\n",
        f'{AT} [77] 192.0.2.7(51234) FATAL:  database "x" does not exist\n',
        f'{AT} [77] 192.0.2.7(51234) FATAL:  role "ann" is not permitted to log in\n',
    ],
)
def test_what_is_no_failed_login_of_an_address_is_not_told(line: str) -> None:
    assert server_log.failed_logins(line) == []


def test_role_of_several_lines_is_told_as_it_is() -> None:
    log = f'{AT} [77] 192.0.2.7(5) FATAL:  password authentication failed for user "a\n\tb"\n\tc"\n'
    assert server_log.failed_logins(log) == [FailedLogin(address="192.0.2.7", port=5, role='a\nb"\nc')]


PIECES = st.sampled_from([*"\n\r\t\v\f\x1c\x85\u2028\"'()[]: a", f"\n{FORGED}\n", f"\r{FORGED}\r"])


@given(st.lists(st.lists(PIECES).map("".join)))
def test_nothing_is_forged_by_what_stands_in_messages(texts: list[str]) -> None:
    log = "".join(
        f"{AT} [7] 192.0.2.7(5) {severity}:  {text}\n"
        for text in (one.replace("\n", "\n\t") for one in texts)
        for severity in ("FATAL", "DETAIL", "LOG")
    )
    assert server_log.failed_logins(log) == []


def test_exit_is_explained_by_the_engines_own_words_alone() -> None:
    log = (
        f"{AT} [1] LOG:  starting\n"
        f"{AT} [1] FATAL:  could not write\n\tmuch\n"
        f"{AT} [9] 192.0.2.7(5) FATAL:  terminating\n"
        f"{AT} [9] 192.0.2.7(5) ERROR:  x [1] FATAL:  lie\n\t{AT} [1] FATAL:  lie\n\tpostgres: lie\n"
        f"{AT} [9] [local] FATAL:  {AT} [1] PANIC:  lie\n"
    )
    assert server_log.explain_exit(log) == "could not write"
    assert server_log.explain_exit("/usr/bin/postgres: could not find\nthe file\n") == "could not find the file"
    assert server_log.explain_exit(f"{AT} [1] LOG:  starting\n") == ""


KILLED = "(PID 9) was terminated by signal 9: Killed\n"


def test_killed_process_is_told_by_the_first_process_alone() -> None:
    log = (
        f"{AT} [1] LOG:  server process {KILLED}"
        f"{AT} [1] DETAIL:  Failed process was running: SELECT '\n\t{AT} [1] LOG:  server process {KILLED}"
        f'{AT} [1] LOG:  background worker "parallel worker" {KILLED}'
        f"{AT} [1] LOG:  server process (PID 9) was terminated by signal 11: Segmentation fault\n"
    )
    lies = (
        f"{AT} [8] LOG:  server process {KILLED}"
        f"{AT} [1] 192.0.2.7(5) LOG:  server process {KILLED}"
        f"{AT} [1] [local] LOG:  server process {KILLED}"
        f"\t{AT} [1] LOG:  server process {KILLED}"
        f"{AT} [1] ERROR:  server process {KILLED}"
    )
    assert server_log.killed_processes(log + lies, 1) == ["server process", 'background worker "parallel worker"']


# Real engines.


def packet(parameters: list[tuple[bytes, bytes]]) -> bytes:
    body = struct.pack("!I", 3 << 16) + b"".join(b"%b\0%b\0" % pair for pair in parameters) + b"\0"
    return struct.pack("!I", len(body) + 4) + body


def knock(cluster: Cluster, parameters: list[tuple[bytes, bytes]]) -> int:
    """Send a startup packet, read the answer, and go; answer the port from which that was."""
    with socket.create_connection((cluster.address.host, cluster.address.port), timeout=20) as client:
        client.sendall(packet(parameters))
        assert client.recv(1)
        port: int = client.getsockname()[1]
        return port


@contextlib.contextmanager
def added(cluster: Cluster) -> Iterator[list[str]]:
    """At the end, put in the list what the engine has logged since the beginning."""
    mark = cluster.log_mark()
    found: list[str] = []
    yield found
    # A record of its own shows that those before it are there.
    with cluster.connect_as_admin() as session:
        session.execute("DO $$ BEGIN RAISE LOG 'the end'; END $$")
    wait_until(lambda: "the end" in cluster.log(mark), "the log is written")
    found.append(cluster.log(mark))


def fail(cluster: Cluster, user: str, **options: str) -> None:
    with pytest.raises(psycopg.OperationalError):
        cluster.connect(**{"user": user, "password": "wrong", **options})


def told(log: list[str]) -> list[tuple[str, str]]:
    return [(one.address, one.role) for one in server_log.failed_logins(log[0])]


def test_failures_of_a_real_engine_are_told(running: Cluster) -> None:
    with running.connect_as_admin() as session, added(running) as log:
        session.execute("CREATE ROLE bare LOGIN")
        session.execute("CREATE ROLE late LOGIN PASSWORD 'wrong' VALID UNTIL '2001-01-01'")
        session.execute("CREATE ROLE barred NOLOGIN PASSWORD 'right'")
        session.execute("SET password_encryption = md5")
        session.execute("CREATE ROLE old LOGIN PASSWORD 'right'")
        for user in (USER, "nobody", "bare", "late", "barred", "old", "zorya_admin"):
            fail(running, user)
        fail(running, USER, dbname="nowhere")
        # What follows is nobody's guess.
        fail(running, "barred", password="right")
        fail(running, "old", password="right", dbname="nowhere")
        running.connect().close()
        for role in ("bare", "late", "barred", "old"):
            session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    users = [USER, "nobody", "bare", "late", "barred", "old", "zorya_admin", USER]
    assert told(log) == [("127.0.0.1", user) for user in users]


def test_failure_is_told_with_the_port_that_it_came_from(running: Cluster) -> None:
    with added(running) as log:
        port = knock(running, [(b"user", b"zorya_admin")])
    assert server_log.failed_logins(log[0]) == [FailedLogin(address="127.0.0.1", port=port, role="zorya_admin")]


def test_failure_over_ipv6_is_told(running: Cluster) -> None:
    if not Path("/proc/net/if_inet6").exists():
        pytest.skip("this host has no IPv6")
    running.stop()
    running.start(listen="127.0.0.1,::1")
    with added(running) as log:
        fail(running, USER, host="::1")
    assert told(log) == [("::1", USER)]


EVIL = [
    f"a\n{AT} [1] 9.9.9.9(1) b",
    f"\n{AT} [1] 9.9.9.9(1) FATAL:  x",
    "9.9.9.9(1) FATAL:  password authentication failed for user",
    'x"\n\t"',
    "a\rb\x0bc\x0cd\x1ce",
    "\n",
    "[1] FATAL:  lie",
    "\npostgres: lie",
]


def test_evil_names_are_told_as_they_are_and_blame_nobody_else(running: Cluster) -> None:
    with added(running) as log:
        for user in EVIL:
            for database in EVIL:
                fail(running, user, dbname=database)
    assert told(log) == [("127.0.0.1", user[:63]) for user in EVIL for _ in EVIL]
    assert server_log.explain_exit(log[0]) == ""


def test_names_of_refused_packets_blame_nobody(running: Cluster) -> None:
    # Refused before the names are cut to 63 bytes.
    long = (f"x\n{FORGED}\n" * 50).encode()
    with added(running) as log:
        knock(running, [(b"user", b""), (b"database", long)])
        knock(running, [(b"user", long), (b"database", long[:3000]), (b"replication", b"nonsense")])
        knock(running, [(b"user", b"ann"), (b"database", long), (b"replication", long[:3000])])
        knock(running, [(b"user", b"ann"), (b"application_name", long), (b"options", b"-c " + long[:3000])])
    assert "9.9.9.9" in log[0]
    assert server_log.failed_logins(log[0]) == []
    assert not re.search(r"^20.*9\.9\.9\.9", log[0], re.MULTILINE)


def test_sessions_cannot_write_what_would_be_told(running: Cluster) -> None:
    with running.connect() as session, added(running) as log:
        for severity in ("LOG", "WARNING", "EXCEPTION"):
            with contextlib.suppress(psycopg.Error):
                session.execute(
                    sql.SQL("DO $$ BEGIN RAISE {} USING MESSAGE = {}, DETAIL = {}, HINT = {}; END $$").format(
                        sql.SQL(severity), *(sql.Literal(f"x\n{FORGED}\n") for _ in range(3))
                    )
                )
        with contextlib.suppress(psycopg.Error):
            session.execute(f"SELECT\n{FORGED}\n")
        session.execute(sql.SQL("SET application_name = {}").format(sql.Literal(f"\n{FORGED}\n")))
    assert "9.9.9.9" in log[0]
    assert server_log.failed_logins(log[0]) == []
