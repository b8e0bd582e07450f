"""What a group of processes uses, out of the kernel's files. Pure; `counters` reads them.

The files are described in admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/memory.rst, scheduler/sched-bwc.rst and
accounting/psi.rst of the kernel's Documentation.
"""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """The memory of one group; see Usage."""

    memory_bytes: int
    unreclaimable_bytes: int
    warm_bytes: int
    refaults: int | None


_KERNEL_KEYS = ("slab_unreclaimable", "kernel_stack", "pagetables", "percpu", "sock")
_THROTTLED = {1: ("throttled_time", 1e9), 2: ("throttled_usec", 1e6)}


def parse_memory_2(current: str, stat: str) -> MemoryUse:
    """Read `memory.current` and `memory.stat`."""
    values = keyed(stat)
    return _memory(int(current), values, _pinned(values, "anon") + sum(values.get(name, 0) for name in _KERNEL_KEYS))


def parse_memory_1(usage: str, stat: str, kernel: str) -> MemoryUse:
    """Read `memory.usage_in_bytes`, `memory.stat` and `memory.kmem.usage_in_bytes`; the last may be empty.

    The kernel's memory is counted as a whole: version 1 does not say which part of it could be taken back.
    """
    values = keyed(stat)
    return _memory(int(usage), values, _pinned(values, "rss") + int(kernel or 0))


def parse_throttled(version: int, stat: str) -> float | None:
    """Read `cpu.stat`: seconds of throttling, which each CPU counts by itself; None where there is none."""
    name, units = _THROTTLED[version]
    value = keyed(stat).get(name)
    return None if value is None else value / units


def parse_pressure(text: str) -> float:
    """Read `cpu.pressure`: seconds in which something was ready and did not run. Raises ValueError."""
    some = next((line for line in text.splitlines() if line.startswith("some ")), "")
    return int(some.rpartition("total=")[2]) / 1e6


def parse_oom_kills(text: str) -> int | None:
    """Read `memory.events` or version 1's `memory.oom_control`; None where the kernel does not count it."""
    return keyed(text).get("oom_kill")


def keyed(text: str) -> dict[str, int]:
    """Read lines of a name and a number; other lines are left out."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _memory(used_bytes: int, values: dict[str, int], unreclaimable_bytes: int) -> MemoryUse:
    # File and anonymous pages apart since Linux 5.9, one number before.
    refaults = [value for name, value in values.items() if name.startswith("workingset_refault")]
    return MemoryUse(
        memory_bytes=used_bytes,
        # The files of one moment are read one after the other.
        unreclaimable_bytes=min(unreclaimable_bytes, used_bytes),
        warm_bytes=values.get("active_file", 0),
        refaults=sum(refaults) if refaults else None,
    )


def _pinned(values: dict[str, int], own: str) -> int:
    """Answer the processes' own and shared memory. What is locked is mostly part of these, and not counted again."""
    return max(values.get(own, 0) + values.get("shmem", 0), values.get("unevictable", 0))
