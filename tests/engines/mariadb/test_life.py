"""A cluster's data from its making through starts, clean stops and kills."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace

import pymysql
import pytest

from engines.base_cluster import DATABASE
from engines.mariadb.clusters import Cluster, Workshop, rows
from zorya.core import errors, failpoints, files
from zorya.engines.base import Phase
from zorya.engines.mariadb import administrator, binlog, configuration


@pytest.fixture
def server(cluster: Cluster) -> Iterator[Cluster]:
    """The engine, started."""
    cluster.start()
    yield cluster
    cluster.kill()


def test_the_whole_of_a_new_cluster_is_there_when_it_is_made(cluster: Cluster) -> None:
    assert cluster.engine.has_files(cluster.folders)
    cluster.engine.check_data(cluster.instance)
    inode = cluster.folders.data.stat().st_ino
    asyncio.run(cluster.engine.build(cluster.instance, cluster.verifier))
    assert cluster.folders.data.stat().st_ino == inode


@pytest.mark.parametrize("point", ["template", "copy", "provision", "identities"])
def test_a_cluster_is_made_whole_when_its_making_was_interrupted(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    async def interrupt(name: str) -> None:
        if name == f"create.{point}":
            raise asyncio.CancelledError

    name = f"cut-{point[:4]}"
    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "reached", interrupt)
        with pytest.raises(asyncio.CancelledError):
            workshop.make(name)
    made = workshop.make(name)
    made.start()
    with made.connect() as session:
        assert rows(session, "SELECT DATABASE()") == [(DATABASE,)]
    made.stop()
    assert [entry.name for entry in made.folders.root.iterdir() if "partial" in entry.name] == []


def test_what_was_committed_is_there_when_the_engine_was_killed(server: Cluster) -> None:
    with server.connect() as session:
        rows(session, "CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY)")
        rows(session, "DELETE FROM t")
        rows(session, "INSERT INTO t VALUES (1)")
    server.kill()
    server.start()
    with server.connect() as session:
        assert rows(session, "SELECT * FROM t") == [(1,)]


def test_a_stop_is_told_from_a_crash_when_the_engine_has_ended(cluster: Cluster) -> None:
    engine, folders = cluster.engine, cluster.folders
    cluster.start()
    assert not engine.ended_cleanly(folders)
    cluster.stop()
    assert engine.ended_cleanly(folders)
    assert engine.recorded_pid(folders) is None
    cluster.start()
    cluster.kill()
    assert not engine.ended_cleanly(folders)
    # Nor once the lock is gone, until another engine has recovered and stopped.
    engine.forget_recorded_pid(folders)
    assert engine.recorded_pid(folders) is None
    assert not engine.ended_cleanly(folders)
    cluster.start()
    cluster.stop()
    assert engine.ended_cleanly(folders)


def test_the_stamp_is_another_when_an_engine_has_run_or_the_data_was_replaced(cluster: Cluster) -> None:
    engine, folders = cluster.engine, cluster.folders
    stamps = [engine.stamp(folders)]
    for end in (cluster.stop, cluster.kill):
        cluster.start()
        end()
        stamps.append(engine.stamp(folders))
    aside = folders.data.with_name("aside")
    shutil.copytree(folders.data, aside, symlinks=True)
    folders.data.rename(folders.data.with_name("original"))
    aside.rename(folders.data)
    stamps.append(engine.stamp(folders))
    shutil.rmtree(folders.data)
    assert engine.stamp(folders) == ""
    assert not engine.ended_cleanly(folders)
    folders.data.with_name("original").rename(folders.data)
    assert len(set(stamps)) == len(stamps)
    assert engine.stamp(folders) == stamps[2]


def test_a_file_of_the_log_is_not_closed_when_it_cannot_be_read(cluster: Cluster) -> None:
    path = cluster.folders.data.parent / "broken"
    assert not binlog.is_closed(path)
    for content in (b"", b"\xfebin", b"\xfebin" + bytes(10), bytes(100)):
        path.write_bytes(content)
        assert not binlog.is_closed(path)
    path.unlink()


def test_readiness_is_told_by_phases_when_the_engine_starts_and_stops(server: Cluster) -> None:
    engine, folders = server.engine, server.folders
    ready = engine.readiness(folders, server.pid)
    assert ready.phase is Phase.READY
    assert ready.address is not None
    assert engine.readiness(folders, server.pid + 1).phase is Phase.STARTING
    with server.connect() as session:
        # A stop waits for what cannot be ended at once.
        assert rows(session, "SELECT 1") == [(1,)]
    server.stop()
    assert engine.readiness(folders, os.getpid()).phase is Phase.STARTING


@pytest.mark.parametrize("name", ["ibdata1", "ib_logfile0", "aria_log_control", "mysql"])
def test_damage_is_told_when_a_part_of_the_data_is_missing(cluster: Cluster, name: str) -> None:
    path = cluster.folders.data / name
    path.rename(path.with_name("away"))
    try:
        with pytest.raises(errors.DataDamaged, match=f"{name} is missing"):
            cluster.engine.check_data(cluster.instance)
        assert not cluster.engine.has_files(cluster.folders)
    finally:
        path.with_name("away").rename(path)
    cluster.engine.check_data(cluster.instance)


def test_damage_is_told_when_the_data_is_of_another_version(cluster: Cluster) -> None:
    other = replace(cluster.instance.installation, major="10.5")
    with pytest.raises(errors.DataDamaged, match=r"not '10\.5'"):
        cluster.engine.check_data(replace(cluster.instance, installation=other))


def test_pages_are_written_and_settings_are_as_before_when_a_checkpoint_was_asked_for(server: Cluster) -> None:
    questions = "SHOW GLOBAL VARIABLES WHERE Variable_name LIKE 'innodb_max_dirty%' OR Variable_name LIKE 'innodb_io%'"

    def dirty() -> int:
        with server.connect() as session:
            return int(rows(session, "SHOW STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")[0][1])

    with server.connect() as session:
        before = rows(session, questions)
        rows(session, "CREATE TABLE IF NOT EXISTS big (id INT PRIMARY KEY, word TEXT)")
        rows(session, "REPLACE INTO big SELECT seq, REPEAT('x', 1000) FROM seq_1_to_20000")
        assert dirty() > 500
        asyncio.run(server.engine.checkpoint(server.folders))
        assert dirty() < 100
        assert rows(session, questions) == before
        rows(session, "REPLACE INTO big SELECT seq, REPEAT('y', 1000) FROM seq_1_to_20000")

        async def give_up() -> None:
            checkpoint = asyncio.ensure_future(server.engine.checkpoint(server.folders))
            while rows(session, questions) == before:
                assert not checkpoint.done()
                await asyncio.sleep(0)
            checkpoint.cancel()
            with pytest.raises(asyncio.CancelledError):
                await checkpoint

        asyncio.run(give_up())
        assert rows(session, questions) == before


def test_the_configuration_is_the_engines_to_read_and_not_to_write_when_it_is_another_user(server: Cluster) -> None:
    conf = server.folders.conf
    for entry in (conf / name for name in (configuration.SETTINGS_FILE, configuration.INIT_FILE)):
        assert entry.stat().st_mode & 0o777 == 0o640
    assert (conf / administrator.FILE).stat().st_mode & 0o777 == 0o600
    own = administrator.read(conf)
    # What the engine can read does not let it in.
    for entry in conf.iterdir():
        if entry.is_file() and entry.name != administrator.FILE:
            assert own.password.value not in entry.read_text()
    asyncio.run(server.engine.write_configuration(server.instance))
    assert administrator.read(conf) == own
    assert own.password.value not in server.log()


def test_plugins_of_the_host_cannot_be_loaded_when_they_are_not_wanted(server: Cluster) -> None:
    folder = server.folders.conf / configuration.PLUGIN_FOLDER
    assert {entry.stem for entry in folder.iterdir()} <= set(configuration.PLUGINS)
    (folder / "stray.so").write_bytes(b"")
    asyncio.run(server.engine.write_configuration(server.instance))
    assert not (folder / "stray.so").exists()
    with server.connect_as_admin() as admin, pytest.raises(pymysql.MySQLError):
        rows(admin, "INSTALL SONAME 'disks'")


def test_no_warning_is_logged_when_a_session_comes_and_goes(cluster: Cluster) -> None:
    mark = cluster.log_mark() if cluster.folders.log.exists() else 0
    cluster.start()

    async def ask() -> None:
        watcher = cluster.engine.watcher(cluster.folders)
        await cluster.observe(watcher)
        await watcher.close()
        held = await cluster.engine.hold_identities(cluster.folders)
        await cluster.engine.checkpoint(cluster.folders)
        await held.close()

    with cluster.connect() as session:
        rows(session, "SELECT 1")
    asyncio.run(ask())
    cluster.stop()
    log = cluster.log(mark)
    assert [line for line in log.splitlines() if "[Warning]" in line or "[ERROR]" in line] == []


def test_the_engine_is_one_process_with_threads_when_it_runs(server: Cluster) -> None:
    threads = server.engine.workers({server.pid}, server.pid)
    assert server.pid in threads
    assert len(threads) > 3
    assert server.engine.workers(set(), 2**22 - 1) == set()
    assert server.engine.stop_signal is signal.SIGTERM
    assert files.tree_bytes(server.folders.root) > 0


def test_no_more_of_the_binary_log_is_kept_than_is_asked_for(server: Cluster) -> None:
    def kept() -> list[str]:
        return sorted(path.name for path in server.folders.data.glob("binlog.[0-9]*"))

    with server.connect() as session:
        rows(session, "CREATE TABLE IF NOT EXISTS logged (t LONGTEXT)")
    for _ in range(3):
        server.stop()
        server.start()
    files_before = kept()
    assert len(files_before) >= 4
    asyncio.run(server.engine.bound_log(server.folders, 2**30))
    assert kept() == files_before
    asyncio.run(server.engine.bound_log(server.folders, 1))
    assert kept() == files_before[-1:]
    with server.connect() as session:
        rows(session, "INSERT INTO logged VALUES ('x')")
        rows(session, "DROP TABLE logged")
