"""A new password: in force at once, sessions kept, and finished whatever dies in between."""

from typing import LiteralString

import psycopg
import pytest

from harness import Server, kill_engine
from waiting import wait_until


def may_log_in(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=30).close()
    except psycopg.OperationalError as error:
        assert "password authentication failed" in str(error)
        return False
    return True


def secret(url: str) -> str:
    return url.rpartition("@")[0].rpartition(":")[2]


def administer(server: Server, statement: LiteralString) -> None:
    with server.administrator() as administrator:
        administrator.execute(statement)


def assert_only_the_new_is_good(server: Server, old: str) -> None:
    new = server.url()
    assert new != old
    assert may_log_in(new)
    assert not may_log_in(old)
    for event in server.api.events("main", after=0, limit=1000, wait_s=0, sleep=True):
        assert secret(new) not in event["message"]
    for text in (server.log.read_text(), *(log.read_text() for log in server.home.glob("clusters/*/log/*"))):
        assert secret(new) not in text
        assert secret(old) not in text


def test_a_new_password_is_in_force_at_once_and_sessions_stay(server: Server) -> None:
    old = server.url()
    with psycopg.connect(old, autocommit=True) as session:
        pid = server.show()["engine_pid"]
        printed = server.run("password", "main")
        assert printed == server.url() + "\n"
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert server.show()["engine_pid"] == pid
    assert_only_the_new_is_good(server, old)
    assert server.events().count("0016") == 1


def test_a_stopped_cluster_is_woken_for_it(server: Server) -> None:
    old = server.url()
    credentials = server.json("password", "main")
    assert credentials["url"] == server.url()
    assert server.show()["compute"] == "running"
    assert_only_the_new_is_good(server, old)


def test_a_frozen_cluster_is_thawed_for_it(server: Server) -> None:
    server.run("modify", "main", "--freeze-after", "0.05")
    old = server.url()
    with psycopg.connect(old, autocommit=True) as session:
        server.wait_for("frozen")
        server.run("password", "main")
        assert session.execute("SELECT 1").fetchone() == (1,)
    assert_only_the_new_is_good(server, old)


def test_what_the_engine_does_is_what_is_told_when_it_is_changed_often(server: Server) -> None:
    server.query("SELECT 1")
    for _ in range(5):
        old = server.url()
        server.api.change_password("main")
        assert_only_the_new_is_good(server, old)


@pytest.mark.parametrize("step", ["recorded", "set", "promoted"])
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_it_is_finished_when_the_server_is_killed(stopped_server: Server, step: str, state: str) -> None:
    server = stopped_server
    server.start(ZORYA_FAILPOINTS=f"password.{step}=kill")
    old = server.url()
    if state == "running":
        server.query("SELECT 1")
    server.cli("password", "main")
    server.wait_killed()
    server.start()
    if step == "recorded" and state == "stopped":
        # The engine has never heard of it: what is told is what works, until the engine runs.
        assert server.url() == old
        server.run("resume", "main")
    wait_until(lambda: server.events().count("0016") == 1, "the new password is in force")
    assert_only_the_new_is_good(server, old)


def test_it_is_finished_when_the_engine_is_lost_with_the_server(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("engine lost")
    server.start(ZORYA_FAILPOINTS="password.set=kill")
    old = server.url()
    server.query("SELECT 1")
    pid = server.show()["engine_pid"]
    server.cli("password", "main")
    server.wait_killed()
    kill_engine(pid)
    server.start()
    server.wait_for("stopped")
    server.run("resume", "main")
    wait_until(lambda: server.events().count("0016") == 1, "the new password is in force")
    assert_only_the_new_is_good(server, old)


def test_it_goes_on_at_the_next_start_when_the_engine_does_not_start(server: Server) -> None:
    server.allow("resume failed")
    old = server.url()
    settings = next(server.home.glob("clusters/*/data/PG_VERSION"))
    version = settings.read_text()
    settings.write_text("3\n")
    failed = server.cli("password", "main")
    assert failed.returncode == 1
    assert "The engine has not confirmed the new password" in failed.stderr
    assert server.url() == old
    settings.write_text(version)
    server.run("resume", "main")
    wait_until(lambda: server.events().count("0016") == 1, "the new password is in force")
    assert_only_the_new_is_good(server, old)


def test_it_goes_on_by_itself_when_the_engine_does_not_take_it(server: Server) -> None:
    server.allow("the engine did not take the new password")
    old = server.url()
    server.query("SELECT 1")
    administer(server, "ALTER ROLE zorya RENAME TO away")
    failed = server.cli("password", "main")
    assert failed.returncode == 1
    assert "The engine has not confirmed the new password" in failed.stderr
    assert server.url() == old
    administer(server, "ALTER ROLE away RENAME TO zorya")
    wait_until(lambda: server.events().count("0016") == 1, "the new password is in force")
    assert_only_the_new_is_good(server, old)


def test_the_next_engine_and_the_next_server_have_it(server: Server) -> None:
    old = server.url()
    server.run("password", "main")
    server.run("pause", "main")
    server.stop()
    server.start()
    assert_only_the_new_is_good(server, old)


def test_a_missing_cluster_is_told(server: Server) -> None:
    refused = server.cli("password", "shop")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "There is no cluster named" in refused.stderr
