"""Failed logins of MariaDB clusters: counted wherever they are noticed, told once, slowed, and nobody is locked out."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from e2e.mariadb.clients import attempt, one, start_with_shop, stays_asleep
from harness import Server
from waiting import wait_until

CLIENTS = 25


def told(server: Server) -> list[dict[str, Any]]:
    """Answer the events that tell of failed logins."""
    # There may have been another cluster of this name on the same server.
    count = server.events("shop").count("1011")
    events = server.api.events("shop", after=0, limit=1000, wait_s=0, sleep=True)
    return [dict(event) for event in events if event["kind"] == "ZORYA-EVENT-1011"][-count:] if count else []


@pytest.mark.parametrize("attach", ["handoff", "relay"])
def test_one_event_tells_of_many_failed_logins_that_the_engine_has_turned_down(
    stopped_server: Server, attach: str
) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_ATTACH=attach)
    server.mysql_query("SELECT 1")
    for number in range(CLIENTS):
        # Nobody may forge the line of the log that tells of the address.
        user = "mallory'@'192.0.2.1' (using\npassword: YES)" if number % 2 else "zorya"
        assert attempt(server, user=user, password="wrong", bind_address="127.0.0.9")[0] == 1045
    wait_until(lambda: told(server), "it is told")
    # What is logged by now is seen before the pause begins.
    server.run("pause", "shop", "--force")
    (event,) = told(server)
    assert event["category"] == "security"
    assert "from 127.0.0.9;" in event["message"]
    assert "mallory" in event["message"]


def test_one_event_tells_of_many_failed_logins_at_a_stopped_cluster(shop: Server) -> None:
    for number in range(CLIENTS):
        user = "mallory" if number % 2 else "zorya"
        assert stays_asleep(shop, partial(attempt, shop, user=user, password="wrong"))[0] == 1045
    (event,) = told(shop)
    assert event["category"] == "security"
    assert "from 127.0.0.1;" in event["message"]
    assert '"mallory"' in event["message"]


def test_a_few_failed_logins_are_not_told(shop: Server) -> None:
    for _ in range(3):
        assert attempt(shop, password="wrong")[0] == 1045
    shop.mysql_query("SELECT 1")
    for _ in range(3):
        assert attempt(shop, password="wrong")[0] == 1045
    shop.run("pause", "shop", "--force")
    assert told(shop) == []


@pytest.mark.parametrize("state", ["stopped", "running"])
def test_guesser_is_slowed_and_turned_away_and_keeps_nobody_out(stopped_server: Server, state: str) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_LOGIN_DELAY_MAX_S="1")
    if state == "running":
        server.api.resume("shop")
    guesser = {"user": "zorya", "password": "wrong", "bind_address": "127.0.0.9"}

    def guess(_: int) -> tuple[int, str]:
        return attempt(server, **guesser)

    for number in range(10):
        assert guess(number)[0] == 1045
    wait_until(lambda: told(server), "they are counted")
    with ThreadPoolExecutor(30) as threads:
        said = list(threads.map(guess, range(30)))
    turned_away = [text for _, text in said if "too many failed logins from this address" in text]
    assert len(turned_away) >= 20
    assert all("Access denied" in text for _, text in said if text not in turned_away)
    assert server.show("shop")["compute"] == state
    # The owner comes from elsewhere, and is served.
    with server.mysql(bind_address="127.0.0.10") as session:
        assert one(session, "SELECT 1") == 1
