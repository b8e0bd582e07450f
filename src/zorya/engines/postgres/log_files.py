"""PostgreSQL's log as it lies in files: segments' names, pages, and single records with their checksums. Reads only.

Sources: src/include/access/xlog_internal.h (names, page headers) and xlogrecord.h (records). All numbers are in the
host's byte order. Zorya's clusters have the default segment size.
"""

import re
import struct
from collections.abc import Iterator, Sequence
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


def end_of_record(path: Path, position: int) -> int | None:
    """Answer where the record ends that begins at `position` in a segment; None unless it is whole, and right.

    A record that goes on in the next segment is read there too, by its name or as a partial one.
    """
    try:
        reader = _Reader(path, position)
        header = reader.take(_RECORD_HEADER)
        length, checksum = struct.unpack_from("=I", header)[0], struct.unpack_from("=I", header, 20)[0]
        if not _RECORD_HEADER <= length <= _LONGEST_RECORD:
            return None
        body = reader.take(length - _RECORD_HEADER)
    except (OSError, EOFError):
        return None
    if crc32c(body + header[:20]) != checksum:
        return None
    return -(-reader.position // 8) * 8


class _Reader:
    """Reads the bytes of one record, past the headers of the pages that it goes on in."""

    def __init__(self, path: Path, position: int) -> None:
        self.position = position
        self._path = path
        self._data = b""
        self._segment = -1

    def take(self, count: int) -> bytes:
        """Raises EOFError where the log has no such bytes."""
        taken = bytearray()
        while len(taken) < count:
            if self.position % PAGE_BYTES == 0:
                self.position += _LONG_HEADER if self.position % SEGMENT_BYTES == 0 else _SHORT_HEADER
            data = self._load(self.position // SEGMENT_BYTES)
            begin = self.position % SEGMENT_BYTES
            within = min(count - len(taken), PAGE_BYTES - begin % PAGE_BYTES)
            piece = data[begin : begin + within]
            if len(piece) < within:
                raise EOFError
            taken += piece
            self.position += within
        return bytes(taken)

    def _load(self, segment: int) -> bytes:
        if segment == self._segment:
            return self._data
        if self._segment >= 0:
            timeline = int(self._path.name[:8], 16)
            whole = self._path.with_name(name_of(timeline, segment))
            self._path = whole if whole.exists() else whole.with_name(f"{whole.name}.partial")
        self._data, self._segment = self._path.read_bytes(), segment
        return self._data
