"""Keeping a group to some of the CPUs, where the kernel offers nothing finer. An ordinary user can do it to its own.

See sched_setaffinity(2). A child inherits what its parent has.
"""

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterable


def choose(cpus: Collection[int], cap_cores: float, name: str) -> frozenset[int]:
    """Answer as many of `cpus` as hold `cap_cores`, at least one. Pure.

    The same for a name at each call, and for names in general spread evenly: neighbours from a place that the name
    says, so that more are those that there were and others, and fewer some of those.
    """
    ordered = sorted(cpus)
    count = min(max(1, math.ceil(round(cap_cores, 6))), len(ordered))
    begin = zlib.crc32(name.encode()) % len(ordered)
    return frozenset((ordered + ordered)[begin : begin + count])


def bind(pids: Callable[[], Iterable[int]], cpus: Collection[int]) -> None:
    """Have the processes run on `cpus` only; those that have ended are passed over. Raises OSError.

    A child that was forked meanwhile by one whose turn had not come is found by looking again.
    """
    bound: set[int] = set()
    while new := [pid for pid in pids() if pid not in bound]:
        for pid in new:
            _bind_threads(pid, cpus)
        bound.update(new)


def is_bound(pid: int, cpus: Collection[int]) -> bool:
    """Whether the process runs on exactly these. Raises ProcessLookupError."""
    return os.sched_getaffinity(pid) == set(cpus)


def _bind_threads(pid: int, cpus: Collection[int]) -> None:
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - a thousand sessions have a thousand of them
    except (FileNotFoundError, ProcessLookupError):
        return
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cpus)
