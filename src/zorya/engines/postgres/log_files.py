"""PostgreSQL's log as it lies in files: segments' names, pages, and single records with their checksums. Reads only.

Sources: src/include/access/xlog_internal.h (names, page headers) and xlogrecord.h (records). All numbers are in the
host's byte order. Zorya's clusters have the default segment size.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zorya.engines.postgres.control_file import crc32c

SEGMENT_BYTES = 16 * 1024**2
PAGE_BYTES = 8192

_SHORT_HEADER = 24
"""SizeOfXLogShortPHD."""
_LONG_HEADER = 40
"""SizeOfXLogLongPHD: of the first page of a segment."""
_RECORD_HEADER = 24
"""SizeOfXLogRecord; its last four bytes are the checksum of the rest."""
_LONGEST_RECORD = 1024**3
_SWITCH_RECORD = (0, 0x40)
"""RM_XLOG_ID and XLOG_SWITCH: the rest of the segment stays empty."""
_CONTINUES = 1
"""XLP_FIRST_IS_CONTRECORD: a page begins with the rest of a record."""
_SEGMENTS_A_NUMBER = 2**32 // SEGMENT_BYTES

_NAME = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_SWITCH = re.compile(r"^\s*(\d+)\s+([0-9A-F]+)/([0-9A-F]+)", re.MULTILINE)


@dataclass(frozen=True, order=True, kw_only=True, slots=True)
class Segment:
    """One file of log."""

    timeline: int
    number: int
    path: Path
    is_partial: bool
    """Whether it is one that a receiver has not filled yet."""

    @property
    def begin(self) -> int:
        """The position of its first byte."""
        return self.number * SEGMENT_BYTES

    @property
    def name(self) -> str:
        """Its name when it is whole."""
        return name_of(self.timeline, self.number)


def name_of(timeline: int, number: int) -> str:
    """Answer the name of a whole segment."""
    return f"{timeline:08X}{number // _SEGMENTS_A_NUMBER:08X}{number % _SEGMENTS_A_NUMBER:08X}"


def segments(folder: Path) -> list[Segment]:
    """Answer the segments in a folder of log, ordered; of one that is there whole and partial, the whole one."""
    found: dict[tuple[int, int], Segment] = {}
    for path in _entries(folder):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        timeline = int(match[1], 16)
        number = int(match[2], 16) * _SEGMENTS_A_NUMBER + int(match[3], 16)
        one = Segment(timeline=timeline, number=number, path=path, is_partial=match[4] is not None)
        if (timeline, number) not in found or not one.is_partial:
            found[timeline, number] = one
    return sorted(found.values())


def histories(folder: Path) -> dict[int, Path]:
    """Answer the files that tell where timelines begin, by timeline."""
    matches = ((_HISTORY.fullmatch(path.name), path) for path in _entries(folder))
    return {int(match[1], 16): path for match, path in matches if match is not None}


def begin_of(history: Path) -> int:
    """Answer where the timeline of a history file begins: its last line names its parent and the switch."""
    switches = _SWITCH.findall(history.read_text())
    if not switches:
        return 0
    _, high, low = switches[-1]
    return (int(high, 16) << 32) | int(low, 16)


def begin_without_gap(found: Sequence[Segment]) -> int:
    """Answer the position from which on segments, whatever their timelines, follow one another up to the last."""
    numbers = sorted({one.number for one in found}, reverse=True)
    first = numbers[0]
    for number in numbers[1:]:
        if number != first - 1:
            break
        first = number
    return first * SEGMENT_BYTES


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return


def is_used(segment: Segment) -> bool:
    """Whether log has been written to it: its first page says where it belongs. One kept for later says otherwise."""
    with segment.path.open("rb") as file:
        header = file.read(_SHORT_HEADER)
    if len(header) < _SHORT_HEADER:
        return False
    magic, _, _, position = struct.unpack_from("=HHIQ", header)
    return bool(magic != 0 and position == segment.begin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A whole record whose checksum is right."""

    begin: int
    """The position of its first byte."""
    end: int
    """Where it ends; the next one begins there, or behind the header of the page that begins there."""
    previous: int
    """Where the record before it begins (xl_prev)."""


def read_record(path: Path, position: int) -> Record | None:
    """Answer the record that begins at `position` in a segment; None unless it is whole, and right.

    A record that goes on in the next segment is read there too, by its name or as a partial one.
    """
    try:
        reader = _Reader(path, position)
        begin = reader.skip_header()
        header = reader.take(_RECORD_HEADER)
        length, _, previous, info, manager, checksum = struct.unpack("=IIQBB2xI", header)
        if not _RECORD_HEADER <= length <= _LONGEST_RECORD:
            return None
        body = reader.take(length - _RECORD_HEADER)
    except (OSError, EOFError):
        return None
    if crc32c(body + header[:20]) != checksum:
        return None
    # After a switch the log goes on in the next segment (XLogReader's EndRecPtr).
    to = SEGMENT_BYTES if (manager, info & 0xF0) == _SWITCH_RECORD else 8
    return Record(begin=begin, end=-(-reader.position // to) * to, previous=previous)


def end_of_record(path: Path, position: int) -> int | None:
    """Answer where the record ends that begins at `position` in a segment; None unless it is whole, and right."""
    record = read_record(path, position)
    return record.end if record is not None else None


def end_from(folder: Path, position: int, *, within_bytes: int) -> int | None:
    """Answer where the last whole record ends of those that follow one another from `position` on in a folder of log.

    A record ends at `position`. None when there is more than `within_bytes` of them: reading takes a second for some
    ten MB.

    Segments are used again, so there may be whole records of long ago behind the last one. The first of them names as
    the record before it one that is at least the length of a segment away.
    """
    found = {one.number: one.path for one in segments(folder)}
    last: Record | None = None
    at = position
    while at - position <= within_bytes:
        path = found.get(at // SEGMENT_BYTES)
        record = read_record(path, at) if path is not None else None
        if record is None or not (record.previous == last.begin if last else _may_follow(found, record, at)):
            return at
        last, at = record, record.end
    return None


def _may_follow(found: Mapping[int, Path], record: Record, end: int) -> bool:
    """Whether the record before a record is the one that ends at `end`."""
    if end - SEGMENT_BYTES <= record.previous < end:
        return True
    path = found.get(record.previous // SEGMENT_BYTES)
    return path is not None and end_of_record(path, record.previous) == end


def goes_on_after(path: Path, position: int) -> bool:
    """Whether log follows in a segment after `position`, where no whole record begins: then one is damaged there.

    Where the log only ends, nothing follows but more of the record that is not whole.
    """
    with path.open("rb") as file:
        file.seek(position % SEGMENT_BYTES)
        (length,) = struct.unpack("=I", file.read(4).ljust(4, b"\0"))
    following = read_record(path, position + -(-length // 8) * 8) if 0 < length < PAGE_BYTES else None
    if following is not None and following.previous == position:
        return True
    return begins_records(path, -(-(position + 1) // PAGE_BYTES) * PAGE_BYTES)


def begins_records(path: Path, page: int) -> bool:
    """Whether records begin on the pages of a segment from `page`, its position, on: none that went on there does."""
    with path.open("rb") as file:
        data = file.read()
    begin = _begin_of_name(path)
    for at in range(page - begin, len(data) - PAGE_BYTES + 1, PAGE_BYTES):
        if not _is_placed(data, at, path):
            continue
        header = _SHORT_HEADER if at else _LONG_HEADER
        rest = _continued(data, at)
        if rest == 0:
            return True
        if rest <= PAGE_BYTES - header:
            record = read_record(path, begin + at + header + -(-rest // 8) * 8)
            if record is not None and record.previous < begin + at:
                return True
    return False


def is_better(one: Path, other: Path) -> bool:
    """Whether, of two files of the same segment, `one` is right where the other is not: at their first difference.

    What that is part of begins in the segment, or it is not told.
    """
    left, right = one.read_bytes(), other.read_bytes()
    if len(left) != SEGMENT_BYTES or left == right:
        return False
    if len(right) != SEGMENT_BYTES:
        return True
    at = _first_difference(left, right)
    page = at - at % PAGE_BYTES
    while page > 0 and at <= page + _SHORT_HEADER + _continued(left, page):
        if at < page + _SHORT_HEADER:
            break
        page -= PAGE_BYTES
    if at < page + _SHORT_HEADER:
        return _is_placed(left, page, one) and not _is_placed(right, page, other)
    header = _SHORT_HEADER if page else _LONG_HEADER
    begin = _begin_of_name(one)
    position = begin + page + header + -(-_continued(left, page) // 8) * 8
    while position <= begin + at:
        found, wanting = read_record(one, position), read_record(other, position)
        if found is None or wanting is None:
            return found is not None
        position = found.end
    return False


def _first_difference(left: bytes, right: bytes) -> int:
    """Answer where two that are as long as one another, and differ, do so first."""
    low, high = 0, len(left)
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _continued(segment: bytes, page: int) -> int:
    """Answer how many bytes of a record that began on an earlier page are on a page, or on it and later ones."""
    _, info, _, _, rest = struct.unpack_from("=HHIQI", segment, page)
    return rest if info & _CONTINUES else 0


def _begin_of_name(path: Path) -> int:
    return (int(path.name[8:16], 16) * _SEGMENTS_A_NUMBER + int(path.name[16:24], 16)) * SEGMENT_BYTES


def _is_placed(segment: bytes, page: int, path: Path) -> bool:
    """Whether a page says where it belongs."""
    magic, _, _, address = struct.unpack_from("=HHIQ", segment, page)
    return bool(magic) and address == _begin_of_name(path) + page


class _Reader:
    """Reads the bytes of one record, past the headers of the pages that it goes on in."""

    def __init__(self, path: Path, position: int) -> None:
        self.position = position
        self._path = path
        self._segment = position // SEGMENT_BYTES
        self._data = b""
        self._page = -1

    def skip_header(self) -> int:
        """Go on behind the header where a page begins; answer the position."""
        if self.position % PAGE_BYTES == 0:
            self.position += _LONG_HEADER if self.position % SEGMENT_BYTES == 0 else _SHORT_HEADER
        return self.position

    def take(self, count: int) -> bytes:
        """Raises EOFError where the log has no such bytes, OSError where it has no such segment."""
        taken = bytearray()
        while len(taken) < count:
            begin = self.skip_header() % PAGE_BYTES
            page = self._load(self.position // PAGE_BYTES)
            piece = page[begin : begin + count - len(taken)]
            if not piece:
                raise EOFError
            taken += piece
            self.position += len(piece)
        return bytes(taken)

    def _load(self, page: int) -> bytes:
        """Answer a page's bytes, as far as there are some."""
        if page == self._page:
            return self._data
        segment = page * PAGE_BYTES // SEGMENT_BYTES
        if segment != self._segment:
            whole = self._path.with_name(name_of(int(self._path.name[:8], 16), segment))
            self._path = whole if whole.exists() else whole.with_name(f"{whole.name}.partial")
            self._segment = segment
        with self._path.open("rb") as file:
            file.seek(page * PAGE_BYTES % SEGMENT_BYTES)
            self._data = file.read(PAGE_BYTES)
        self._page = page
        return self._data
