"""What a group of processes may use, and what is written to have a kernel hold it. Pure; `limiting` writes it.

The rules of the files are in the kernel's Documentation: admin-guide/cgroup-v2.rst (version 2), scheduler/sched-bwc.rst
(`cpu.cfs_*`), scheduler/sched-design-CFS.rst (`cpu.shares`) and admin-guide/cgroup-v1/memory.rst (version 1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from zorya.compute.usage import MemoryUse
from zorya.core import capacity

_MIB = 1024**2

_UNITS = {1: 1024.0, 2: 10000 / capacity.LIMIT}
"""The weight of one ACU, by version. So much that the highest capacity is within the range, in proportion."""
_WEIGHTS = {1: (2, 262144), 2: (1, 10000)}

_SLICE_US = 5_000
"""What the kernel hands a CPU of a quota at a time (sched_cfs_bandwidth_slice_us): a quota is not less, if it can."""
_PERIODS_US = (20_000, 100_000)
_LEAST_QUOTA_US = 1_000

_PAGES = 64 * 1024
"""Limits are multiples of this, which is one of every page size, so that they read as they were written."""
_GRAIN = 16 * _MIB
"""Limits that follow what is in use are multiples of this, so that not each reading is another limit."""
_LEAST_MARGIN = 64 * _MIB
_PACES = (32 * _MIB, 256 * _MIB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one group may use."""

    cap_cores: float
    """The most cores at once, whatever is free."""
    weight_acu: float
    """Its share of the cores where groups want more than there are: in proportion to that of the others."""
    soft_bytes: int
    """Memory that it may keep; what it has above this is taken back when the kernel can, and never by force."""
    hard_bytes: int
    """The most memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limited:
    """What has become of Limits."""

    shortfall: str
    """What could not be done for now, as a sentence; empty when all was: memory in use is never taken away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """One file of a control group, and what is written to it."""

    file: str
    text: str
    otherwise: tuple[str, str] | None
    """Another file, and what is written there instead when the kernel finds `text` invalid (EINVAL)."""
    can_wait: bool
    """Whether the kernel may refuse it as long as too much is in use (EBUSY)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is written, in this order, and what that leaves undone."""

    writes: tuple[Write, ...]
    limited: Limited


FILES = {
    ("cpu", 1): ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares"),
    ("cpu", 2): ("cpu.max", "cpu.weight"),
    ("memory", 1): ("memory.limit_in_bytes", "memory.soft_limit_in_bytes"),
    ("memory", 2): ("memory.max", "memory.high"),
}
"""The files of a controller and version; `present` below is what each of them says. Memory's are the hard limit's and
the soft one's."""


def quota_of(cap_cores: float) -> tuple[int, int]:
    """Answer quota and period, in microseconds: so much processor time in each period is `cap_cores`.

    A group that has used its quota stands still until the period ends, which a client feels. So the period is as
    short as leaves the quota one slice, within 20 to 100 ms.
    """
    shortest, longest = _PERIODS_US
    period = min(max(round(_SLICE_US / cap_cores), shortest), longest)
    return max(_LEAST_QUOTA_US, round(cap_cores * period)), period


def weight_of(weight_acu: float, version: int) -> int:
    """Answer the weight as `cpu.weight` (2) or `cpu.shares` (1): 39 or 1024 for each ACU, within the file's range."""
    least, most = _WEIGHTS[version]
    return min(max(round(weight_acu * _UNITS[version]), least), most)


def plan_cores(version: int, limits: Limits, present: Mapping[str, str], *, cpus: int) -> tuple[Write, ...]:
    """Answer what to write for the cores, of which this process may use `cpus`: a cap that is not below has no quota.

    Version 1 has quota and period in two files, and a group may have no larger part of the time than the one above
    it (EINVAL); there the group's own cap would say nothing, and it gets none. Between the two writes the part is
    never more than before or after: that too could be invalid.
    """
    quota, period = quota_of(limits.cap_cores)
    is_capped = limits.cap_cores < cpus
    weight = str(weight_of(limits.weight_acu, version))
    if version == 2:
        wanted = {"cpu.max": f"{quota} {period}" if is_capped else f"max {_PERIODS_US[1]}", "cpu.weight": weight}
    else:
        wanted = {"cpu.cfs_quota_us": str(quota if is_capped else -1), "cpu.cfs_period_us": str(period)}
        if present["cpu.cfs_quota_us"] == "-1" or int(present["cpu.cfs_period_us"]) < period:
            wanted = dict(reversed(wanted.items()))
        if not is_capped:
            del wanted["cpu.cfs_period_us"]
        wanted["cpu.shares"] = weight
    return tuple(
        Write(
            file=file,
            text=text,
            otherwise=("cpu.cfs_quota_us", "-1") if file.startswith("cpu.cfs_") else None,
            can_wait=False,
        )
        for file, text in wanted.items()
        if text != present[file]
    )


def plan_memory(version: int, limits: Limits, use: MemoryUse, present: Mapping[str, str]) -> Plan:
    """Answer what to write for the memory. No limit goes below what cannot be taken back, with some room to grow.

    Both limits go up at once. In version 2 the soft limit (`memory.high`) takes back what is above it in the moment of
    the write, and slows down whoever then needs more: it goes down by a pace a call. The hard one (`memory.max`)
    would end processes, and stays above all that is in use: it follows the soft one. In version 1 the soft limit takes
    nothing back until the host itself is short of memory, so it is set as wanted; the hard limit goes down by a pace a
    call, and the kernel refuses what it cannot take back (EBUSY).
    """
    hard_file, soft_file = FILES["memory", version]
    hard_now, soft_now = _bytes_of(present[hard_file]), _bytes_of(present[soft_file])
    hard_wanted, soft_wanted = (_down(one, _PAGES) for one in (limits.hard_bytes, limits.soft_bytes))
    least = _up(use.unreclaimable_bytes + _margin(use.unreclaimable_bytes), _GRAIN)
    next_down = _down(use.memory_bytes - _pace(use.memory_bytes), _GRAIN)
    if version == 2:
        above = _up(use.memory_bytes + _margin(use.memory_bytes), _GRAIN)
        hard = max(hard_wanted, min(hard_now, above))
        soft = min(hard, max(soft_wanted, least, min(soft_now, next_down)))
    else:
        hard = max(hard_wanted, min(hard_now, max(least, next_down)))
        soft = soft_wanted
    steps = [(hard_file, hard_now, hard), (soft_file, soft_now, soft)]
    raised = [step for step in steps if step[2] > step[1]]
    lowered = [step for step in reversed(steps) if step[2] < step[1]]
    return Plan(
        writes=tuple(
            Write(file=file, text=str(new), otherwise=None, can_wait=version == 1 and file == hard_file)
            for file, _, new in raised + lowered
        ),
        limited=Limited(shortfall=shortfall(limits, use) if hard > hard_wanted or soft > soft_wanted else ""),
    )


def shortfall(limits: Limits, use: MemoryUse) -> str:
    """Answer what to say of limits that are below what is in use."""
    return (
        f"{use.memory_bytes // _MIB} MiB are in use, and {use.unreclaimable_bytes // _MIB} MiB of them cannot be taken "
        f"back: the limits of {limits.soft_bytes // _MIB} and {limits.hard_bytes // _MIB} MiB are reached as less is."
    )


def _margin(used_bytes: int) -> int:
    """Answer what may be needed more before the limits are looked at again."""
    return max(_LEAST_MARGIN, used_bytes // 8)


def _pace(used_bytes: int) -> int:
    """Answer how much is taken back a call, which the caller waits for: 32 MiB take the kernel some 10 ms."""
    least, most = _PACES
    return min(max(used_bytes // 32, least), most)


def _bytes_of(text: str) -> float:
    """Read a limit; `max` in version 2, and in version 1 a number above all memory, is none."""
    return math.inf if text == "max" or int(text) >= 1 << 62 else int(text)


def _down(value: int, grain: int) -> int:
    return max(grain, value // grain * grain)


def _up(value: int, grain: int) -> int:
    return -(-value // grain) * grain
