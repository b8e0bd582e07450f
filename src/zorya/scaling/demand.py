"""What a cluster wants, out of two readings of its counters. Pure."""

from dataclasses import dataclass
from mmap import PAGESIZE

BLOCK_BYTES = 8192
"""What `Reading` counts by: PostgreSQL's block, half a page of MariaDB's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One cluster's counters at one moment, the kernel's and the engine's. None where nobody counts it."""

    at_s: float
    """By the monotonic clock."""
    cpu_s: float
    """Processor time, all cores together. Only rises."""
    throttled_s: float | None
    """Time in which the cap on cores kept something from running. Only rises."""
    waited_s: float | None
    """Time in which something was ready to run and did not. Mostly rises."""
    memory_bytes: int
    """All memory that is charged to it, page cache included."""
    unreclaimable_bytes: int
    """Of that, what it cannot do without."""
    warm_bytes: int
    """Of that, page cache that was used more than once."""
    refaults: int | None
    """Pages that had been taken away and were needed again. Only rises."""
    oom_kills: int | None
    """Processes that the kernel has ended for want of memory. Only rises."""
    sessions: int
    """Clients' sessions, idle ones among them."""
    at_work: int
    """Of those, that do something or wait within a transaction, as far as is known."""
    waiting: int
    """Of those, that wait for a lock."""
    blocks_hit: int | None
    """Blocks that were found in the engine's own cache. Only rises, until the engine's statistics are reset."""
    blocks_read: int | None
    """Blocks that it asked the kernel for."""
    cache_bytes: int = 0
    """Of its own memory, what is cache that follows its capacity. It is no part of what it cannot do without."""
    blocks_missed: int = 0
    """Of the blocks read, those for which that cache had to let another one go. Only rises."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What a cluster did and wanted in one stretch of time."""

    cores: float
    """Used, on average."""
    throttled: float
    """The part of the time, 0 to 1, in which the cap on cores kept something from running; 0 where unknown."""
    waiting_cores: float
    """Cores more that it would have used: what was ready to run and did not; 0 where unknown."""
    memory_bytes: int
    unreclaimable_bytes: int
    warm_bytes: int
    read_bytes_s: float
    """What it asked the cache that follows its capacity for, in bytes a second; 0 where unknown.

    That is the kernel's page cache, or one of its own.
    """
    refault_bytes_s: float
    """Of that, what was not there because there was no room for it; 0 where unknown."""
    hit_ratio: float | None
    """Of the blocks that it needed, the part that its own cache had, 0 to 1; None where it needed none."""
    sessions: int
    at_work: int
    waiting: int
    oom_kills: int
    """Processes that the kernel has ended for want of memory."""


def between(before: Reading, after: Reading) -> Demand:
    """Answer what was wanted from `before` to `after`, which is later.

    A counter that fell has begun anew, at what nobody knows, so that it says nothing of this time; nor does one that
    only one of the two has.
    """
    span_s = after.at_s - before.at_s
    hit, missed = _rise(before.blocks_hit, after.blocks_hit), _rise(before.blocks_read, after.blocks_read)
    # Who has a cache of its own that follows the capacity asks for blocks there, and the kernel for those that are not.
    asked = hit + missed if after.cache_bytes else missed
    evicted = _rise(before.blocks_missed, after.blocks_missed) * BLOCK_BYTES
    return Demand(
        cores=_rate(_rise(before.cpu_s, after.cpu_s), span_s),
        throttled=min(_rate(_rise(before.throttled_s, after.throttled_s), span_s), 1.0),
        waiting_cores=_rate(_rise(before.waited_s, after.waited_s), span_s),
        memory_bytes=after.memory_bytes,
        unreclaimable_bytes=max(after.unreclaimable_bytes - after.cache_bytes, 0),
        warm_bytes=after.warm_bytes + after.cache_bytes,
        read_bytes_s=_rate(asked * BLOCK_BYTES, span_s),
        refault_bytes_s=_rate(_rise(before.refaults, after.refaults) * PAGESIZE + evicted, span_s),
        hit_ratio=hit / (hit + missed) if hit + missed else None,
        sessions=after.sessions,
        at_work=after.at_work,
        waiting=after.waiting,
        oom_kills=int(_rise(before.oom_kills, after.oom_kills)),
    )


def _rise(before: float | None, after: float | None) -> float:
    if before is None or after is None:
        return 0.0
    return max(after - before, 0.0)


def _rate(rise: float, span_s: float) -> float:
    return rise / span_s if span_s > 0 else 0.0
