"""Following a log that grows, is rotated and is written while it is read."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from zorya.compute import logfile
from zorya.control.tail import MOST_AT_ONCE_BYTES, LogTail
from zorya.core.identity import FailedLogin


def find(text: str) -> Sequence[FailedLogin]:
    """A log of role names, one a line."""
    assert text.endswith("\n")
    return [FailedLogin(address="::1", port=1, role=line) for line in text.splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "engine.log"
    path.write_text("before\n")
    return path


def write(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


async def roles(tail: LogTail) -> list[str]:
    return [one.role for one in await tail.failed_logins()]


async def test_only_what_is_new_is_read_and_lines_are_whole(log: Path) -> None:
    tail = LogTail(log, find=find)
    assert await roles(tail) == []
    write(log, "a\nb\nc")
    assert await roles(tail) == ["a", "b"]
    assert await roles(tail) == []
    write(log, "d")
    assert await roles(tail) == []
    write(log, "e\nf\n")
    assert await roles(tail) == ["cde", "f"]


async def test_a_log_that_was_rotated_is_read_from_its_new_beginning(log: Path) -> None:
    tail = LogTail(log, find=find)
    write(log, "lost" * 10)
    assert await roles(tail) == []
    assert logfile.rotate(log, max_bytes=1)
    assert await roles(tail) == []
    write(log, "a\n")
    assert await roles(tail) == ["a"]


async def test_a_log_that_is_not_there_yet_or_any_more_has_none(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    tail = LogTail(log, find=find)
    assert await roles(tail) == []
    log.write_text("a\n")
    assert await roles(tail) == ["a"]
    log.unlink()
    assert await roles(tail) == []


async def test_a_log_that_cannot_be_read_has_none(log: Path) -> None:
    tail = LogTail(log, find=find)
    log.unlink()
    log.mkdir()
    assert await roles(tail) == []


async def test_what_grows_faster_than_it_is_read_is_passed_over_up_to_a_line(log: Path) -> None:
    tail = LogTail(log, find=find)
    write(log, "".join(f"{number:07}\n" for number in range(MOST_AT_ONCE_BYTES // 4)))
    found = await roles(tail)
    assert 0 < len(found) <= MOST_AT_ONCE_BYTES // 8
    assert all(len(role) == 7 for role in found)
    assert found[-1] == f"{MOST_AT_ONCE_BYTES // 4 - 1:07}"
