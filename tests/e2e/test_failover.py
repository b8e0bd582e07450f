"""What is lost of a volume of six copies, and what goes on: failover, fencing, repair, degradation, verification."""

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fix_home import running_for_a_file
from harness import Server
from volumes import Volume, flip
from waiting import wait_until


@pytest.fixture(scope="module")
def server(templates: Path) -> Iterator[Server]:
    """A server whose new clusters have six copies."""
    with running_for_a_file(templates, ZORYA_COPIES="6") as started:
        yield started
        started.allow(".*")


@pytest.fixture
def volume(server: Server, request: pytest.FixtureRequest) -> Iterator[Volume]:
    """A new cluster of six copies that runs, all of them current, with a table of a thousand rows."""
    name = f"v{abs(hash(request.node.name)) % 10**6}"
    server.run("create", name, "--freeze-after", "never", "--pause-after", "never")
    server.query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n", name)
    made = Volume(server, name)
    made.wait_whole()
    yield made
    server.run("delete", name, "--yes")


def check(volume: Volume, rows: int = 1000) -> None:
    """See that the table is whole and can be written to."""
    assert volume.server.query("SELECT count(*) FROM t", volume.name) == [(rows,)]
    volume.server.query("CREATE TABLE more (n int)", volume.name)


def test_primary_is_started_in_place_when_its_process_was_killed(volume: Volume) -> None:
    volume.kill("a_full")
    check(volume)
    assert (volume.shown["epoch"], volume.primary) == (1, "a_full")
    volume.wait_whole()


def test_cluster_comes_back_by_itself_when_its_primary_was_killed(volume: Volume) -> None:
    volume.kill("a_full")
    volume.server.wait_for("running", volume.name)
    volume.wait_whole()


@pytest.mark.parametrize("also", ["", "b_tail"])
def test_another_copy_becomes_the_primary_when_its_zone_is_lost(volume: Volume, also: str) -> None:
    if also:
        volume.destroy(also)
    volume.destroy_zone("a")
    check(volume)
    assert volume.shown["epoch"] == 2
    assert volume.primary in {"b_full", "c_full"}
    volume.wait_whole(120)
    # What was made anew is good: the cluster can go on from it.
    volume.destroy_zone(volume.primary[0])
    assert volume.server.query("SELECT count(*) FROM t", volume.name) == [(1000,)]
    volume.wait_whole(120)


def test_another_copy_becomes_the_primary_when_only_its_data_is_gone(volume: Volume) -> None:
    volume.destroy("a_full")
    volume.server.wait_for("running", volume.name)
    wait_until(lambda: volume.shown["epoch"] == 2, "another copy is the primary")
    check(volume)
    volume.wait_whole(120)


def test_endpoint_stays_and_a_client_is_held_while_another_copy_takes_over(volume: Volume) -> None:
    errors: list[str] = []
    served: list[int] = []

    def client() -> None:
        for _ in range(30):
            try:
                with psycopg.connect(volume.server.url(volume.name), connect_timeout=30) as connection:
                    row = connection.execute("SELECT count(*) FROM t").fetchone()
                    served.append(row[0] if row else 0)
            except psycopg.Error as error:
                errors.append(str(error))

    thread = threading.Thread(target=client)
    thread.start()
    volume.destroy_zone("a")
    thread.join(120)
    # Those that had a session hear of it, in PostgreSQL's words or by the connection's end; nobody is refused.
    assert not [error for error in errors if "refused" in error or "not ready" in error], errors
    assert served[-1] == 1000


def test_commit_that_only_tails_have_is_kept(volume: Volume) -> None:
    """The full copies stand still while it is made, so that it is on the primary and the three tails alone."""
    with psycopg.connect(volume.server.url(volume.name), autocommit=True) as connection:
        for copy in ("b_full", "c_full"):
            volume.signal(copy, signal.SIGSTOP)
        connection.execute("CREATE TABLE only_tails AS SELECT generate_series(1, 5000) AS n")
    volume.destroy_zone("a")
    for copy in ("b_full", "c_full"):
        volume.signal(copy, signal.SIGCONT)
    assert volume.server.query("SELECT count(*) FROM only_tails", volume.name) == [(5000,)]
    assert volume.shown["epoch"] == 2
    volume.wait_whole(120)


@pytest.mark.parametrize("restart", [False, True], ids=["", "server restarted"])
def test_older_data_in_the_place_of_the_primarys_is_not_gone_on_from(volume: Volume, restart: bool) -> None:
    server, data = volume.server, volume.folder("a_full")
    server.run("pause", volume.name)
    backup = data.with_name("backup")
    subprocess.run(["cp", "--archive", str(data), str(backup)], check=True)
    server.query("INSERT INTO t VALUES (0)", volume.name)
    server.run("pause", volume.name)
    if restart:
        server.stop()
    shutil.rmtree(data)
    backup.rename(data)
    if restart:
        server.start(ZORYA_COPIES="6")
    assert server.query("SELECT count(*) FROM t", volume.name) == [(1001,)]
    assert volume.primary != "a_full"
    volume.wait_whole(120)


def test_old_primary_follows_again_when_it_was_only_stopped(volume: Volume) -> None:
    volume.signal("a_full", signal.SIGSTOP)
    wait_until(lambda: volume.shown["epoch"] == 2, "another copy has taken over", 60)
    check(volume)
    volume.wait_whole(120)
    assert volume.primary != "a_full"
    assert volume.ask("a_full", "SELECT pg_is_in_recovery()") is True


@pytest.mark.parametrize("copy", ["b_full", "c_tail"])
def test_copy_is_made_anew_when_it_is_gone(volume: Volume, copy: str) -> None:
    volume.destroy(copy)
    wait_until(lambda: volume.copies[copy]["state"] != "current", "it is seen to be gone")
    volume.server.query("INSERT INTO t VALUES (0)", volume.name)
    volume.wait_whole(120)
    assert volume.folder(copy).exists()


@pytest.mark.parametrize("copy", ["b_full", "c_tail"])
def test_copy_is_restarted_when_its_process_was_killed(volume: Volume, copy: str) -> None:
    volume.kill(copy)
    volume.wait_whole()
    volume.server.query("INSERT INTO t VALUES (0)", volume.name)


def test_volume_is_refused_and_recovered_by_hand_when_two_copies_are_left(volume: Volume) -> None:
    server = volume.server
    server.run("pause", volume.name)
    for zone in ("a", "b"):
        volume.destroy_zone(zone)
    refused = server.cli("resume", volume.name)
    assert refused.returncode == 1
    assert "2 copies of 6" in refused.stderr
    assert server.cli("recover", volume.name).returncode != 0
    server.run("recover", volume.name, "--accept-data-loss")
    assert server.query("SELECT count(*) FROM t", volume.name) == [(1000,)]
    volume.wait_whole(180)


@pytest.mark.parametrize("step", ["fenced", "recorded", "collected", "promoted"])
def test_failover_is_completed_when_the_server_was_killed_in_it(volume: Volume, step: str) -> None:
    server = volume.server
    server.kill()
    server.start(ZORYA_COPIES="6", ZORYA_FAILPOINTS=f"failover.{step}=kill")
    volume.destroy_zone("a")
    server.wait_killed()
    server.start(ZORYA_COPIES="6")
    check(volume)
    assert volume.primary in {"b_full", "c_full"}
    volume.wait_whole(120)


class TestVerify:
    """Damage at rest is found, told and repaired."""

    def test_nothing_is_found_when_nothing_is_damaged(self, volume: Volume) -> None:
        volume.server.run("pause", volume.name)
        assert "6 copies" in volume.server.run("verify", volume.name)
        assert all(one["verified_at"] for one in volume.copies.values())

    @pytest.mark.parametrize("copy", ["a_full", "c_full", "b_tail"])
    def test_flipped_bit_is_found_and_repaired(self, volume: Volume, copy: str) -> None:
        server = volume.server
        path = str(volume.ask("a_full", "SELECT 1") and _file_of_table(volume))
        server.run("pause", volume.name)
        if copy.endswith("_full"):
            flip(volume.folder(copy) / path, at=5000)
        else:
            flip(next(iter(sorted(volume.folder(copy).glob("0*")))), at=9000)
        found = server.cli("verify", volume.name, "--json")
        assert copy in found.stdout
        assert server.query("SELECT count(*) FROM t", volume.name) == [(1000,)]
        volume.wait_whole(120)
        server.run("pause", volume.name)
        assert server.cli("verify", volume.name).returncode == 0


def _file_of_table(volume: Volume) -> str:
    rows = volume.server.query("SELECT pg_relation_filepath('t')", volume.name)
    return str(rows[0][0])
