"""Data folders that somebody damaged: it is said what and where, and nothing in them is changed."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
import pytest

from harness import Server

OWN_OF_A_START = {"postmaster.pid", "postmaster.opts"}


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in folder.iterdir():
        remove(entry)


def flip(path: Path) -> None:
    """Change some bits in the middle of what the file uses."""
    content = bytearray(path.read_bytes())
    content[100] ^= 0x55
    path.write_bytes(content)


def put_file(folder: Path) -> None:
    """Put a file in a folder's place."""
    shutil.rmtree(folder)
    folder.write_text("mine")


# What is done to the data folder, and what is said of it.
DAMAGES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "version gone": (lambda data: remove(data / "PG_VERSION"), "PG_VERSION is missing"),
    "version of another": (lambda data: (data / "PG_VERSION").write_text("9.6\n"), "PG_VERSION says '9.6', not"),
    "version garbage": (lambda data: (data / "PG_VERSION").write_bytes(b"\xff\0\n"), "PG_VERSION says"),
    "version empty": (lambda data: (data / "PG_VERSION").write_text(""), "PG_VERSION says ''"),
    "control gone": (lambda data: remove(data / "global/pg_control"), "global/pg_control is missing"),
    "control cut off": (lambda data: os.truncate(data / "global/pg_control", 100), "global/pg_control is cut off"),
    "control empty": (lambda data: os.truncate(data / "global/pg_control", 0), "global/pg_control is cut off"),
    "control flipped": (lambda data: flip(data / "global/pg_control"), "incorrect checksum in control file"),
    "global emptied": (lambda data: empty(data / "global"), "global/pg_control is missing"),
    "base removed": (lambda data: remove(data / "base"), "base is missing"),
    "log removed": (lambda data: remove(data / "pg_wal"), "pg_wal is missing"),
    "log emptied": (lambda data: empty(data / "pg_wal"), "could not locate a valid checkpoint record"),
    "open to all": (lambda data: data.chmod(0o777), "has invalid permissions"),
    "lock garbage": (lambda data: (data / "postmaster.pid").write_text("garbage\n"), "bogus data in lock file"),
    "lock empty": (lambda data: (data / "postmaster.pid").write_text(""), "postmaster.pid"),
    "all gone": (remove, "is missing"),
    "all emptied": (empty, "PG_VERSION is missing"),
    "a file in its place": (put_file, "PG_VERSION"),
}
ROOTS_DAMAGES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "owner changed": (lambda data: os.chown(data, 0, 0), ""),
    "owner of control changed": (lambda data: os.chown(data / "global/pg_control", 0, 0), "pg_control"),
}


def fingerprint(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Answer mode, owner and content of everything in a folder, but for what each start writes anew."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        if path.name in OWN_OF_A_START or not path.exists():
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (path.stat().st_mode, path.stat().st_uid, content)
    return found


def is_told(server: Server, data: Path, said: str) -> None:
    """Check what a client, `show` and a command say of the damage, and that nothing was changed by asking."""
    before = fingerprint(data)
    with pytest.raises(psycopg.OperationalError, match=r"damaged; nothing was changed|did not start") as told:
        psycopg.connect(server.url())
    assert str(server.home) not in str(told.value)
    shown = server.show()
    assert shown["compute"] == "failed"
    assert said in shown["reason"]
    assert str(data.parent) in shown["reason"]
    by_hand = server.cli("resume", "main")
    assert by_hand.returncode == 1
    assert len(by_hand.stderr.strip().splitlines()) == 1
    assert said in by_hand.stderr
    # PostgreSQL adds a folder where one is missing; all that was there is as it was.
    assert fingerprint(data).items() >= before.items()


@pytest.fixture
def data(server: Server) -> Path:
    """The data folder of cluster "main", which sleeps and has a table; a sound copy of it lies beside it."""
    server.query("CREATE TABLE t AS SELECT 7 AS n")
    server.run("pause", "main")
    folder = server.home / "clusters" / str(server.show()["id"]) / "data"
    shutil.copytree(folder, folder.with_name("sound"), copy_function=copy_with_owner)
    keep_owner(folder, folder.with_name("sound"))
    return folder


def copy_with_owner(source: str, target: str) -> None:
    """Copy a file with its mode and its owner."""
    shutil.copy2(source, target)
    shutil.chown(target, os.stat(source).st_uid, os.stat(source).st_gid)  # noqa: PTH116


def keep_owner(source: Path, target: Path) -> None:
    """Give the folders of a copy the owners that those of the source have."""
    for folder in [source, *(path for path in source.rglob("*") if path.is_dir())]:
        copy = target / folder.relative_to(source)
        os.chown(copy, folder.stat().st_uid, folder.stat().st_gid)
        copy.chmod(folder.stat().st_mode & 0o7777)


@pytest.mark.parametrize("damage", [*DAMAGES, *ROOTS_DAMAGES])
def test_damage_is_told_and_nothing_is_overwritten_and_it_works_when_it_is_mended(
    server: Server, data: Path, damage: str
) -> None:
    if damage in ROOTS_DAMAGES and os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    server.allow("resume failed")
    inflict, said = {**DAMAGES, **ROOTS_DAMAGES}[damage]
    inflict(data)
    is_told(server, data, said)
    if data.exists():
        remove(data)
    data.with_name("sound").rename(data)
    assert server.query("SELECT n FROM t") == [(7,)]
    assert server.show()["compute"] == "running"


def test_other_clusters_are_served_when_one_is_found_damaged_at_the_start(server: Server, data: Path) -> None:
    server.allow("resume failed")
    server.run("create", "other")
    server.stop()
    remove(data / "global")
    server.start()
    assert server.query("SELECT 1", "other") == [(1,)]
    is_told(server, data, "global/pg_control is missing")
    server.run("delete", "main", "--yes")
    assert [cluster["name"] for cluster in server.json("list")] == ["other"]
    assert not data.parent.exists()
