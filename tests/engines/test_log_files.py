"""engines/postgres/log_files.py with logs that are made up record by record."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engines.copies import flip
from zorya.engines.postgres import log_files
from zorya.engines.postgres.control_file import crc32c
from zorya.engines.postgres.log_files import PAGE_BYTES, SEGMENT_BYTES
from zorya.engines.postgres.replication import PostgresReplication

FIRST = 4
"""The number of the segment in which made-up logs begin."""
BEGIN = FIRST * SEGMENT_BYTES

SWITCH = {"info": 0x40, "manager": 0}


@dataclass
class Log:
    """The log of one timeline, from BEGIN on."""

    content: bytearray = field(default_factory=lambda: bytearray(2 * SEGMENT_BYTES))
    position: int = BEGIN
    last: int = BEGIN - 100

    def add(self, length: int, *, info: int = 0, manager: int = 10) -> int:
        """Add a record of this many bytes; answer where it begins."""
        body = bytes(number % 251 for number in range(length - 24))
        head = struct.pack("=IIQBB2x", length, 0, self.last, info, manager)
        left = head + struct.pack("=I", crc32c(body + head)) + body
        begin = None
        while left:
            self._begin_page(len(left) if begin is not None else 0)
            begin = self.position if begin is None else begin
            room = PAGE_BYTES - self.position % PAGE_BYTES
            piece, left = left[:room], left[room:]
            self.content[self.position - BEGIN : self.position - BEGIN + len(piece)] = piece
            self.position += len(piece)
        to = SEGMENT_BYTES if manager == 0 and info == 0x40 else 8
        self.position = -(-self.position // to) * to
        assert begin is not None
        self.last = begin
        return begin

    def _begin_page(self, rest: int) -> None:
        if self.position % PAGE_BYTES == 0:
            header = struct.pack("=HHIQI", 0xD110, 1 if rest else 0, 1, self.position, rest)
            at = self.position - BEGIN
            self.content[at : at + len(header)] = header
            self.position += 40 if self.position % SEGMENT_BYTES == 0 else 24

    def write(self, folder: Path, *, partial: bool = False) -> list[Path]:
        """Write the two segments."""
        paths = []
        for number in range(2):
            name = log_files.name_of(1, FIRST + number) + (".partial" if partial and number == 1 else "")
            paths.append(folder / name)
            paths[-1].write_bytes(self.content[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES])
        return paths


@pytest.fixture
def log() -> Log:
    """A log with a few records, of which the last one goes on from one page to the next."""
    made = Log()
    for length in (100, 8000, 61):
        made.add(length)
    return made


def test_names_are_those_of_postgresql() -> None:
    assert log_files.name_of(2, 0x1FF) == "0000000200000001000000FF"


def test_whole_segment_is_answered_where_it_is_there_partial_too(tmp_path: Path) -> None:
    for name in ("000000020000000000000004", "000000010000000000000005.partial", "000000010000000000000005", "x"):
        (tmp_path / name).touch()
    found = log_files.segments(tmp_path)
    assert [(one.timeline, one.number, one.is_partial) for one in found] == [(1, 5, False), (2, 4, False)]
    assert log_files.segments(tmp_path / "missing") == []


def test_timeline_begins_where_the_last_line_of_its_history_says(tmp_path: Path) -> None:
    path = tmp_path / "00000003.history"
    path.write_text("1\t0/3000000\tno recovery target specified\n\n2\t1/40000A8\tno recovery target specified\n")
    assert log_files.histories(tmp_path) == {3: path}
    assert log_files.begin_of(path) == (1 << 32) + 0x40000A8


@pytest.mark.parametrize("partial", [False, True])
def test_record_that_goes_on_in_the_next_segment_is_read(tmp_path: Path, log: Log, partial: bool) -> None:
    log.position, log.last = BEGIN + SEGMENT_BYTES - 200, BEGIN + SEGMENT_BYTES - 300
    begin = log.add(20000)
    first, second = log.write(tmp_path, partial=partial)
    assert log_files.end_of_record(first, begin) == log.position
    flip(second, 10000)
    assert log_files.end_of_record(first, begin) is None
    second.unlink()
    assert log_files.end_of_record(first, begin) is None


def test_segment_ends_with_a_switch(tmp_path: Path, log: Log) -> None:
    begin = log.add(24, **SWITCH)
    path, _ = log.write(tmp_path)
    assert log_files.end_of_record(path, begin) == BEGIN + SEGMENT_BYTES
    log.add(50)
    log.write(tmp_path)
    assert log_files.end_from(tmp_path, begin, within_bytes=2 * SEGMENT_BYTES) == log.position


def test_log_ends_before_a_record_that_is_not_whole(tmp_path: Path, log: Log) -> None:
    end = log.position
    log.add(30000)
    cut = -(-end // PAGE_BYTES) * PAGE_BYTES + 2 * PAGE_BYTES
    log.content[cut - BEGIN :] = bytes(len(log.content) - (cut - BEGIN))
    path, _ = log.write(tmp_path)
    assert log_files.end_from(tmp_path, BEGIN, within_bytes=SEGMENT_BYTES) == end
    # More of it follows, and nothing else: the log ends there, and is not damaged.
    assert not log_files.goes_on_after(path, end)


def test_records_of_a_segment_that_was_used_before_are_no_part_of_the_log(tmp_path: Path) -> None:
    old = Log()
    for _ in range(9):
        old.add(100)
    new = Log(content=old.content)
    for _ in range(4):
        new.add(100)
    # What was there before, at the same places, names records of before.
    stale = new.position
    for at in range(5):
        where = stale - BEGIN + at * 104
        head = bytearray(new.content[where : where + 20])
        head[8:16] = struct.pack("=Q", stale + at * 104 - 104 - 3 * SEGMENT_BYTES)
        body = new.content[where + 24 : where + 100]
        new.content[where : where + 24] = bytes(head) + struct.pack("=I", crc32c(bytes(body) + bytes(head)))
    path, _ = new.write(tmp_path)
    assert log_files.end_of_record(path, stale) == stale + 104
    assert log_files.end_from(tmp_path, BEGIN, within_bytes=SEGMENT_BYTES) == stale
    assert log_files.end_from(tmp_path, stale, within_bytes=SEGMENT_BYTES) == stale


def test_end_is_not_told_when_it_is_too_far_away(tmp_path: Path, log: Log) -> None:
    log.write(tmp_path)
    assert log_files.end_from(tmp_path, BEGIN, within_bytes=log.position - BEGIN) == log.position
    assert log_files.end_from(tmp_path, BEGIN, within_bytes=100) is None


def test_log_that_goes_on_after_damage_is_told_from_one_that_ends(tmp_path: Path, log: Log) -> None:
    begin = log.add(500)
    path, _ = log.write(tmp_path)
    assert not log_files.goes_on_after(path, log.position)
    flip(path, begin - BEGIN + 100)
    assert not log_files.goes_on_after(path, begin), "it was the last one"
    log.add(40)
    log.write(tmp_path)
    flip(path, begin - BEGIN + 100)
    assert log_files.goes_on_after(path, begin), "a record follows on the page"
    # Its length is damaged, so only a later page tells.
    for _ in range(100):
        log.add(200)
    log.write(tmp_path)
    flip(path, begin - BEGIN)
    assert log_files.goes_on_after(path, begin)


@pytest.mark.parametrize("at", [60, 8500, PAGE_BYTES + 8, PAGE_BYTES + 100])
def test_better_one_of_two_segments_is_that_whose_record_is_right(tmp_path: Path, log: Log, at: int) -> None:
    for _ in range(200):
        log.add(150)
    (tmp_path / "other").mkdir()
    (good, _), (bad, _) = log.write(tmp_path), log.write(tmp_path / "other")
    assert not log_files.is_better(good, bad)
    flip(bad, at)
    assert log_files.is_better(good, bad)
    assert not log_files.is_better(bad, good)
    bad.write_bytes(b"")
    assert log_files.is_better(good, bad)
    assert not log_files.is_better(bad, good)


async def test_tail_goes_on_from_where_a_timeline_begins_when_it_is_cut(tmp_path: Path) -> None:
    for name in (
        "000000020000000000000005",
        "000000020000000000000006",
        "000000020000000000000007.partial",
        "000000030000000000000006",
    ):
        (tmp_path / name).write_bytes(b"x")
    replication = PostgresReplication.of_this_user()
    await replication.cut_tail(tmp_path, timeline=3, position=6 * SEGMENT_BYTES + 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000020000000000000005",
        "000000020000000000000006.partial",
        "000000030000000000000006",
    ]
