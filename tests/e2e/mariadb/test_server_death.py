"""SIGKILL for the server between any two steps of what it does with a MariaDB cluster: the next start goes on."""

import pytest

from e2e.mariadb.clients import LOST, WaitingClient, one, restart, run, start_with_shop
from harness import Server, is_gone, kill_engine
from waiting import wait_until


def reach(server: Server, *args: str) -> None:
    """Run a command that the server does not survive; at its last steps the command may have its answer already."""
    assert server.cli(*args).returncode in {0, 1}
    server.wait_killed()


@pytest.mark.parametrize("step", ["recorded", "template", "copy", "provision", "identities", "built", "done"])
def test_create_goes_on_when_the_server_is_killed(server: Server, step: str) -> None:
    restart(server, ZORYA_FAILPOINTS=f"create.{step}=kill")
    reach(server, "create", "shop", "--engine", "mariadb")
    server.start()
    wait_until(lambda: server.show("shop")["status"] == "available", "the cluster is made")
    assert server.mysql_query("SELECT DATABASE()") == (("shop",),)
    assert server.events("shop").count("0170") == 1
    folders = {folder.name for folder in (server.home / "clusters" / server.show("shop")["id"]).iterdir()}
    assert folders == {"conf", "data", "files", "log", "tmp"}


@pytest.mark.parametrize("step", ["begun", "started", "done"])
def test_resume_goes_on_when_the_server_is_killed(stopped_server: Server, step: str) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_FAILPOINTS=f"resume.{step}=kill")
    reach(server, "resume", "shop")
    server.start()
    if step != "begun":
        server.wait_for("running", "shop")
    assert server.mysql_query("SELECT 1") == ((1,),)
    assert server.events("shop").count("0147") == 1
    assert server.besides_scaling("shop")[-1] in {"0148", "1004"}


@pytest.mark.parametrize("step", ["begun", "held", "checkpointed", "signalled", "done"])
def test_pause_goes_on_when_the_server_is_killed(stopped_server: Server, step: str) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_FAILPOINTS=f"pause.{step}=kill")
    with server.mysql() as session:
        run(session, "CREATE TABLE t AS SELECT 7 AS n", "CREATE USER app IDENTIFIED BY 'x'", "GRANT SELECT ON t TO app")
    reach(server, "pause", "shop")
    server.start()
    server.wait_for("stopped", "shop")
    assert server.mysql_query("SELECT n FROM t", user="app", password="x") == ((7,),)
    assert server.besides_scaling("shop") == ["0170", "0147", "0148", "0144", "0145", "0147", "0148"]


@pytest.mark.parametrize("step", ["begun", "stopped", "erased"])
def test_delete_goes_on_when_the_server_is_killed(stopped_server: Server, step: str) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_FAILPOINTS=f"delete.{step}=kill")
    server.mysql_query("SELECT 1")
    folder = server.home / "clusters" / server.show("shop")["id"]
    reach(server, "delete", "shop", "--yes")
    server.start()
    wait_until(lambda: server.cli("show", "shop").returncode == 1, "the cluster is gone")
    assert not folder.exists()
    assert server.besides_scaling("shop")[-1] == "0171"


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
    release = server.home.parent / "release"
    start_with_shop(server, ZORYA_FAILPOINTS="resume.started=pause", ZORYA_FAILPOINT_RELEASE=str(release))
    server.allow("resume failed")
    with WaitingClient(server) as waiting:
        wait_until(release.with_suffix(".reached").exists, "the start is under way")
        assert server.process is not None
        server.process.terminate()
        error = waiting.error()
        release.touch()
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
    release = server.home.parent / "release"
    start_with_shop(server, ZORYA_FAILPOINTS="pause.begun=pause", ZORYA_FAILPOINT_RELEASE=str(release))
    server.run("resume", "shop")
    pid = server.show("shop")["engine_pid"]
    assert server.process is not None
    server.process.terminate()
    wait_until(release.with_suffix(".reached").exists, "the pause is under way")
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert not is_gone(pid)
    server.start()
    server.wait_for("stopped", "shop")
    assert is_gone(pid)
