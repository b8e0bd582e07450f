"""SIGKILL for MariaDB at every step of resume, pause and delete, and engines that cannot start at all."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest

from e2e.mariadb.clients import LOST, Asked, WaitingClient, begin, run, start_with_shop
from e2e.mariadb.odd_mariadb import STARTS, copy_installation, replace_engine
from harness import Server, is_gone, kill_engine, running
from held import Held
from waiting import wait_until


def wait_held(server: Server, held: Held) -> int:
    """Wait until the server has come to the step; answer the engine's process."""
    held.wait()
    pid = server.show("shop")["engine_pid"]
    assert isinstance(pid, int)
    return pid


def test_client_is_told_and_the_next_is_served_when_the_engine_dies_while_it_starts(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("resume failed")
    held = Held(server, "resume.started")
    start_with_shop(server, **held.env)
    with WaitingClient(server) as client:
        kill_engine(wait_held(server, held))
        held.release()
        error = client.error()
    assert 'the engine of cluster "shop" did not start' in error
    shown = server.show("shop")
    assert shown["compute"] == "failed"
    assert "SIGKILL" in shown["reason"]
    assert server.besides_scaling("shop")[-1] == "1002"
    assert server.mysql_query("SELECT 1") == ((1,),)


@pytest.mark.parametrize("step", ["signalled"])
def test_cluster_is_paused_and_whole_when_the_engine_dies_in_the_pause(stopped_server: Server, step: str) -> None:
    server = stopped_server
    server.allow("no checkpoint before the stop", "who may log in could not be")
    held = Held(server, f"pause.{step}")
    start_with_shop(server, **held.env)
    server.mysql_query("CREATE TABLE t AS SELECT 7 AS n")
    pid = server.show("shop")["engine_pid"]
    pausing = begin(server, "pause", "shop")
    held.wait()
    if not is_gone(pid):
        kill_engine(pid)
    held.release()
    assert pausing.wait(30) == 0
    assert server.show("shop")["compute"] == "stopped"
    assert server.mysql_query("SELECT n FROM t") == ((7,),)


def test_delete_is_completed_when_the_engine_dies(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "delete.begun")
    start_with_shop(server, **held.env)
    server.run("resume", "shop")
    deleting = begin(server, "delete", "shop", "--yes")
    kill_engine(wait_held(server, held))
    held.release()
    assert deleting.wait(30) == 0
    assert {cluster["name"] for cluster in server.json("list")} == {"main"}


def test_running_engine_that_dies_is_started_by_the_next_client_and_nothing_committed_is_lost(shop: Server) -> None:
    shop.allow("engine lost")
    shop.run("modify", "shop", "--freeze-after", "never")
    committed: list[int] = []
    with shop.mysql() as session:
        run(session, "CREATE TABLE t (n int PRIMARY KEY)")

        def write() -> None:
            try:
                for number in range(1_000_000):
                    run(session, f"INSERT INTO t VALUES ({number})")
                    committed.append(number)
            except LOST:
                pass

        writing = threading.Thread(target=write)
        with Asked(shop, "SELECT SLEEP(100)") as busy:
            writing.start()
            wait_until(lambda: len(committed) > 50, "rows are written")
            kill_engine(shop.show("shop")["engine_pid"])
            writing.join(30)
            assert busy.answer() is None
            [[count, last]] = shop.mysql_query("SELECT COUNT(*), MAX(n) FROM t")
    # The one that was under way may be there or not.
    assert count == last + 1
    assert last in {committed[-1], committed[-1] + 1}
    assert shop.besides_scaling("shop")[3:] == ["0148", "1003", "0147", "0148"]
    shop.run("pause", "shop")
    assert shop.mysql_query("SELECT COUNT(*) FROM t") == ((count,),)


@pytest.fixture
def odd_mariadb(new_folder: Callable[[], Path]) -> Iterator[Path]:
    """A copy of the preferred installation whose `mariadbd` a test can replace."""
    folder = copy_installation(new_folder() / "mariadb")
    yield folder
    shutil.rmtree(folder)


def test_every_waiting_client_is_told_when_the_engine_crashes_at_its_start(home: Path, odd_mariadb: Path) -> None:
    with running(home, ZORYA_MARIADB=str(odd_mariadb)) as server:
        server.api.create({"name": "shop", "engine": "mariadb"})
        last_words = "2026-01-01  0:00:00 0 [ERROR] InnoDB: out of luck"
        script = f'case "$*" in {STARTS}) echo "{last_words}" >&2; exit 1;; esac; exec $REAL "$@"'
        replace_engine(odd_mariadb, script)
        server.allow("resume failed")
        clients = [WaitingClient(server) for _ in range(5)]
        for client in clients:
            client.__enter__()
        for client in clients:
            assert 'the engine of cluster "shop" did not start' in client.error()
        assert "out of luck" in server.show("shop")["reason"]
        assert "out of luck" in server.cli("resume", "shop").stderr


def test_every_waiting_client_is_told_when_the_deadline_passes_and_the_start_goes_on(
    home: Path, odd_mariadb: Path
) -> None:
    go = odd_mariadb.parent / "go"
    with running(home, ZORYA_MARIADB=str(odd_mariadb), ZORYA_WAKE_TIMEOUT_S="0.5") as server:
        server.api.create({"name": "shop", "engine": "mariadb"})
        script = f'case "$*" in {STARTS}) while [ ! -e {go} ]; do sleep 0.05; done;; esac; exec $REAL "$@"'
        replace_engine(odd_mariadb, script)
        with pytest.raises(pymysql.err.OperationalError, match=r"did not start within 0\.5 s; the start goes on"):
            server.mysql()
        assert server.show("shop")["compute"] == "resuming"
        go.touch()
        server.wait_for("running", "shop")
        assert server.mysql_query("SELECT 1") == ((1,),)


def test_engine_that_hangs_at_its_start_can_be_stopped(home: Path, odd_mariadb: Path) -> None:
    with running(home, ZORYA_MARIADB=str(odd_mariadb), ZORYA_WAKE_TIMEOUT_S="0.5") as server:
        server.api.create({"name": "shop", "engine": "mariadb"})
        replace_engine(odd_mariadb, f'case "$*" in {STARTS}) exec sleep 1000;; esac; exec $REAL "$@"')
        assert server.cli("resume", "shop").returncode == 1
        server.run("pause", "shop", "--force")
        assert server.show("shop")["compute"] == "stopped"


def test_nothing_is_kept_when_the_engine_is_killed_in_create(home: Path, odd_mariadb: Path) -> None:
    with running(home, ZORYA_MARIADB=str(odd_mariadb)) as server:
        server.allow("create failed")
        replace_engine(odd_mariadb, 'case "$*" in *--version*) exec $REAL "$@";; esac; kill -9 $$')
        refused = server.cli("create", "shop", "--engine", "mariadb")
        assert refused.returncode == 1
        assert "could not make the data" in refused.stderr
        assert [cluster["name"] for cluster in server.json("list")] == ["main"]
        assert len(list((server.home / "clusters").iterdir())) == 1
        assert server.besides_scaling("shop") == ["1001", "0171"]


def test_mariadb_that_is_too_old_or_missing_is_told(home: Path, odd_mariadb: Path) -> None:
    replace_engine(odd_mariadb, 'echo "mariadbd  Ver 10.5.1-MariaDB for Linux on x86_64"')
    for folder in (odd_mariadb, home / "nowhere"):
        server = Server(home)
        assert server.begin(ZORYA_MARIADB=str(folder)).wait(60) == 1
        assert "holds no MariaDB 10.6 or newer" in server.log.read_text()
