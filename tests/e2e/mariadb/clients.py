"""MariaDB's clients, as these tests need them."""

import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

import pymysql

from harness import Server
from waiting import wait_until

LOST = (pymysql.err.OperationalError, pymysql.err.InterfaceError, pymysql.err.InternalError)
"""What PyMySQL says of a session that was ended: the engine's last words, or that it has none."""


def rows(session: Any, sql: str, *values: object) -> Sequence[Any]:
    """Run a statement and answer its rows."""
    with session.cursor() as cursor:
        cursor.execute(sql, values or None)
        found: Sequence[Any] = cursor.fetchall()
    return found


def one(session: Any, sql: str, *values: object) -> Any:
    """Run a statement and answer the first value of its first row; None without any row."""
    found = rows(session, sql, *values)
    return found[0][0] if found else None


def number_of(session: Any) -> int:
    """Answer the number that the engine knows a session by. The greeting's is not it where Zorya has greeted."""
    return int(one(session, "SELECT CONNECTION_ID()"))


def run(session: Any, *statements: str) -> None:
    """Run statements, one after the other."""
    for statement in statements:
        rows(session, statement)


def start_with_shop(server: Server, *args: str, **env: str) -> None:
    """Start a server and have it make the MariaDB cluster "shop", unless there is one."""
    server.start(*args, **env)
    if "shop" not in {cluster["name"] for cluster in server.api.clusters()}:
        server.api.create({"name": "shop", "engine": "mariadb"})


def attempt(server: Server, **options: Any) -> tuple[int, str]:
    """Try to log in and answer the error's number and text; 0 and nothing when there is a session."""
    try:
        server.mysql(**options).close()
    except pymysql.err.MySQLError as error:
        return int(error.args[0]), str(error.args[1])
    return 0, ""


def stays_asleep(server: Server, deed: Callable[[], Any], name: str = "shop") -> Any:
    """Do something and answer what came of it; fails when the stopped cluster was woken by it."""
    before = server.events(name)
    assert server.show(name)["compute"] == "stopped"
    done = deed()
    shown = server.show(name)
    asked_to_start = [kind for kind in server.events(name)[len(before) :] if kind in {"0147", "0148"}]
    assert (shown["compute"], asked_to_start) == ("stopped", [])
    return done


def login(server: Server, name: str = "shop") -> dict[str, Any]:
    """Answer how the cluster's user connects, for clients that cannot ask the server for it."""
    credentials = server.api.credentials(name)
    return {
        "host": credentials["endpoint"]["host"],
        "port": credentials["endpoint"]["port"],
        "user": credentials["username"],
        "password": credentials["password"],
        "database": credentials["database"],
        "autocommit": True,
        "connect_timeout": 60,
        "ssl_disabled": True,
    }


class WaitingClient:
    """A client that connects in a thread of its own, since it is held until its cluster runs."""

    def __init__(self, server: Server, sql: str = "SELECT 1", name: str = "shop", **options: Any) -> None:
        # Asked for now: there may be no server when the client connects.
        self._options = {**login(server, name), **options}
        self._sql = sql
        self._error = ""
        self._thread = threading.Thread(target=self._connect)

    def _connect(self) -> None:
        try:
            with pymysql.connect(**self._options) as session:
                run(session, self._sql)
        except pymysql.err.MySQLError as error:
            self._error = str(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def error(self) -> str:
        """Wait until the client is done and answer its error, empty when it was served."""
        self._thread.join(90)
        assert not self._thread.is_alive()
        return self._error

    def __exit__(self, *_: object) -> None:
        self._thread.join(90)


class Asked:
    """A statement that a session of its own works at meanwhile."""

    def __init__(self, server: Server, sql: str, name: str = "shop", **options: Any) -> None:
        self._sql = sql
        self._session = server.mysql(name, **options)
        self.id = number_of(self._session)
        self._answer: Any = None
        self.error: tuple[Any, ...] = ()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        try:
            self._answer = one(self._session, self._sql)
        except pymysql.err.MySQLError as error:
            self.error = error.args

    @property
    def is_answered(self) -> bool:
        """Whether the statement has ended, well or not."""
        return not self._thread.is_alive()

    def answer(self) -> Any:
        """Wait for the answer; None after an error."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._answer

    def wait_begun(self, beside: Any) -> None:
        """Wait until the engine works at it, seen from another session of the same account."""
        sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %s AND command = 'Query'"
        wait_until(lambda: one(beside, sql, self.id) == 1, "the statement is under way")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
        with suppress(*LOST):
            self._session.close()


class Load:
    """Sessions that send one statement after another for as long as the block lasts. Each has to be answered."""

    def __init__(self, server: Server, sql: str, answer: object, *, sessions: int, name: str = "shop") -> None:
        self._opened = [server.mysql(name) for _ in range(sessions)]
        self._sql = sql
        self._answer = answer
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(session,)) for session in self._opened]
        self.answered = 0
        self.errors: list[str] = []

    def _work(self, session: Any) -> None:
        try:
            while not self._stop.is_set():
                answer = one(session, self._sql)
                if answer != self._answer:
                    self.errors.append(f"{answer}")
                self.answered += 1
        except pymysql.err.MySQLError as error:
            self.errors.append(repr(error))
        finally:
            session.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)
        assert self.errors == []
        assert self.answered > 0


def begin(server: Server, *args: str) -> "subprocess.Popen[bytes]":
    """Run a command line beside the test."""
    return subprocess.Popen(
        [*server.command, *args], env=server.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait_frozen(server: Server, name: str = "shop") -> Any:
    """Wait until the cluster is frozen; answer what `show` says then. Fails with what keeps it awake."""
    seen: list[tuple[Any, ...]] = []

    def reached() -> Any:
        shown = server.show(name)
        seen[:] = [*seen[-5:], (shown["compute"], shown["awake_reason"], shown["sessions"])]
        return shown if shown["compute"] == "frozen" else None

    try:
        return wait_until(reached, "it is frozen", 20)
    except AssertionError as error:
        raise AssertionError(f"{name} is not frozen: {seen}") from error
