"""A new password of a MariaDB cluster's user: in force at once, sessions kept, finished whatever dies in between."""

from functools import partial
from typing import Any

import pytest

from e2e.mariadb.clients import attempt, one, start_with_shop, stays_asleep, wait_frozen
from harness import Server, kill_engine
from waiting import wait_until


def secret(server: Server) -> str:
    return str(server.api.credentials("shop")["password"])


def assert_only_the_new_is_good(server: Server, old: str) -> None:
    new = secret(server)
    assert new != old
    assert attempt(server, password=new) == (0, "")
    assert attempt(server, password=old)[0] == 1045
    for event in server.api.events("shop", after=0, limit=1000, wait_s=0, sleep=True):
        assert new not in event["message"]
    for path in (server.log, *server.home.glob("clusters/*/log/*"), *server.home.glob("clusters/*/data/binlog.0*")):
        content = path.read_bytes()
        assert new.encode() not in content, path
        assert old.encode() not in content, path


def test_a_new_password_is_in_force_at_once_and_sessions_stay(shop: Server) -> None:
    old = secret(shop)
    with shop.mysql() as session:
        pid = shop.show("shop")["engine_pid"]
        printed = shop.run("password", "shop")
        assert printed == shop.url("shop") + "\n"
        assert one(session, "SELECT 1") == 1
        assert shop.show("shop")["engine_pid"] == pid
    assert_only_the_new_is_good(shop, old)
    assert shop.events("shop").count("0016") == 1


def test_a_sleeping_cluster_is_woken_for_it_and_knows_it_when_it_sleeps_again(shop: Server) -> None:
    old = secret(shop)
    assert shop.json("password", "shop")["url"] == shop.url("shop")
    assert shop.show("shop")["compute"] == "running"
    shop.run("pause", "shop")
    assert stays_asleep(shop, lambda: attempt(shop, password=old)[0]) == 1045
    assert_only_the_new_is_good(shop, old)


def test_a_frozen_cluster_is_thawed_for_it(quick_shop: Server) -> None:
    old = secret(quick_shop)
    with quick_shop.mysql() as session:
        wait_frozen(quick_shop)
        quick_shop.run("password", "shop")
        assert one(session, "SELECT 1") == 1
    assert_only_the_new_is_good(quick_shop, old)


@pytest.mark.parametrize("state", ["stopped"])
def test_it_is_finished_when_the_server_is_killed(shop: Server, state: str) -> None:
    for number, step in enumerate(("recorded", "promoted"), start=1):
        shop.stop()
        shop.start(ZORYA_FAILPOINTS=f"password.{step}=kill")
        old = secret(shop)
        if state == "running":
            shop.api.resume("shop")
        shop.cli("password", "shop")
        shop.wait_killed()
        shop.start()
        if step == "recorded" and state == "stopped":
            # The engine has never heard of it: what is told is what works, until the engine runs.
            assert secret(shop) == old
            shop.run("resume", "shop")
        wait_until(partial(has_changed, shop, number), "the new password is in force")
        assert_only_the_new_is_good(shop, old)


def has_changed(server: Server, times: int) -> bool:
    return server.events("shop").count("0016") == times


def test_it_is_finished_when_the_engine_is_lost_with_the_server(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("engine lost")
    start_with_shop(server, ZORYA_FAILPOINTS="password.set=kill")
    old = secret(server)
    server.mysql_query("SELECT 1")
    pid = server.show("shop")["engine_pid"]
    server.cli("password", "shop")
    server.wait_killed()
    kill_engine(pid)
    server.start()
    server.wait_for("stopped", "shop")
    server.run("resume", "shop")
    wait_until(lambda: server.events("shop").count("0016") == 1, "the new password is in force")
    assert_only_the_new_is_good(server, old)


def test_it_is_set_again_when_the_user_has_changed_its_own(shop: Server) -> None:
    old = secret(shop)
    with shop.mysql() as session:
        forget: Any = session.cursor()
        forget.execute("SET PASSWORD = PASSWORD('mine')")
    assert attempt(shop, password=old)[0] == 1045
    assert attempt(shop, password="mine") == (0, "")
    shop.run("password", "shop")
    assert_only_the_new_is_good(shop, old)
    assert attempt(shop, password="mine")[0] == 1045
