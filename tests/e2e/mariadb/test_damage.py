"""MariaDB's data folders that somebody damaged, and full disks: it is said what, and nothing is made worse."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pymysql
import pytest

from e2e.mariadb.clients import rows, run
from e2e.test_damage import copy_with_owner, empty, fingerprint, keep_owner, put_file, remove
from harness import Server
from small_disk import Disk, mounted, running_on
from waiting import wait_until

SIZE_MEGABYTES = 900
"""Room for a template and a cluster, each with its redo log."""

DAMAGES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "log removed": (lambda data: remove(data / "ib_logfile0"), "ib_logfile0"),
    "log cut off": (lambda data: os.truncate(data / "ib_logfile0", 100), "InnoDB"),
    "tables space removed": (lambda data: remove(data / "ibdata1"), "ibdata1"),
    "accounts removed": (lambda data: remove(data / "mysql"), "mysql"),
    "all gone": (remove, "is missing"),
    "all emptied": (empty, ""),
    "a file in its place": (put_file, ""),
}


@pytest.fixture
def data(shop: Server) -> Path:
    """The data folder of cluster "shop", which sleeps and has a table; a sound copy of it lies beside it."""
    shop.mysql_query("CREATE TABLE t AS SELECT 7 AS n")
    shop.run("pause", "shop")
    folder = shop.home / "clusters" / str(shop.show("shop")["id"]) / "data"
    shutil.copytree(folder, folder.with_name("sound"), copy_function=copy_with_owner)
    keep_owner(folder, folder.with_name("sound"))
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_nothing_is_overwritten_and_it_works_when_it_is_mended(
    shop: Server, data: Path, damage: str
) -> None:
    shop.allow("resume failed")
    inflict, names = DAMAGES[damage]
    inflict(data)
    before = fingerprint(data)
    with pytest.raises(pymysql.err.OperationalError, match=r"damaged; nothing was changed|did not start") as told:
        shop.mysql()
    assert str(shop.home) not in str(told.value)
    shown = shop.show("shop")
    assert shown["compute"] == "failed"
    assert names in shown["reason"]
    by_hand = shop.cli("resume", "shop")
    assert by_hand.returncode == 1
    assert len(by_hand.stderr.strip().splitlines()) == 1
    after = fingerprint(data)
    gone = {name for name in before if name not in after and not name.endswith((".pid", "ibtmp1"))}
    assert gone == set()
    if data.exists():
        remove(data)
    data.with_name("sound").rename(data)
    assert shop.mysql_query("SELECT n FROM t") == ((7,),)
    assert shop.show("shop")["compute"] == "running"


def test_other_clusters_are_served_when_one_is_found_damaged_at_the_start(shop: Server, data: Path) -> None:
    shop.allow("resume failed")
    shop.run("create", "other", "--engine", "mariadb")
    shop.stop()
    remove(data / "ibdata1")
    shop.start()
    assert shop.mysql_query("SELECT 1", "other") == ((1,),)
    with pytest.raises(pymysql.err.OperationalError):
        shop.mysql()
    shop.run("delete", "shop", "--yes")
    assert {cluster["name"] for cluster in shop.json("list")} == {"main", "other"}
    assert not data.parent.exists()


@pytest.fixture
def disk(new_folder: Callable[[], Path]) -> Iterator[Disk]:
    """A small disk of its own."""
    with mounted(new_folder() / "disk", megabytes=SIZE_MEGABYTES) as made:
        yield made


@pytest.fixture
def small(disk: Disk, templates: Path) -> Iterator[Server]:
    """A server, up, with its home on the small disk."""
    with running_on(disk, templates) as started:
        yield started


def test_nothing_is_kept_when_the_disk_fills_while_a_cluster_is_made(small: Server, disk: Disk) -> None:
    small.allow("create failed", "step failed, will be repeated")
    disk.fill(left_megabytes=5)
    refused = small.cli("create", "shop", "--engine", "mariadb")
    assert refused.returncode == 1
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "no space left on the disk" in refused.stderr.lower()
    disk.free()
    wait_until(lambda: [one["name"] for one in small.json("list")] == ["main"], "nothing is left of it")
    assert len(list((small.home / "clusters").iterdir())) == 1


def test_running_cluster_goes_on_and_nothing_is_lost_when_the_disk_fills_and_is_freed(
    small: Server, disk: Disk
) -> None:
    small.allow("the catalog could not be written", "no checkpoint before the stop", "engine lost", "resume failed")
    small.allow("step failed", "who may log in", "the engine's settings do not follow")
    small.api.delete("main")
    small.api.create({"name": "shop", "engine": "mariadb"})
    with small.mysql() as session:
        run(session, "CREATE TABLE t AS SELECT seq AS n, REPEAT('x', 1000) AS x FROM seq_1_to_100")
        disk.fill(left_megabytes=0)
        assert rows(session, "SELECT COUNT(*) FROM t") == ((100,),)
        session._read_timeout = 20
        with pytest.raises(pymysql.err.MySQLError):
            run(session, "INSERT INTO t SELECT seq, REPEAT('y', 1000) FROM seq_1_to_100000")
    disk.free()
    wait_until(lambda: count(small) == 100, "the rows are there", 60)


def count(server: Server) -> int | None:
    """Answer the number of rows, or None while the engine cannot say."""
    try:
        [[number]] = server.mysql_query("SELECT COUNT(*) FROM t", read_timeout=10)
    except pymysql.err.MySQLError:
        return None
    return int(number)
