"""One engine process: launched or taken over, watched through a pidfd.

An engine is a session leader with its own log file, so that nothing that happens to Zorya reaches it. A process is
known by number, start time and boot together; a number alone is never trusted, since it may have been given anew.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from zorya.compute import procfs
from zorya.core.account import Account
from zorya.core.model import ProcessIdentity


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What to start, as whom, and where its output goes."""

    argv: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    log: Path
    account: Account
    is_spared: bool = False
    """Whether the kernel is to end almost anything else before it when memory runs out."""


class EngineProcess:
    """A running engine's first process. Belongs to the event loop in which it was made."""

    def __init__(self, *, identity: ProcessIdentity, pidfd: int, child: subprocess.Popen[bytes] | None) -> None:
        """Watch the process behind `pidfd`; use `launch` or `take_over`."""
        self.identity = identity
        self._pidfd = pidfd
        self._child = child
        self._exited = asyncio.get_running_loop().create_future()
        self._listeners: list[Callable[[str], None]] = []
        asyncio.get_running_loop().add_reader(pidfd, self._on_exit)

    @classmethod
    async def launch(cls, plan: Launch) -> Self:
        """Start the engine in a session of its own. Returns as soon as the program is executing.

        Raises OSError when it cannot be executed or its log cannot be opened. If cancelled, nothing runs.
        """
        spawning = asyncio.ensure_future(asyncio.to_thread(_spawn, plan))
        try:
            child = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                given_up = await spawning
                given_up.kill()
                await asyncio.to_thread(given_up.wait)
            raise
        pidfd = os.pidfd_open(child.pid)
        identity = procfs.read_identity(child.pid)
        if identity is None:
            identity = ProcessIdentity(pid=child.pid, start_ticks=0, boot_id=procfs.read_boot_id())
        return cls(identity=identity, pidfd=pidfd, child=child)

    @classmethod
    def take_over(cls, pid: int, *, folder: Path, known: ProcessIdentity | None) -> Self | None:
        """Watch an engine that was started earlier; None when `pid` is not, or no longer, an engine on `folder`.

        `known` is what was recorded of it, if anything was; a process with this number but another start is refused.
        """
        try:
            # Opened before it is looked at, so that what is looked at is what is held.
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        identity = procfs.read_identity(pid)
        stale = known is not None and known.pid == pid and known != identity
        if identity is None or stale or not procfs.works_in(pid, folder):
            os.close(pidfd)
            return None
        return cls(identity=identity, pidfd=pidfd, child=None)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.identity.pid

    @property
    def alive(self) -> bool:
        """Whether the end of the process has not been noticed yet."""
        return not self._exited.done()

    def on_exit(self, listener: Callable[[str], None]) -> None:
        """Call `listener` once with the ending in words when the process ends, or soon if it has ended."""
        if self.alive:
            self._listeners.append(listener)
        else:
            asyncio.get_running_loop().call_soon(listener, self._exited.result())

    async def wait(self) -> str:
        """Wait for the end and answer it in words, such as "exit code 1" or "signal 9 (SIGKILL)"."""
        words: str = await asyncio.shield(self._exited)
        return words

    def signal(self, number: signal.Signals) -> None:
        """Signal exactly this process; nothing happens if it has ended."""
        if not self.alive:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        ending = _describe(self._child.wait() if self._child else None)
        self._exited.set_result(ending)
        for listener in self._listeners:
            listener(ending)

    def release(self) -> None:
        """Stop watching and leave the process running, as when Zorya ends before it. Idempotent."""
        if self.alive:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._exited.cancel()
        if self._child is not None and self._child.returncode is None:
            # Popen warns when it is dropped with a live child; here that is the intent.
            self._child.returncode = 0


def _spawn(plan: Launch) -> subprocess.Popen[bytes]:
    log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            plan.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=plan.folder,
            env=dict(plan.env),
            start_new_session=True,
            umask=0o077,
            **plan.account.switch(),
        )
    finally:
        os.close(log)
    if plan.is_spared:
        procfs.protect(child.pid)
    return child


def _describe(code: int | None) -> str:
    if code is None:
        return "an exit that only its own log explains"
    if code < 0:
        return f"signal {-code} ({signal.Signals(-code).name})"
    return f"exit code {code}"
