"""SIGKILL for the server between any two steps of any operation: the next start goes on, nothing is lost or doubled."""

import pytest

from harness import Server, WaitingClient, is_gone, kill_engine
from held import Held
from waiting import wait_until


def reach(server: Server, *args: str) -> None:
    """Run a command that the server does not survive; at its last steps the command may have its answer already."""
    assert server.cli(*args).returncode in {0, 1}
    server.wait_killed()


@pytest.mark.parametrize("step", ["recorded", "template", "copy", "provision", "built", "done"])
def test_create_goes_on_when_the_server_is_killed(server: Server, step: str) -> None:
    server.stop()
    server.start(ZORYA_FAILPOINTS=f"create.{step}=kill")
    reach(server, "create", "shop")
    server.start()
    wait_until(lambda: server.show("shop")["status"] == "available", "the cluster is made")
    assert server.query("SELECT current_database()", "shop") == [("shop",)]
    assert server.besides_scaling("shop")[0] == "0170"
    assert server.events("shop").count("0170") == 1
    folders = list((server.home / "clusters" / server.show("shop")["id"]).iterdir())
    assert sorted(folder.name for folder in folders) == ["conf", "data", "log"]


def test_first_cluster_is_made_when_the_server_is_killed_while_making_it(stopped_server: Server) -> None:
    server = stopped_server
    server.begin(ZORYA_FAILPOINTS="create.copy=kill")
    server.wait_killed()
    server.start()
    wait_until(lambda: server.show()["status"] == "available", "the cluster is made")
    assert [cluster["name"] for cluster in server.json("list")] == ["main"]
    assert server.query("SELECT 1") == [(1,)]


def test_cluster_is_resumed_by_the_next_client_when_the_server_is_killed_before_the_start(
    stopped_server: Server,
) -> None:
    server = stopped_server
    server.start(ZORYA_FAILPOINTS="resume.begun=kill")
    reach(server, "resume", "main")
    server.start()
    assert server.query("SELECT 1") == [(1,)]
    assert server.besides_scaling()[-1] == "0148"


@pytest.mark.parametrize("step", ["started", "done"])
def test_resume_goes_on_when_the_server_is_killed(stopped_server: Server, step: str) -> None:
    server = stopped_server
    server.start(ZORYA_FAILPOINTS=f"resume.{step}=kill")
    reach(server, "resume", "main")
    server.start()
    server.wait_for("running")
    assert server.query("SELECT 1") == [(1,)]
    assert server.events().count("0147") == 1
    assert server.besides_scaling()[-1] in {"0148", "1004"}


@pytest.mark.parametrize("step", ["begun", "checkpointed", "signalled", "done"])
def test_pause_goes_on_when_the_server_is_killed(stopped_server: Server, step: str) -> None:
    server = stopped_server
    server.start(ZORYA_FAILPOINTS=f"pause.{step}=kill")
    server.query("CREATE TABLE t AS SELECT 7 AS n")
    reach(server, "pause", "main")
    server.start()
    server.wait_for("stopped")
    assert server.query("SELECT n FROM t") == [(7,)]
    assert server.besides_scaling() == ["0170", "0147", "0148", "0144", "0145", "0147", "0148"]


@pytest.mark.parametrize("step", ["begun", "stopped", "erased"])
def test_delete_goes_on_when_the_server_is_killed(stopped_server: Server, step: str) -> None:
    server = stopped_server
    server.start(ZORYA_FAILPOINTS=f"delete.{step}=kill")
    server.run("create", "gone")
    server.query("SELECT 1", "gone")
    folder = server.home / "clusters" / server.show("gone")["id"]
    reach(server, "delete", "gone", "--yes")
    server.start()
    wait_until(lambda: server.cli("show", "gone").returncode == 1, "the cluster is gone")
    assert not folder.exists()
    assert server.besides_scaling("gone")[-1] == "0171"
    assert server.query("SELECT 1") == [(1,)]


def test_running_engine_is_taken_over_when_the_server_was_killed(server: Server) -> None:
    server.query("CREATE TABLE t AS SELECT 7 AS n")
    before = server.show()
    server.kill()
    server.start()
    after = server.show()
    assert after["compute"] == "running"
    assert after["engine_pid"] == before["engine_pid"]
    assert after["endpoint"] == before["endpoint"]
    assert server.besides_scaling() == ["0170", "0147", "0148", "1004"]
    assert server.query("SELECT n FROM t") == [(7,)]
    server.run("pause", "main")
    assert server.show()["compute"] == "stopped"


def test_engine_that_ended_while_no_server_ran_is_found_stopped(server: Server) -> None:
    server.allow("engine lost")
    server.query("CREATE TABLE t AS SELECT 7 AS n")
    pid = server.show()["engine_pid"]
    server.kill()
    kill_engine(pid)
    server.start()
    server.wait_for("stopped")
    assert server.besides_scaling()[-1] == "1003"
    assert server.query("SELECT n FROM t") == [(7,)]


def test_number_of_another_process_in_the_lock_file_is_not_trusted(server: Server) -> None:
    server.allow("engine lost")
    server.query("CREATE TABLE t AS SELECT 7 AS n")
    shown = server.show()
    server.kill()
    kill_engine(shown["engine_pid"])
    lock = server.home / "clusters" / shown["id"] / "data" / "postmaster.pid"
    lines = lock.read_text().splitlines()
    # A process that lives for the whole test and is no engine: the first of all.
    lock.write_text("\n".join(["1", *lines[1:]]) + "\n")
    server.start()
    server.wait_for("stopped")
    assert server.query("SELECT n FROM t") == [(7,)]


def test_waiting_client_is_told_when_the_server_stops(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "resume.started")
    server.start(**held.env)
    server.allow("resume failed")
    with WaitingClient(server.url()) as waiting:
        held.wait()
        assert server.process is not None
        server.process.terminate()
        error = waiting.error()
        held.release()
        assert server.process.wait(30) == 0
    assert "server is stopping" in error


def test_second_signal_ends_the_server_at_once_and_leaves_the_engine(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("ended by a second signal")
    held = Held(server, "pause.begun")
    server.start(**held.env)
    server.run("resume", "main")
    pid = server.show()["engine_pid"]
    assert server.process is not None
    server.process.terminate()
    held.wait()
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert not is_gone(pid)
    server.start()
    server.wait_for("stopped")
    assert is_gone(pid)
