"""Logins that an engine turns down are told of once, not one by one."""

import psycopg
import pytest

from harness import Server
from waiting import wait_until

CLIENTS = 25


def fail(server: Server, role: str) -> None:
    url = server.url().replace("//zorya:", f"//{role}:")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url, password="wrong", connect_timeout=30)


def test_one_event_tells_of_many_failed_logins(server: Server) -> None:
    server.query("SELECT 1")
    for number in range(CLIENTS):
        fail(server, "mallory" if number % 2 else "zorya")
    wait_until(lambda: "1011" in server.events(), "it is told")
    # What is logged by now is seen before the pause begins.
    server.run("pause", "main", "--force")
    told = [
        one for one in server.api.events("main", after=0, limit=1000, wait_s=0, sleep=True) if "1011" in one["kind"]
    ]
    assert [one["category"] for one in told] == ["security"]
    assert "from 127.0.0.1" in told[0]["message"]
    assert '"mallory"' in told[0]["message"]


def test_a_few_failed_logins_are_not_told(server: Server) -> None:
    server.query("SELECT 1")
    for _ in range(3):
        fail(server, "zorya")
    server.run("pause", "main", "--force")
    assert "1011" not in server.events()
