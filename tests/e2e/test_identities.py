"""Who may log in is kept when an engine ends cleanly, and only then; see control/identities.py."""

import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from harness import Server, kill_engine
from held import Held
from waiting import wait_until
from zorya.core.identity import Identities, from_json


def parse(text: str) -> Identities:
    """Answer the identities that a file has."""
    found = from_json(text)
    assert isinstance(found, Identities)
    return found


def file_of(server: Server, name: str = "main") -> Path:
    return server.home / "clusters" / str(server.show(name)["id"]) / "identities.json"


def saved(server: Server, name: str = "main") -> Identities:
    path = file_of(server, name)
    assert path.stat().st_mode & 0o777 == 0o600
    return parse(path.read_text())


def verifier(server: Server, role: str) -> str:
    """Answer what the engine itself has of a role; as its administrator, since nobody else may read it."""
    with server.administrator() as connection:
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role]).fetchone()
        assert row is not None
        return str(row[0])


def test_they_are_known_from_the_creation_on_and_forgotten_while_an_engine_runs(server: Server) -> None:
    assert set(saved(server).roles) == {"zorya"}
    server.query("SELECT 1")
    assert not file_of(server).exists()


def test_they_are_kept_after_a_pause_as_the_engine_had_them(server: Server) -> None:
    server.query("CREATE ROLE app LOGIN PASSWORD 'x' CONNECTION LIMIT 3")
    server.query("CREATE DATABASE more")
    has = verifier(server, "app")
    server.run("pause", "main")
    known = saved(server)
    app = known.roles["app"]
    assert (app.verifier.value if app.verifier else None, app.connection_limit, app.may_log_in) == (has, 3, True)
    assert {"main", "more"} <= set(known.databases)
    assert "zorya_admin" not in known.roles
    server.query("DROP ROLE app")
    assert not file_of(server).exists()
    server.run("pause", "main")
    assert "app" not in saved(server).roles


def test_they_do_not_count_when_a_backup_of_the_data_was_put_in_its_place(server: Server, tmp_path: Path) -> None:
    data = file_of(server).with_name("data")
    backup = tmp_path / "data"
    server.query("CREATE ROLE app LOGIN PASSWORD 'then'")
    server.run("pause", "main")
    subprocess.run(["cp", "-a", str(data), str(backup)], check=True)
    server.query("ALTER ROLE app PASSWORD 'now'")
    server.run("pause", "main")
    subprocess.run(["rm", "-r", str(data)], check=True)
    subprocess.run(["cp", "-a", str(backup), str(data)], check=True)
    endpoint = server.show()["endpoint"]
    with psycopg.connect(
        host=endpoint["host"], port=endpoint["port"], user="app", password="then", dbname="main"
    ) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_they_are_kept_when_the_server_stops_and_when_a_cluster_pauses_by_itself(server: Server) -> None:
    server.query("CREATE ROLE app LOGIN")
    server.stop()
    (path,) = server.home.glob("clusters/*/identities.json")
    assert "app" in parse(path.read_text()).roles
    server.start(ZORYA_PAUSE_AFTER="1")
    server.run("modify", "main", "--pause-after", "1")
    server.query("CREATE ROLE more LOGIN")
    server.wait_for("stopped")
    assert {"app", "more"} <= set(saved(server).roles)


def test_there_are_none_when_the_engine_was_killed(server: Server) -> None:
    server.allow("engine lost")
    server.query("SELECT 1")
    kill_engine(server.show()["engine_pid"])
    server.wait_for("stopped")
    assert not file_of(server).exists()
    server.query("SELECT 1")
    server.run("pause", "main")
    assert file_of(server).exists()


def test_there_are_none_when_the_engine_was_stopped_by_force(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("stopped by force")
    server.start(ZORYA_STOP_TIMEOUT_S="0.001")
    server.query("SELECT 1")
    server.cli("pause", "main", "--force")
    server.wait_for("stopped")
    assert not file_of(server).exists()


def test_a_role_that_is_changed_during_a_forced_pause_is_not_kept_as_it_was(server: Server) -> None:
    server.query("CREATE ROLE app LOGIN PASSWORD 'old'")
    done: list[int] = []

    def change() -> None:
        connection = psycopg.connect(server.url(), autocommit=True)
        with suppress(psycopg.OperationalError):
            while True:
                connection.execute(f"ALTER ROLE app CONNECTION LIMIT {len(done)}")
                done.append(len(done))
        connection.close()

    changing = threading.Thread(target=change)
    changing.start()
    wait_until(lambda: len(done) > 10, "a role is changed again and again")
    server.run("pause", "main", "--force")
    changing.join(30)
    assert not changing.is_alive()
    kept = saved(server).roles["app"].connection_limit
    assert kept >= done[-1]
    limit = server.query("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'app'")
    assert limit == [(kept,)]


def test_what_a_session_has_not_committed_is_not_kept_when_a_pause_ends_it(server: Server) -> None:
    session = psycopg.connect(server.url())
    session.execute("CREATE ROLE half LOGIN")
    server.run("pause", "main", "--force")
    session.close()
    assert set(saved(server).roles) == {"zorya"}
    assert server.query("SELECT count(*) FROM pg_roles WHERE rolname = 'half'") == [(0,)]


def test_roles_can_be_changed_again_when_a_pause_was_given_up(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "pause.held")
    server.start(**held.env)
    server.query("SELECT 1")
    asked = subprocess.Popen([*server.command, "pause", "main"], env=server.env, stderr=subprocess.DEVNULL)
    held.wait()
    assert server.query("CREATE ROLE app LOGIN") == []
    held.release()
    assert asked.wait(60) == 1
    server.wait_for("running")
    assert not file_of(server).exists()


@pytest.mark.parametrize("step", ["held", "checkpointed", "signalled", "done"])
def test_what_is_kept_is_true_when_the_server_is_killed_in_a_pause(stopped_server: Server, step: str) -> None:
    server = stopped_server
    server.start(ZORYA_FAILPOINTS=f"pause.{step}=kill")
    server.query("CREATE ROLE app LOGIN")
    server.cli("pause", "main")
    server.wait_killed()
    server.start()
    server.wait_for("stopped")
    path = file_of(server)
    assert not path.exists() or "app" in saved(server).roles
    assert step != "done" or path.exists()
    server.query("DROP ROLE app")
    assert not path.exists()
    server.run("pause", "main")
    assert "app" not in saved(server).roles


def test_they_are_forgotten_when_a_server_finds_the_engine_running(server: Server) -> None:
    old = file_of(server).read_text()
    server.query("SELECT 1")
    server.kill()
    path = next(server.home.glob("clusters/*/data")).with_name("identities.json")
    path.write_text(old)
    server.start()
    assert not path.exists()


def test_a_damaged_file_is_removed_at_the_start(server: Server) -> None:
    server.allow("who may log in is not known")
    path = file_of(server)
    server.stop()
    path.write_text("{")
    server.start()
    assert not path.exists()
    assert server.query("SELECT 1") == [(1,)]


def test_a_pause_succeeds_when_they_cannot_be_saved(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("who may log in could not be saved")
    server.start(ZORYA_FAILPOINTS="identities.kept=enospc")
    server.query("SELECT 1")
    server.run("pause", "main")
    assert server.show()["compute"] == "stopped"
    assert not file_of(server).exists()
