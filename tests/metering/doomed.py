"""Servers that meter clusters until they are killed at a random moment.

Run as a program it reads lines `FILE LOG WENT_ON SECONDS`. For each it forks a server that meters in FILE and appends
each change to LOG before it tells its meters, kills it after so many seconds, and answers `killed`.
"""

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

from zorya.core.clock import SystemClock
from zorya.metering.meters import Meters

CLUSTERS = ("one", "two", "three")
CAPACITIES = (0, 0.5, 1, 2.5, 64)


class PinnedClock(SystemClock):
    """The host's clocks, of which the monotonic one can be held for the moment of a change."""

    def __init__(self) -> None:
        self.pinned: float | None = None

    def monotonic_s(self) -> float:
        """See Clock.monotonic_s."""
        return super().monotonic_s() if self.pinned is None else self.pinned


async def serve(file: Path, log: Path, *, went_on: bool) -> None:
    """Meter the clusters, whose capacities change all the time."""
    clock = PinnedClock()
    meters = Meters.open(file, clock)
    now: dict[str, float] = {}
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(cluster: str, kind: str) -> None:
        capacity = now[cluster] = random.choice([one for one in CAPACITIES if one != now.get(cluster)])
        at_ms = round(clock.monotonic_s() * 1000)
        clock.pinned = at_ms / 1000
        os.write(told, f"{cluster} {kind} {at_ms} {round(capacity * 1000)}\n".encode())
        if kind == "take":
            meters.take_over(cluster, cluster, capacity=capacity, went_on=went_on)
        else:
            meters.set_capacity(cluster, cluster, capacity)
        clock.pinned = None

    async def change() -> None:
        for cluster in CLUSTERS:
            tell(cluster, "take")
        while True:
            tell(random.choice(CLUSTERS), "set")
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(meters.run())
        tasks.create_task(change())


def kill_one_after(seconds: float, file: Path, log: Path, *, went_on: bool) -> None:
    """Run a server for so long."""
    up, is_up = os.pipe()
    pid = os.fork()
    if pid == 0:
        random.seed()
        os.write(is_up, b".")
        asyncio.run(serve(file, log, went_on=went_on))
        os._exit(1)
    os.read(up, 1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(up)
    os.close(is_up)
    sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else "it ended by itself\n")
    sys.stdout.flush()


if __name__ == "__main__":
    for line in sys.stdin:
        name, log_name, went, after = line.split()
        kill_one_after(float(after), Path(name), Path(log_name), went_on=went == "True")
