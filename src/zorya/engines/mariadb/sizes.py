"""What MariaDB's settings are worth at a capacity. Pure.

`at_start` answers what MariaDB takes at its start only, or what is not worth a change; it has to serve every capacity
that the cluster may come to. `following` answers what SET GLOBAL changes in a running server; it follows the capacity
and never falls when that rises. All values are whole numbers, sizes in bytes, as SET GLOBAL takes them. What the
settings do is said in the Knowledge Base, "Server System Variables" and "InnoDB System Variables".

Of the memory at any capacity a half is for InnoDB's buffer pool, which is its only cache of data: it reads and writes
past the kernel's. The other half is for sessions, their sorts and temporary tables, and what the server itself takes.
"""

import math

from zorya.core.capacity import Acu, Bounds

_MIB = 1024**2
_GIB = 1024**3

_BYTES_A_CONNECTION = 2 * _GIB // 200
"""Memory for each connection that is let in: 200 an ACU of 2 GiB, as many as a PostgreSQL cluster has."""

_LEAST_POOL = 16 * _MIB
"""InnoDB takes no less than about 6 MiB; with so little it cannot serve a few sessions."""

_TABLES_AN_MIB = 1


def at_start(bounds: Bounds, acu: Acu) -> dict[str, int]:
    """Answer the settings that stay while the server runs.

    `max_connections` is for the highest capacity: a session that waits for its client costs little at a lower one.
    `innodb_log_file_size`: more log means fewer pages written twice, but a longer recovery and more room on the disk;
    64 MiB for 4 GiB of memory and less, 1 GiB at the most. `aria_pagecache_buffer_size` serves temporary tables on the
    disk and the system's tables.
    """
    memory = acu.memory_of(bounds.most)
    return {
        "max_connections": _between(100, memory // _BYTES_A_CONNECTION, 5000),
        "innodb_log_file_size": _whole_mib(_between(64 * _MIB, memory // 64, _GIB)),
        "aria_pagecache_buffer_size": _whole_mib(_between(8 * _MIB, acu.memory_of(bounds.least) // 64, 128 * _MIB)),
        "key_buffer_size": 8 * _MIB,
    }


def following(capacity: float, bounds: Bounds, acu: Acu) -> dict[str, int]:  # noqa: ARG001 - as other kinds have it
    """Answer the settings that follow `capacity`, in ACUs, with memory first."""
    memory = acu.memory_of(capacity)
    # A temporary table of a query grows in memory up to this, then goes on in a file; a query may have several.
    temporary = _whole_mib(_between(_MIB, memory // 128, _GIB))
    # InnoDB's default of 200 pages a second is for one disk of old, whatever the host.
    pages = _between(200, math.ceil(400 * acu.cores_of(capacity)), 20_000)
    return {
        "innodb_buffer_pool_size": _whole_mib(max(_LEAST_POOL, memory // 2)),
        "tmp_table_size": temporary,
        "max_heap_table_size": max(temporary, 16 * _MIB),
        "table_open_cache": _between(400, memory // _MIB * _TABLES_AN_MIB, 8000),
        # What is set last may not be below what is set first.
        "innodb_io_capacity_max": max(2000, 4 * pages),
        "innodb_io_capacity": pages,
    }


def _between(least: int, value: int, most: int) -> int:
    return min(max(value, least), most)


def _whole_mib(size_bytes: int) -> int:
    return max(size_bytes // _MIB, 1) * _MIB
