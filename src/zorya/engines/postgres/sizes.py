"""What PostgreSQL's settings are worth at a capacity. Pure.

`at_start` answers what PostgreSQL takes at its start only; it has to serve every capacity that the cluster may come to.
`following` answers what a reload changes in open sessions (contexts `user` and `sighup` of pg_settings); it follows the
capacity and never falls when that rises. What the settings do, and which values they take, is said in the manual's
chapter "Server Configuration".

Of the memory at any capacity a half is for sorts and hash tables, not a fifth for maintenance, at most a quarter of the
lowest capacity's for shared buffers, and the rest, with what these leave, for sessions themselves and page cache.
"""

import math

from zorya.core.capacity import Acu, Bounds

_KIB = 1024
_MIB = 1024**2
_GIB = 1024**3

_BYTES_A_CONNECTION = 2 * _GIB // 200
"""Memory for each connection that is let in: 200 an ACU of 2 GiB, about as many as Aurora lets in."""

_OPERATIONS = 128
"""So many sorts and hash tables at once have room, at any capacity."""

_OPERATIONS_A_CORE = 16
"""And so many a core, where that is more."""

_MOST_WORKERS = 64
"""Parallel workers of a cluster, at the most, however many cores it has."""

_OTHER_WORKERS = 8
"""Background workers beside them, for logical replication and extensions: PostgreSQL's default for all together."""


def at_start(bounds: Bounds, acu: Acu) -> dict[str, str]:
    """Answer the settings that cannot change while the engine runs, as the settings file has them.

    `shared_buffers` stays small: it is shared memory, which the kernel cannot take back, so it is at most a quarter of
    what the cluster has at its lowest capacity, and it comes to that again. Page cache does the rest, and follows.
    `max_connections` is for the highest capacity: a session that waits for its client costs little at a lower one.
    `max_worker_processes` has to hold `max_parallel_workers` of every capacity.
    """
    memory = acu.memory_of(bounds.most)
    buffers = min(_between(128 * _MIB, memory // 32, _GIB), acu.memory_of(bounds.least) // 4)
    return {
        "max_connections": str(_between(100, memory // _BYTES_A_CONNECTION, 5000)),
        "shared_buffers": _size(max(buffers, _MIB)),
        "max_worker_processes": str(_OTHER_WORKERS + _most_workers(bounds, acu)),
    }


def following(capacity: float, bounds: Bounds, acu: Acu) -> dict[str, str]:
    """Answer the settings that follow `capacity`, in ACUs, as the settings file has them."""
    memory = acu.memory_of(capacity)
    return {
        **_memory(memory, acu),
        **_parallelism(capacity, bounds, acu),
        # The default, 200, lets autovacuum dirty 40 MB a second, whatever the host (manual, "Cost-based Vacuum Delay");
        # with more cores sessions leave more to clean up. Never less than it: what is not vacuumed has to be later.
        "autovacuum_vacuum_cost_limit": str(_between(200, int(200 * acu.cores_of(capacity)), 2000)),
        **_log(memory),
    }


def _memory(memory: int, acu: Acu) -> dict[str, str]:
    """Answer the settings of sorts, maintenance and what the planner expects to find in memory.

    `work_mem` limits one operation, and each of a query, in each of its processes, may use as much (manual, "Memory";
    hash tables twice as much). It is a half of the memory for _OPERATIONS at once: PostgreSQL's default of 4 MB for
    1 GiB. From the capacity on at which the cores could work on more than these, it stays: else memory would not be
    enough when all cores are busy. Sessions beyond that make the cluster grow before they can fill what it has at its
    highest capacity, which is the only limit that ends a process.

    `maintenance_work_mem` is for one operation of a session, of which there are few; VACUUM uses no more than 1 GB
    before PostgreSQL 17. `autovacuum_work_mem` is for each of three workers (autovacuum_max_workers).

    `effective_cache_size` takes no memory: it is what an index scan can expect to find there.
    """
    operation = min(memory // 2 // _OPERATIONS, int(acu.memory_bytes / 2 / (acu.cores * _OPERATIONS_A_CORE)), _GIB)
    return {
        "work_mem": _size(max(operation, _MIB)),
        "maintenance_work_mem": _size(_between(_MIB, memory // 16, _GIB)),
        "autovacuum_work_mem": _size(_between(_MIB, memory // 32, _GIB)),
        # PostgreSQL counts it in blocks of 8 KiB, in 31 bits.
        "effective_cache_size": _size(_between(_MIB, memory // 4 * 3, 8192 * _GIB)),
    }


def _parallelism(capacity: float, bounds: Bounds, acu: Acu) -> dict[str, str]:
    """Answer how many processes queries may divide their work among.

    None where even the highest capacity has less than two cores. Otherwise the cluster has workers for twice the cores
    of its capacity, and for four at least, but for no more than it has at its highest: a query's processes are chosen
    when it starts, and one that kept to the present cores could never show that more would serve it. Of these one query
    gets a half (manual, "Parallel Query"; two of four is PostgreSQL's default), or eight.
    """
    most = _most_workers(bounds, acu)
    all_workers = min(most, max(4, math.ceil(2 * acu.cores_of(capacity))))
    return {
        "max_parallel_workers": str(all_workers),
        "max_parallel_workers_per_gather": str(min(all_workers // 2, 8)),
        "max_parallel_maintenance_workers": str(min(all_workers // 2, 4)),
    }


def _most_workers(bounds: Bounds, acu: Acu) -> int:
    cores = int(min(acu.cores_of(bounds.most), _MOST_WORKERS))
    return cores if cores >= 2 else 0


def _log(memory: int) -> dict[str, str]:
    """Answer how far checkpoints are apart, and how much of the log's room is kept for later.

    More log between two checkpoints means fewer of them and fewer whole pages in the log (manual, "WAL Configuration"),
    but also a longer recovery and more room on the disk: 1 GB, PostgreSQL's default, for 2 GiB of memory and less, and
    8 GB at the most. What is kept is PostgreSQL's default too, or a sixteenth.
    """
    most = _between(_GIB, memory // 2, 8 * _GIB)
    return {"max_wal_size": _size(most), "min_wal_size": _size(max(80 * _MIB, most // 16))}


def _between(least: int, value: int, most: int) -> int:
    return min(max(value, least), most)


def _size(size_bytes: int) -> str:
    """Answer a size as PostgreSQL reads it, rounded down to KiB."""
    return f"{size_bytes // _MIB}MB" if size_bytes % _MIB == 0 else f"{size_bytes // _KIB}kB"
