"""What this host has for all clusters together: cores and memory, those that control groups leave it."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zorya.compute import cgroups
from zorya.compute.cgroups import Hierarchy
from zorya.core import capacity
from zorya.core.capacity import Acu

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What there is for engines."""

    cores: float
    memory_bytes: int

    def capacity(self, acu: Acu) -> float:
        """Answer how many ACUs this is: so many as there are both memory and cores for, in whole steps, at least one.

        The setting `node_capacity` overrides it.
        """
        return capacity.round_down(min(self.memory_bytes / acu.memory_bytes, self.cores / acu.cores))


def examine() -> Node:
    """Answer what this process may use: the host's, less what affinity and its control groups' limits withhold.

    Reads a few files of /proc and of the control groups from Zorya's own up to the root; may be repeated often.
    """
    return measure(
        cgroups.of_this_process(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=parse_meminfo(_MEMINFO.read_text()),
    )


def measure(hierarchies: Sequence[Hierarchy], *, cpus: int, memory_bytes: int) -> Node:
    """Answer what the groups leave of so many CPUs and so much memory."""
    cores, memory = float(cpus), float(memory_bytes)
    for hierarchy in hierarchies:
        for folder in _up_to_root(hierarchy):
            if hierarchy.version == 2:
                cores = min(cores, _limit(parse_cpu_max, folder / "cpu.max"))
                memory = min(memory, *(_limit(parse_bytes, folder / one) for one in ("memory.max", "memory.high")))
            elif hierarchy.controller == "cpu":
                quota, period = (_limit(float, folder / f"cpu.cfs_{one}_us") for one in ("quota", "period"))
                cores = min(cores, quota / period if 0 < quota < math.inf else math.inf)
            elif hierarchy.controller == "memory":
                memory = min(memory, _limit(parse_bytes, folder / "memory.limit_in_bytes"))
    return Node(cores=cores, memory_bytes=int(memory))


def parse_meminfo(text: str) -> int:
    """Read the host's memory from /proc/meminfo, in bytes (proc_meminfo(5)). Raises ValueError."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) * 1024
    raise ValueError("no MemTotal")


def parse_cpu_max(text: str) -> float:
    """Read version 2's `cpu.max`: cores, infinite for `max`."""
    quota, _, period = text.strip().partition(" ")
    return math.inf if quota == "max" else int(quota) / int(period)


def parse_bytes(text: str) -> float:
    """Read a limit of memory, infinite for `max`. Version 1 has a number above all memory for none."""
    return math.inf if text.strip() == "max" else int(text)


def _up_to_root(hierarchy: Hierarchy) -> Iterator[Path]:
    """Answer the folder of Zorya's group and those above it that this process is shown."""
    yield from (one for one in (hierarchy.own, *hierarchy.own.parents) if one.is_relative_to(hierarchy.mount))


def _limit(parse: Callable[[str], float], path: Path) -> float:
    """Answer a limit; infinite where the file is not there, as at the root, or a controller is not enabled."""
    try:
        return parse(path.read_text())
    except OSError:
        return math.inf
