"""SIGKILL for the server between any two steps of what it does with a MariaDB cluster: the next start goes on."""

from functools import partial

import pytest

from e2e.mariadb.clients import LOST, WaitingClient, one, run, start_with_shop
from harness import Server, is_gone, kill_engine
from held import Held
from waiting import wait_until


def reach(server: Server, *args: str) -> None:
    """Run a command that the server does not survive; at its last steps the command may have its answer already."""
    assert server.cli(*args).returncode in {0, 1}
    server.wait_killed()


def dies_at(server: Server, step: str) -> None:
    """Stop the server with its engines, and start it so that it dies at this step."""
    server.stop()
    server.start(ZORYA_FAILPOINTS=f"{step}=kill")


def is_made(server: Server, name: str) -> bool:
    return bool(server.show(name)["status"] == "available")


def test_create_goes_on_when_the_server_is_killed(server: Server) -> None:
    for step in ("provision", "identities"):
        name = f"at-{step}"
        dies_at(server, f"create.{step}")
        reach(server, "create", name, "--engine", "mariadb")
        server.start()
        wait_until(partial(is_made, server, name), f"{name} is made")
        assert server.mysql_query("SELECT DATABASE()", name) == ((name,),)
        assert server.events(name).count("0170") == 1
        folders = {folder.name for folder in (server.home / "clusters" / server.show(name)["id"]).iterdir()}
        assert folders == {"conf", "data", "files", "log", "tmp"}, step


def test_resume_and_pause_go_on_when_the_server_is_killed(shop: Server) -> None:
    with shop.mysql() as session:
        run(session, "CREATE TABLE t AS SELECT 0 AS n", "CREATE USER app IDENTIFIED BY 'p0'", "GRANT ALL ON t TO app")
    for number, step in enumerate(("resume.started",)):
        dies_at(shop, step)
        before = shop.events("shop")
        reach(shop, "resume", "shop")
        shop.start()
        if step != "resume.begun":
            shop.wait_for("running", "shop")
        assert shop.mysql_query("SELECT n FROM t") == ((number,),), step
        shop.mysql_query("UPDATE t SET n = n + 1")
        since = shop.events("shop")[len(before) :]
        assert (since.count("0147"), since.count("0148") + since.count("1004")) in {(1, 1), (1, 2)}, step
    for step in ("held", "signalled"):
        dies_at(shop, f"pause.{step}")
        with shop.mysql() as session:
            run(session, "UPDATE t SET n = n + 1", f"ALTER USER app IDENTIFIED BY '{step}'")
        reach(shop, "pause", "shop")
        shop.start()
        shop.wait_for("stopped", "shop")
        assert shop.mysql_query("SELECT n FROM t", user="app", password=step)[0][0] >= 2
    assert shop.mysql_query("SELECT n FROM t") == ((3,),)


def test_delete_goes_on_when_the_server_is_killed(shop: Server) -> None:
    for step in ("erased",):
        dies_at(shop, f"delete.{step}")
        shop.mysql_query("SELECT 1")
        folder = shop.home / "clusters" / shop.show("shop")["id"]
        reach(shop, "delete", "shop", "--yes")
        shop.start()
        wait_until(lambda: "shop" not in {one["name"] for one in shop.api.clusters()}, "the cluster is gone")
        assert not folder.exists()
        assert shop.besides_scaling("shop")[-1] == "0171"
        shop.api.create({"name": "shop", "engine": "mariadb"})


def test_running_engine_is_taken_over_and_its_sessions_and_transactions_go_on(shop: Server) -> None:
    shop.api.resume("shop")
    with shop.mysql() as session:
        run(session, "CREATE TABLE t AS SELECT 7 AS n", "START TRANSACTION", "UPDATE t SET n = 8")
        before = shop.show("shop")
        shop.kill()
        run(session, "UPDATE t SET n = n + 1")
        shop.start()
        after = shop.show("shop")
        assert [after[key] for key in ("compute", "engine_pid", "endpoint", "sessions")] == [
            *("running", before["engine_pid"], before["endpoint"]),
            1,
        ]
        session.commit()
        assert one(session, "SELECT n FROM t") == 9
    assert shop.besides_scaling("shop") == ["0170", "0147", "0148", "1004"]
    assert shop.mysql_query("SELECT n FROM t") == ((9,),)
    shop.run("pause", "shop")
    assert shop.mysql_query("SELECT n FROM t") == ((9,),)


def test_relayed_session_ends_with_the_server_and_is_relayed_again(stopped_server: Server) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_ATTACH="relay")
    shown = server.show("shop")
    assert (shown["attach"], shown["attach_reason"]) == ("relay", "The setting attach says so.")
    session = server.mysql()
    assert one(session, "SELECT USER()") == "zorya@127.0.0.1"
    server.kill()
    with pytest.raises(LOST):
        one(session, "SELECT 1")
    server.start(ZORYA_ATTACH="relay")
    assert server.mysql_query("SELECT 1") == ((1,),)
    wait_until(lambda: server.show("shop")["sessions"] == 0, "the relayed session is over")


def test_engine_that_ended_while_no_server_ran_is_found_stopped_and_recovers(shop: Server) -> None:
    shop.allow("engine lost")
    shop.mysql_query("CREATE TABLE t AS SELECT 7 AS n")
    pid = shop.show("shop")["engine_pid"]
    shop.kill()
    kill_engine(pid)
    shop.start()
    shop.wait_for("stopped", "shop")
    assert shop.besides_scaling("shop")[-1] == "1003"
    assert not (shop.home / "clusters" / shop.show("shop")["id"] / "identities.json").exists()
    assert shop.mysql_query("SELECT n FROM t") == ((7,),)


def test_number_of_another_process_in_the_pid_file_is_not_trusted(shop: Server) -> None:
    shop.allow("engine lost")
    shop.mysql_query("CREATE TABLE t AS SELECT 7 AS n")
    shown = shop.show("shop")
    shop.kill()
    (file,) = (shop.home / "clusters" / shown["id"] / "data").glob("*.pid")
    kill_engine(shown["engine_pid"])
    # A process that lives for the whole test and is no engine: the first of all.
    file.write_text("1\n")
    shop.start()
    shop.wait_for("stopped", "shop")
    assert shop.mysql_query("SELECT n FROM t") == ((7,),)


def test_waiting_client_is_told_when_the_server_stops(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "resume.started")
    start_with_shop(server, **held.env)
    server.allow("resume failed")
    with WaitingClient(server) as waiting:
        held.wait()
        assert server.process is not None
        server.process.terminate()
        error = waiting.error()
        held.release()
        assert server.process.wait(30) == 0
    assert "server is stopping" in error


def test_client_that_connects_while_no_server_is_there_is_served_by_the_next(shop: Server) -> None:
    shop.mysql_query("SELECT 1")
    client = WaitingClient(shop)
    shop.kill()
    with client:
        shop.start()
        assert client.error() == ""
    assert shop.besides_scaling("shop") == ["0170", "0147", "0148", "1004"]


def test_second_signal_ends_the_server_at_once_and_leaves_the_engine(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("ended by a second signal")
    held = Held(server, "pause.begun")
    start_with_shop(server, **held.env)
    server.run("resume", "shop")
    pid = server.show("shop")["engine_pid"]
    assert server.process is not None
    server.process.terminate()
    held.wait()
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert not is_gone(pid)
    server.start()
    server.wait_for("stopped", "shop")
    assert is_gone(pid)
