"""Reading what a group of processes uses: the half of `usage` that reads. Nothing here needs an event loop or waits."""

import contextlib
import os
from collections.abc import Callable, Collection
from pathlib import Path

from zorya.compute import cgroups, procfs, usage
from zorya.compute.placement import Place, Places
from zorya.compute.usage import MemoryUse, Usage

_MOST_PROCESSES = 64
"""How many processes are asked how long they waited. It is a file each; a thousand sessions would cost 10 ms a time,
and most of them wait for their clients."""


class Counters:
    """The counters of one group. Keeps one descriptor open; close it."""

    def __init__(self, places: Places, *, first: int, pids: Callable[[], Collection[int]]) -> None:
        """Read in `places`, and of the processes `pids`, of which `first` is the first, where there is no place."""
        self._places = places
        self._first = first
        self._pids = pids
        self._descriptor: int | None = None
        self._begin_s = 0.0
        """What is added to the kernel's counter: what an earlier group, that has vanished, had counted."""
        self._last_s = 0.0

    def cpu_s(self) -> float:
        """Answer the processor time so far. Never falls, also over a group that is made anew.

        One pread where a control group counts it, else a file for each process. Raises OSError when it cannot be read
        now: the group has vanished, which `ProcessGroup.limit` mends, or every process has ended.
        """
        counted_s = self._read_cpu() if self._places.accounting is not None else self._sum_cpu()
        if self._begin_s + counted_s < self._last_s:
            self._begin_s = self._last_s - counted_s
        self._last_s = self._begin_s + counted_s
        return self._last_s

    def read(self) -> Usage:
        """Answer all counters. A few files; without control groups one for each process. Raises OSError as `cpu_s`."""
        memory = self._places.memory
        used = read_memory(memory.version, memory.folder) if memory is not None else _estimate_memory(self._pids())
        return Usage(
            cpu_s=self.cpu_s(),
            throttled_s=self._throttled_s(),
            waited_s=self._waited_s(),
            memory_bytes=used.memory_bytes,
            unreclaimable_bytes=used.unreclaimable_bytes,
            warm_bytes=used.warm_bytes,
            refaults=used.refaults,
            oom_kills=self._oom_kills(),
        )

    def close(self) -> None:
        """Give the descriptor back; the next reading opens it again. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _read_cpu(self) -> float:
        place = self._places.accounting
        assert place is not None
        if self._descriptor is not None:
            # ENODEV: of a group that was removed, and has perhaps been made again.
            with contextlib.suppress(OSError):
                return _read_cpu(self._descriptor, place)
            self.close()
        name = "cpuacct.usage" if place.version == 1 else "cpu.stat"
        self._descriptor = os.open(place.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        return _read_cpu(self._descriptor, place)

    def _sum_cpu(self) -> float:
        found = procfs.cpu_s(self._pids(), self._first)
        if found is None:
            raise ProcessLookupError(f"no process {self._first}")
        return found

    def _throttled_s(self) -> float | None:
        place = self._places.cpu
        return usage.parse_throttled(place.version, _read_if_there(place.folder, "cpu.stat")) if place else None

    def _waited_s(self) -> float | None:
        """A group of version 2 has its pressure whatever controllers it has, if the kernel counts pressure at all."""
        for place in self._places.all:
            if place.version == 2:
                with contextlib.suppress(OSError, ValueError):
                    return usage.parse_pressure(cgroups.read(place.folder, "cpu.pressure"))
        # The oldest are the same ones each time.
        return procfs.run_delay_s(sorted(self._pids())[:_MOST_PROCESSES])

    def _oom_kills(self) -> int | None:
        place = self._places.memory
        if place is None:
            return None
        name = "memory.oom_control" if place.version == 1 else "memory.events"
        return usage.parse_oom_kills(_read_if_there(place.folder, name))


def read_memory(version: int, folder: Path) -> MemoryUse:
    """Read the memory of a control group. Raises OSError when it is gone."""
    stat = cgroups.read(folder, "memory.stat")
    if version == 2:
        return usage.parse_memory_2(cgroups.read(folder, "memory.current"), stat)
    kernel = _read_if_there(folder, "memory.kmem.usage_in_bytes")
    return usage.parse_memory_1(cgroups.read(folder, "memory.usage_in_bytes"), stat, kernel)


def _read_cpu(descriptor: int, place: Place) -> float:
    # `cpu.stat` begins with usage_usec, whatever follows.
    text = os.pread(descriptor, 64, 0).split(None, 2)
    return int(text[0]) / 1e9 if place.version == 1 else int(text[1]) / 1e6


def _estimate_memory(pids: Collection[int]) -> MemoryUse:
    private, shared = procfs.private_and_shared_bytes(pids)
    return MemoryUse(memory_bytes=private + shared, unreclaimable_bytes=private + shared, warm_bytes=0, refaults=None)


def _read_if_there(folder: Path, name: str) -> str:
    try:
        return cgroups.read(folder, name)
    except OSError:
        return ""
