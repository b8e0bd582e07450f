"""Who takes part beside the keeper: servers to be killed, engines to be frozen, clients."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from waiting import wait_until
from zorya.compute import freezer, procfs
from zorya.compute.freezer import Freezer


@dataclass(frozen=True, kw_only=True)
class Doomed:
    """A server in a process of its own (doomed.py)."""

    process: subprocess.Popen[bytes]
    port: int
    keeper: int

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def doomed(run: Path, *, keep_s: float = 600, frozen: Freezer | None = None) -> Iterator[Doomed]:
    """Run a server that holds one port and has frozen that engine; killed at the end, if not before."""
    argv = [sys.executable, str(Path(__file__).with_name("doomed.py")), str(run), str(keep_s)]
    if frozen:
        argv.append(json.dumps(freezer.to_json(frozen)))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield Doomed(process=process, port=ready["port"], keeper=ready["keeper"])
        finally:
            process.kill()


@contextmanager
def engine(folder: Path) -> Iterator[Freezer]:
    """Run three processes, one of them the parent of the others; answer how they are frozen by signals."""
    argv = ["/bin/sh", "-c", "sleep 1000 & sleep 1000 & wait"]
    with subprocess.Popen(argv, cwd=folder) as process:
        try:
            wait_until(lambda: len(procfs.tree(process.pid)) == 3, "the processes run")
            identity = procfs.read_identity(process.pid)
            assert identity is not None
            yield Freezer(way=freezer.Way.SIGNALS, folder="", pid=process.pid, start_ticks=identity.start_ticks)
        finally:
            for pid in procfs.tree(process.pid):
                os.kill(pid, signal.SIGKILL)


def freeze(engine: Freezer) -> None:
    """Freeze the engine; return when all of it has stopped."""
    freezer.begin(engine)
    wait_until(lambda: freezer.is_complete(engine), "the engine is frozen")


def runs(engine: Freezer) -> bool:
    """Whether none of the engine's processes is stopped."""
    states = [procfs.read_state(pid) for pid in procfs.tree(engine.pid)]
    return len(states) == 3 and "T" not in states


def is_refused(port: int) -> bool:
    """Whether nobody listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # Closed in this moment.
        return False
    return False


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or only its remains are left."""
    return procfs.read_identity(pid) is None
