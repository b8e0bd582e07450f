"""SIGKILL for the engine at every step of resume, pause and delete, and engines that cannot start at all."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from harness import Server, WaitingClient, is_gone, kill_engine, running
from held import Held
from waiting import wait_until
from zorya.engines.postgres import installations


def wait_held(server: Server, held: Held) -> int:
    """Wait until the server has come to the step; answer the engine's process."""
    held.wait()
    pid = server.show()["engine_pid"]
    assert isinstance(pid, int)
    return pid


def test_client_is_told_and_the_next_is_served_when_the_engine_dies_while_it_starts(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("resume failed")
    held = Held(server, "resume.started")
    server.start(**held.env)
    # With TLS libpq would try once more without, and be served.
    with WaitingClient(f"{server.url()}?sslmode=disable") as client:
        kill_engine(wait_held(server, held))
        held.release()
        error = client.error()
    assert 'the engine of cluster "main" did not start' in error
    shown = server.show()
    assert shown["compute"] == "failed"
    assert "SIGKILL" in shown["reason"]
    assert server.besides_scaling()[-1] == "1002"
    assert server.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize("step", ["begun", "checkpointed", "signalled"])
def test_cluster_is_paused_and_whole_when_the_engine_dies_in_the_pause(stopped_server: Server, step: str) -> None:
    server = stopped_server
    server.allow("no checkpoint before the stop")
    held = Held(server, f"pause.{step}")
    server.start(**held.env)
    server.query("CREATE TABLE t AS SELECT 7 AS n")
    pid = server.show()["engine_pid"]
    pausing = subprocess.Popen([*server.command, "pause", "main"], env=server.env)
    held.wait()
    if not is_gone(pid):
        kill_engine(pid)
    held.release()
    assert pausing.wait(30) == 0
    assert server.show()["compute"] == "stopped"
    assert server.query("SELECT n FROM t") == [(7,)]


def test_delete_is_completed_when_the_engine_dies(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "delete.begun")
    server.start(**held.env)
    server.run("resume", "main")
    deleting = subprocess.Popen([*server.command, "delete", "main", "--yes"], env=server.env)
    kill_engine(wait_held(server, held))
    held.release()
    assert deleting.wait(30) == 0
    assert server.json("list") == []


def test_running_engine_that_dies_is_started_by_the_next_client_and_nothing_is_lost(server: Server) -> None:
    server.allow("engine lost")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (7)")
        # A backend that is busy when its postmaster dies goes on for a while: the folder is not used until it ends.
        with WaitingClient(server.url(), "SELECT count(*) FROM generate_series(1, 50000000)"):
            wait_until(lambda: _busy(connection), "the query is under way")
            kill_engine(server.show()["engine_pid"])
            assert server.query("SELECT n FROM t") == [(7,)]
    assert server.besides_scaling()[2:] == ["0148", "1003", "0147", "0148"]


def test_backend_that_dies_ends_the_other_sessions_but_not_the_engine(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as one, psycopg.connect(server.url()) as other:
        pid = one.info.backend_pid
        os.kill(pid, 9)
        wait_until(lambda: _is_cut(other), "the other session has ended")
    wait_until(lambda: _answers(server), "the engine has recovered")
    assert server.show()["compute"] == "running"


def _is_cut(connection: psycopg.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def _busy(connection: psycopg.Connection) -> bool:
    sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT count%' AND state = 'active'"
    return connection.execute(sql).fetchone() is not None


def _answers(server: Server) -> bool:
    try:
        return bool(server.query("SELECT 1"))
    except psycopg.OperationalError:
        return False


@pytest.fixture
def odd_postgres(new_folder: Callable[[], Path]) -> Iterator[Path]:
    """A copy of the preferred installation whose `postgres` a test can replace."""
    folder = new_folder() / "pg"
    found = installations.find(None)[0]
    (folder / "bin").mkdir(parents=True)
    for program in found.folder.joinpath("bin").iterdir():
        (folder / "bin" / program.name).symlink_to(program)
    for path in (folder, folder / "bin"):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def replace_postgres(folder: Path, script: str, *, name: str = "postgres") -> None:
    """Put a shell script in place of `postgres`, or of another of its programs; $REAL is the real one."""
    program = folder / "bin" / name
    real = program.resolve()
    program.unlink()
    program.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    program.chmod(0o755)


def test_every_waiting_client_is_told_when_the_engine_crashes_at_its_start(home: Path, odd_postgres: Path) -> None:
    last_words = "2026-01-01 00:00:00.000 UTC [1] FATAL:  out of luck"
    replace_postgres(
        odd_postgres, f'case "$*" in *config_file=*/conf/*) echo "{last_words}" >&2; exit 1;; esac; exec $REAL "$@"'
    )
    with running(home, ZORYA_POSTGRES=str(odd_postgres)) as server:
        server.allow("resume failed")
        clients = [WaitingClient(server.url()) for _ in range(5)]
        for client in clients:
            client.__enter__()
        for client in clients:
            assert 'the engine of cluster "main" did not start' in client.error()
        assert "out of luck" in server.show()["reason"]
        assert "out of luck" in server.cli("resume", "main").stderr


def test_every_waiting_client_is_told_when_the_deadline_passes_and_the_start_goes_on(
    home: Path, odd_postgres: Path
) -> None:
    go = odd_postgres.parent / "go"
    replace_postgres(
        odd_postgres,
        f'case "$*" in *config_file=*/conf/*) while [ ! -e {go} ]; do sleep 0.05; done;; esac; exec $REAL "$@"',
    )
    with running(home, ZORYA_POSTGRES=str(odd_postgres), ZORYA_WAKE_TIMEOUT_S="0.5") as server:
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match=r"did not start within 0\.5 s; the start goes on"):
            psycopg.connect(server.url())
        assert time.monotonic() - began < 20
        assert server.show()["compute"] == "resuming"
        go.touch()
        server.wait_for("running")
        assert server.query("SELECT 1") == [(1,)]


def test_engine_that_hangs_at_its_start_can_be_stopped(home: Path, odd_postgres: Path) -> None:
    replace_postgres(odd_postgres, 'case "$*" in *config_file=*/conf/*) exec sleep 1000;; esac; exec $REAL "$@"')
    with running(home, ZORYA_POSTGRES=str(odd_postgres), ZORYA_WAKE_TIMEOUT_S="0.5") as server:
        assert server.cli("resume", "main").returncode == 1
        server.run("pause", "main", "--force")
        assert server.show()["compute"] == "stopped"


def test_engine_that_does_not_stop_is_stopped_by_force(home: Path) -> None:
    with running(home, ZORYA_STOP_TIMEOUT_S="0.5") as server:
        server.allow("engine stopped by force", "no checkpoint before the stop")
        server.query("CREATE TABLE t AS SELECT 7 AS n")
        pid = server.show()["engine_pid"]
        os.kill(pid, 19)
        pausing = subprocess.Popen([*server.command, "pause", "main"], env=server.env)
        assert pausing.wait(60) == 0
        assert "1005" in server.events()
        assert server.query("SELECT n FROM t") == [(7,)]


def test_nothing_is_kept_when_the_engine_is_killed_at_any_step_of_create(home: Path, odd_postgres: Path) -> None:
    with running(home, ZORYA_POSTGRES=str(odd_postgres)) as server:
        server.allow("create failed")
        for program, step in (("pg_resetwal", "*--pgdata*"), ("postgres", "*--single*"), ("initdb", "*--sync-only*")):
            server.begin_events()
            path = odd_postgres / "bin" / program
            real = path.readlink()
            replace_postgres(odd_postgres, f'case "$*" in {step}) kill -9 $$;; esac; exec $REAL "$@"', name=program)
            refused = server.cli("create", "shop")
            assert refused.returncode == 1, program
            assert "could not make the data" in refused.stderr, program
            assert [cluster["name"] for cluster in server.json("list")] == ["main"], program
            assert len(list((server.home / "clusters").iterdir())) == 1, program
            assert server.besides_scaling("shop") == ["1001", "0171"], program
            path.unlink()
            path.symlink_to(real)


def test_postgres_that_is_too_old_or_missing_is_told(home: Path, odd_postgres: Path) -> None:
    replace_postgres(odd_postgres, 'echo "postgres (PostgreSQL) 13.9"')
    for folder in (odd_postgres, home / "nowhere"):
        server = Server(home)
        process = server.begin(ZORYA_POSTGRES=str(folder))
        assert process.wait(60) == 1
        assert "holds no PostgreSQL 14 or newer" in server.log.read_text()


def test_version_that_is_not_installed_is_told_with_those_that_are(server: Server) -> None:
    refused = server.cli("create", "old", "--version", "9")
    assert refused.returncode == 1
    assert "no PostgreSQL 9" in refused.stderr
    assert server.show()["engine_version"] in refused.stderr
