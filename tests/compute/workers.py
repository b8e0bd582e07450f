"""A process that does what it is told, in a group of its own: what is measured is the kernel's real doing."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from zorya.compute import cgroups, procfs
from zorya.compute.cgroups import Hierarchy
from zorya.compute.group import Grouping, ProcessGroup
from zorya.compute.placement import Place, Places

_PROGRAM = """
import os, sys, time
kept = []
def hold(mib): kept.append(b"x" * (mib << 20))
def fork():
    if not os.fork():
        time.sleep(1000)
def spin(cpu_s):
    until = time.process_time() + cpu_s
    while time.process_time() < until: pass
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Worker:
    """The process; `tell` it a statement and it is done."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        identity = procfs.read_identity(self.process.pid)
        assert identity is not None
        self.identity = identity
        self.name = f"zorya-test-{self.process.pid}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, statement: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self) -> None:
        if self.process.returncode is not None:
            return
        for pid in reversed(procfs.tree(self.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def enclosed(worker: Worker, grouping: Grouping) -> Iterator[ProcessGroup]:
    """The worker in its groups, which are gone afterwards."""
    found = ProcessGroup.enclose(grouping, worker.name, worker.identity)
    try:
        yield found
    finally:
        worker.end()
        asyncio.run(found.remove())
    for hierarchy in grouping.all:
        assert not (hierarchy.own / worker.name).exists()


def place_of(worker: Worker, controller: str, version: int) -> Path:
    """The folder of the worker's group."""
    (hierarchy,) = [one for one in cgroups.of_this_process() if (one.controller, one.version) == (controller, version)]
    return hierarchy.own / worker.name


CALM = {
    "cpu.max": "max 100000\n",
    "cpu.weight": "100\n",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_throttled 3\nthrottled_usec 750000\n",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1250000\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.max": "max\n",
    "memory.high": "max\n",
    "memory.current": f"{512 << 20}\n",
    "memory.stat": f"anon {64 << 20}\nfile {400 << 20}\nkernel_stack 1048576\npagetables 2097152\nshmem {32 << 20}\n"
    f"slab_reclaimable 999\nslab_unreclaimable 4194304\nactive_file {100 << 20}\nunevictable 0\n"
    "workingset_refault_anon 5\nworkingset_refault_file 7\n",
    "memory.events": "low 0\nhigh 2\nmax 0\noom 1\noom_kill 1\noom_group_kill 0\n",
}
"""What the files of a group of version 2 say."""


def version_2(folder: Path) -> Places:
    """Places in a folder of ordinary files, as a stand-in for a group of version 2 with all controllers."""
    for name, text in CALM.items():
        (folder / name).write_text(text)
    hierarchy = Hierarchy(version=2, controller="", mount=folder.parent, mount_root="/", own=folder.parent)
    place = Place(hierarchy=hierarchy, folder=folder)
    return Places(freezer=place, memory=place, cpu=place, accounting=place)
