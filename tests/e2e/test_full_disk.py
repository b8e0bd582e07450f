"""A disk that is full while Zorya works on it: a small file system of the tests' own."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from harness import Server
from small_disk import Disk, mounted, running_on
from waiting import wait_until

SIZE_MEGABYTES = 400


@pytest.fixture
def disk(new_folder: Callable[[], Path]) -> Iterator[Disk]:
    """A small disk of its own."""
    with mounted(new_folder() / "disk", megabytes=SIZE_MEGABYTES) as made:
        yield made


@pytest.fixture
def server(disk: Disk, templates: Path) -> Iterator[Server]:
    """A server, up, with its home on the small disk."""
    with running_on(disk, templates) as started:
        yield started


@pytest.mark.parametrize("left_megabytes", [10, 0])
def test_nothing_is_kept_when_the_disk_fills_while_a_cluster_is_made(
    server: Server, disk: Disk, left_megabytes: int
) -> None:
    server.allow("create failed", "step failed, will be repeated")
    disk.fill(left_megabytes=left_megabytes)
    refused = server.cli("create", "shop")
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "no space left on the disk" in refused.stderr.lower()
    assert str(server.home) in refused.stderr
    disk.free()
    wait_until(lambda: [one["name"] for one in server.json("list")] == ["main"], "nothing is left of it")
    assert len(list((server.home / "clusters").iterdir())) == 1
    server.run("create", "shop")
    assert server.query("SELECT 1", "shop") == [(1,)]


def test_running_cluster_goes_on_and_comes_back_when_the_disk_fills_and_is_freed(server: Server, disk: Disk) -> None:
    server.allow("the catalog could not be written", "no checkpoint before the stop", "engine lost")
    server.query("CREATE TABLE t AS SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 100) n")
    disk.fill(left_megabytes=0)
    with psycopg.connect(server.url(), autocommit=True) as session:
        assert session.execute("SELECT count(*) FROM t").fetchone() == (100,)
        with pytest.raises(psycopg.Error, match=r"No space left on device|server closed|in recovery|terminating"):
            session.execute("INSERT INTO t SELECT n, repeat('y', 1000) FROM generate_series(1, 100000) n")
    disk.free()
    wait_until(lambda: counts(server) == 100, "the engine has recovered")


def counts(server: Server) -> int | None:
    """Answer the number of rows, or None while the engine cannot say."""
    try:
        [[number]] = server.query("SELECT count(*) FROM t")
    except psycopg.Error:
        return None
    assert isinstance(number, int)
    return number


def test_client_is_told_of_the_disk_when_it_is_too_full_to_resume(server: Server, disk: Disk) -> None:
    server.allow("the catalog could not be written", "no checkpoint before the stop", "resume failed")
    server.query("CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")
    disk.fill(left_megabytes=0)
    server.run("pause", "main")
    assert server.show()["compute"] == "stopped"
    disk.fill(left_megabytes=0)
    with pytest.raises(psycopg.OperationalError) as told:
        # With TLS libpq would try once more without, and what the first try has freed may be just enough.
        server.query("SELECT 1", sslmode="disable")
    assert str(server.home) not in str(told.value)
    shown = server.show()
    assert shown["compute"] == "failed"
    assert "no space left on" in shown["reason"].lower()
    assert str(server.home) in shown["reason"]
    disk.free()
    assert counts(server) == 100
    assert server.show()["compute"] == "running"


def test_server_says_that_the_disk_is_full_when_it_starts(server: Server, disk: Disk) -> None:
    server.query("CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")
    server.stop()
    disk.fill(left_megabytes=0)
    server.log.unlink()
    assert server.begin().wait(60) == 1
    said = server.log.read_text()
    assert len(said.splitlines()) == 1
    assert f"The home {server.home} cannot be used: No space left on device." in said
    disk.free()
    server.log.unlink()
    server.start()
    assert counts(server) == 100


def test_endpoint_listens_again_when_the_disk_is_full(server: Server, disk: Disk) -> None:
    server.allow("endpoint cannot listen", "the catalog could not be written")
    port = server.show()["endpoint"]["port"]
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        server.start()
        assert server.events() == ["0170", "1006"]
        disk.fill(left_megabytes=0)
    wait_until(lambda: server.show()["endpoint_problem"] == "", "the endpoint listens again")
    disk.free()
    assert server.query("SELECT 1") == [(1,)]
