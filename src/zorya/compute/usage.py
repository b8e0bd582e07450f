"""What a group of processes uses: the kernel's counters at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Counters of one group. Those that only rise begin anywhere; None where this host does not count it."""

    cpu_s: float
    """Processor time, all cores together. Only rises."""
    throttled_s: float | None
    """Time in which the cap on cores kept something from running. Only rises."""
    waited_s: float | None
    """Time in which something was ready to run and did not: pressure (PSI, `some`), or the sum over its processes of
    what /proc/PID/schedstat says. Only rises, but for processes that end."""
    memory_bytes: int
    """All that is charged to it, page cache included; or an estimate."""
    unreclaimable_bytes: int
    """Of that, what it cannot do without: its own and shared memory, and the kernel's for it."""
    warm_bytes: int
    """Of that, page cache that was used more than once."""
    refaults: int | None
    """Pages that had been taken away and were needed again. Only rises."""
    oom_kills: int | None
    """Processes that the kernel has ended for want of memory. Only rises."""
