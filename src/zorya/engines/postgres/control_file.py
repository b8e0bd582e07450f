"""What of a data folder's control file makes a system one of its own: read, and given to a copy.

Copies of one template share what initdb made up for it:

- The *system identifier*. PostgreSQL refuses log of another system by this number (in pg_control and in the first page
  of each log segment), and so do backup tools. As pg_createsubscriber does, write a new number; `pg_resetwal` must then
  make the log anew.
- The *mock nonce*, from which a system makes up salts for roles that are not there (src/backend/libpq/auth-scram.c).
  Who knows one system's could tell them in another.

pg_control (src/include/catalog/pg_control.h): the identifier is the first 8 bytes, the form's version the next 4, a
CRC-32C of everything before it ends the structure, the nonce stands before that, zeros fill the file. Where the
structure ends depends on the version, so the place is found by the checksum itself.
"""

import os
import secrets
import struct
import time
from dataclasses import dataclass
from pathlib import Path

SMALLEST_CONTROL_FILE = 512
"""PG_CONTROL_MAX_SAFE_SIZE: the structure always fits in it."""

NONCE_BYTES = 32
"""MOCK_AUTH_NONCE_LEN."""

_STATE_AT = 16
"""Enum DBState follows two more numbers of 4 bytes."""
SHUT_DOWN = 1
"""DB_SHUTDOWNED: all was written."""
SHUT_DOWN_IN_RECOVERY = 2
"""DB_SHUTDOWNED_IN_RECOVERY: what a follower had replayed was written."""

_CHECKPOINT_AT = 32
"""The position of the last checkpoint's record, then the record itself: its redo position, its timeline."""

_CASTAGNOLI = 0x82F63B78


def renew(control_file: Path) -> None:
    """Give the data folder, on which nothing runs, a new identifier and a new nonce.

    Raises OSError, also when the file is not a control file of a known form. The caller makes the folder durable.
    """
    with control_file.open("r+b") as file:
        content = replace(file.read(), identifier=new_identifier(time.time_ns()), nonce=new_nonce())
        file.seek(0)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_mock_nonce(control_file: Path) -> bytes:
    """Answer the nonce of a data folder, on which an engine may run. Raises OSError as `renew` does."""
    content = control_file.read_bytes()
    at = _nonce_at(content, _crc_at(content))
    return content[at : at + NONCE_BYTES]


def is_shut_down(control_file: Path) -> bool:
    """Whether the data folder's last engine has written all there was; not so for a file that cannot be read."""
    try:
        content = control_file.read_bytes()
        _crc_at(content)
    except OSError:
        return False
    return int(struct.unpack_from("=I", content, _STATE_AT)[0]) == SHUT_DOWN


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a data folder's control file says of its state and its last checkpoint; of a follower, the last replayed."""

    state: int
    checkpoint: int
    """Where the checkpoint's record begins, as a position in bytes."""
    redo: int
    """From where on the log has to be replayed."""
    timeline: int


def read_checkpoint(control_file: Path) -> Checkpoint:
    """Answer the last checkpoint. Raises OSError, also when the file is not a control file of a known form."""
    content = control_file.read_bytes()
    _crc_at(content)
    (state,) = struct.unpack_from("=I", content, _STATE_AT)
    checkpoint, redo, timeline = struct.unpack_from("=QQI", content, _CHECKPOINT_AT)
    return Checkpoint(state=state, checkpoint=checkpoint, redo=redo, timeline=timeline)


def stamp(control_file: Path) -> str:
    """Answer which file it is and when it was written last, as every start and stop does. Empty if it is missing."""
    try:
        found = control_file.stat()
    except OSError:
        return ""
    # Not the device: its number may be another one after a reboot.
    return f"{found.st_ino}-{found.st_mtime_ns}"


def new_identifier(now_ns: int) -> int:
    """Answer a number of the form that PostgreSQL makes: seconds in the upper half, then what makes it unique."""
    return ((now_ns // 1_000_000_000) << 32) | secrets.randbits(32)


def new_nonce() -> bytes:
    """Answer a nonce that nobody knows. Its last byte is not 0, which is what padding looks like."""
    return secrets.token_bytes(NONCE_BYTES - 1) + bytes([1 + secrets.randbelow(255)])


def replace(content: bytes, *, identifier: int, nonce: bytes) -> bytes:
    """Answer the control file's content with another identifier and nonce, and the checksum that fits them.

    Raises OSError when the form is not known.
    """
    end = _crc_at(content)
    at = _nonce_at(content, end)
    head = struct.pack("=Q", identifier) + content[8:at] + nonce + content[at + NONCE_BYTES : end]
    return head + struct.pack("=I", crc32c(head)) + content[end + 4 :]


def crc32c(data: bytes) -> int:
    """Answer the CRC-32C (Castagnoli) of some thousand bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_at(content: bytes) -> int:
    """Answer where the checksum stands. Raises OSError when none is found where one could be."""
    crc = 0xFFFFFFFF
    for position in range(min(SMALLEST_CONTROL_FILE, len(content)) - 4):
        crc = _step(crc, content[position])
        end = position + 1
        if end % 4 == 0 and end >= 200 and struct.unpack_from("=I", content, end)[0] == crc ^ 0xFFFFFFFF:
            return end
    raise OSError(f"no checksum in {len(content)} bytes of a control file")


def _nonce_at(content: bytes, end: int) -> int:
    """Answer where the nonce stands in a structure whose checksum is at `end`.

    Since PostgreSQL 18 a single byte stands before the nonce, so that three of padding follow it.
    """
    (form,) = struct.unpack_from("=I", content, 8)
    padding = 3 if form >= 1800 else 0
    if any(content[end - padding : end]):
        raise OSError(f"the control file's form {form} is not known")
    return end - padding - NONCE_BYTES


def _step(crc: int, byte: int) -> int:
    return (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_CASTAGNOLI if byte & 1 else 0)
    return byte


_TABLE = tuple(_remainder(byte) for byte in range(256))
