"""Give a copied data folder a system identifier of its own.

PostgreSQL refuses log of another system by this number (in pg_control and in the first page of each log segment), and
so do backup tools. Copies of one template would share it, and nothing would keep one cluster's log from another. As
pg_createsubscriber does, write a new number into pg_control; `pg_resetwal` must then make the log anew.

pg_control (src/include/catalog/pg_control.h): the number is the first 8 bytes, a CRC-32C of everything before it ends
the structure, zeros fill the file. Where the structure ends depends on the version, so the place is found by the
checksum itself.
"""

import os
import secrets
import struct
import time
from pathlib import Path

SMALLEST_CONTROL_FILE = 512
"""PG_CONTROL_MAX_SAFE_SIZE: the structure always fits in it."""

_CASTAGNOLI = 0x82F63B78


def renew(control_file: Path) -> int:
    """Write a new identifier into the control file of a data folder on which nothing runs; answer it.

    Raises OSError, also when the file is not a control file. The caller makes the folder durable.
    """
    with control_file.open("r+b") as file:
        content = file.read()
        identifier = new_identifier(time.time_ns())
        changed = replace(content, identifier)
        file.seek(0)
        file.write(changed)
        file.flush()
        os.fsync(file.fileno())
    return identifier


def new_identifier(now_ns: int) -> int:
    """Answer a number of the form that PostgreSQL makes: seconds in the upper half, then what makes it unique."""
    return ((now_ns // 1_000_000_000) << 32) | secrets.randbits(32)


def replace(content: bytes, identifier: int) -> bytes:
    """Answer the control file's content with another identifier and the checksum that fits it.

    Raises OSError when no checksum is found where one could be.
    """
    crc = 0xFFFFFFFF
    for position in range(SMALLEST_CONTROL_FILE - 4):
        crc = _step(crc, content[position])
        end = position + 1
        if end % 4 == 0 and end >= 200 and struct.unpack_from("=I", content, end)[0] == crc ^ 0xFFFFFFFF:
            head = struct.pack("=Q", identifier) + content[8:end]
            return head + struct.pack("=I", crc32c(head)) + content[end + 4 :]
    raise OSError(f"no checksum in {len(content)} bytes of a control file")


def crc32c(data: bytes) -> int:
    """Answer the CRC-32C (Castagnoli) of some hundred bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _step(crc, byte)
    return crc ^ 0xFFFFFFFF


def _step(crc: int, byte: int) -> int:
    crc ^= byte
    for _ in range(8):
        crc = (crc >> 1) ^ (_CASTAGNOLI if crc & 1 else 0)
    return crc
