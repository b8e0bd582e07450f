"""Sessions that keep an engine busy."""

import hashlib
import threading
from typing import Any, Self

import psycopg

from harness import Server


class Load:
    """Sessions that send one statement after another for as long as the block lasts. Each has to be answered."""

    def __init__(self, url: str, sql: str, answer: tuple[object, ...], *, sessions: int) -> None:
        self._url = url
        self._sql = sql
        self._answer = answer
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(sessions)]
        self.answered = 0
        self.errors: list[str] = []

    def _work(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as session:
                while not self._stop.is_set():
                    answer = session.execute(self._sql).fetchone()
                    if answer != self._answer:
                        self.errors.append(f"{answer}")
                    self.answered += 1
        except psycopg.Error as error:
            self.errors.append(repr(error))

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


def counting(url: str, *, sessions: int) -> Load:
    """Answer sessions that need nothing but processor time."""
    return Load(url, "SELECT count(*) FROM generate_series(1, 100000)", (100000,), sessions=sessions)


def make_quick_role(server: Server, name: str = "main") -> dict[str, Any]:
    """Make a role that logs in with little effort on both sides; answer how."""
    server.query(f"CREATE ROLE quick LOGIN PASSWORD 'md5{hashlib.md5(b'pwquick').hexdigest()}'", name)
    endpoint = server.show(name)["endpoint"]
    return {
        "host": endpoint["host"],
        "port": endpoint["port"],
        "user": "quick",
        "password": "pw",
        "dbname": name,
        "sslmode": "disable",
        "autocommit": True,
    }
