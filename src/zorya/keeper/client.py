"""The server's side of the keeper: what it is to hold and to guard, and another keeper when one ends.

All methods are called from one thread, that of the event loop, and none but `join` and `dismiss` waits, save for a
keeper that is behind. What was said when a method returns is in the kernel, and is read even if the server is killed
then. Without a keeper nothing else changes for the server: what it says is remembered for the next one.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zorya.compute import freezer
from zorya.core import errors, logging
from zorya.keeper import link, wire

DISMISS_S = 5.0
"""How long a dismissed keeper may take until it is killed."""

BEHIND_S = 1.0
"""How long a keeper that has not read some hundreds of messages is waited for, once, until it is given up."""

BURIAL_S = 1.0
"""How long one that has closed its connection may take to end, until another is joined."""

STEADY_S = 60.0
"""A keeper that lived as long is replaced at once; also the longest pause before one that did not is replaced."""

log = logging.get("zorya.keeper")


def next_pause_s(pause_s: float | None, lived_s: float) -> float:
    """Answer how long to wait before the next keeper, after a pause of `pause_s` and one that lived `lived_s`. Pure."""
    if pause_s is None or lived_s >= STEADY_S:
        return 0.0
    return min(STEADY_S, max(1.0, 2 * pause_s))


class Keeper:
    """This server's keeper, or the lack of one."""

    def __init__(self, run: Path, *, log: Path, keep_s: float) -> None:
        """Keep the socket in the folder `run`; a keeper that is started writes to `log`, and holds for `keep_s`."""
        self.problem = "There is no keeper yet."
        """Why there is no keeper, as a sentence; empty while there is one."""
        self._run = run
        self._log = log
        self._keep_s = keep_s
        self._link: link.Link | None = None
        self._lost_links: list[link.Link] = []
        self._kept: dict[int, Sequence[socket.socket]] = {}
        self._guarded: dict[str, freezer.Freezer] = {}
        self._lost = asyncio.Event()
        self._unwatch: Callable[[], object] | None = None
        self._complained = False

    @property
    def pid(self) -> int | None:
        """The keeper's process, if there is one."""
        return self._link.pid if self._link else None

    def join(self) -> Mapping[int, Sequence[socket.socket]]:
        """Link with the keeper that an earlier server left, or start one; answer the sockets it held, by port.

        Blocks, for `link.JOIN_S` at most; once, before anything else. Without a keeper a warning is logged, `problem`
        says why, and nothing is answered. The sockets are non-blocking and the caller's. The keeper holds them too,
        so each port has to be told it again: with `keep` when it is used, with `let_go` when it is not.
        """
        try:
            joined = link.join(self._run, log=self._log, keep_s=self._keep_s)
        except errors.HostProblem as error:
            self._complain(str(error))
            return {}
        self._adopt(joined.link)
        return joined.held

    def keep(self, port: int, listeners: Sequence[socket.socket]) -> None:
        """Have these sockets held, 253 at most, in place of those of this port. They stay the caller's."""
        self._kept[port] = tuple(listeners[: wire.MAX_DESCRIPTORS])
        self._send_kept(port)

    def let_go(self, port: int) -> None:
        """Have the port's sockets closed. They listen until the keeper has read this, or until they are shut down."""
        self._kept.pop(port, None)
        self._send(wire.LetGo(port=port))

    def guard(self, name: str, freezer: freezer.Freezer) -> None:
        """Have this engine thawed when the server ends, in place of the one that was guarded as `name`."""
        self._guarded[name] = freezer
        self._send(wire.Guard(name=name, freezer=freezer))

    def forget(self, name: str) -> None:
        """Have the engine guarded no longer. May be repeated."""
        self._guarded.pop(name, None)
        self._send(wire.Forget(name=name))

    def dismiss(self) -> None:
        """End the keeper, and wait until it has ended, for DISMISS_S at most; then it is killed.

        For a server that ends with its engines stopped, after `run` has returned. May be repeated.
        """
        if self._link is not None:
            with contextlib.suppress(OSError):
                wire.send(self._link.connection, wire.Dismiss())
            self._link.wait(DISMISS_S)
        for lost in self._all_lost():
            if not lost.wait(0):
                log.warning("the keeper does not end and is killed", pid=lost.pid)
                lost.kill()
                lost.wait(DISMISS_S)
            lost.close()

    def abandon(self) -> None:
        """Leave the keeper to the next server, with all that it holds. Guarded engines are thawed. May be repeated."""
        for lost in self._all_lost():
            lost.wait(0)
            lost.close()

    async def run(self) -> None:
        """Replace the keeper whenever it ends, until cancelled. The link then stays open: see `dismiss`, `abandon`."""
        loop = asyncio.get_running_loop()
        pause_s: float | None = None
        while True:
            since_s = loop.time()
            await self._watch(loop)
            pause_s = next_pause_s(pause_s, loop.time() - since_s)
            await asyncio.sleep(pause_s)
            await self._replace()

    async def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when there is no keeper."""
        if self._link is None:
            return
        connection = self._link.connection
        self._lost.clear()
        self._unwatch = functools.partial(loop.remove_reader, connection)
        loop.add_reader(connection, self._look)
        try:
            await self._lost.wait()
        finally:
            self._stop_watching()

    def _look(self) -> None:
        """See whether the keeper has ended. It has nothing else to say."""
        assert self._link is not None
        try:
            ended = self._link.connection.recv(wire.MAX_BYTES) == b""
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            self._lose("it has ended")

    async def _replace(self) -> None:
        """Join again, in a thread. Waits for that even when cancelled, so that `dismiss` knows what there is."""
        joining = asyncio.create_task(asyncio.to_thread(self._join_again, self._lost_links), name="keeper's start")
        self._lost_links = []
        try:
            await asyncio.wait([joining])
        finally:
            if not joining.done():
                await asyncio.wait([joining])
            self._note(joining)

    def _join_again(self, lost_links: Sequence[link.Link]) -> link.Link:
        for lost in lost_links:
            lost.wait(BURIAL_S)
            lost.close()
        joined = link.join(self._run, log=self._log, keep_s=self._keep_s)
        # This server has them, and what it has let go meanwhile it does not want.
        link.close_all(joined.held)
        return joined.link

    def _note(self, joining: asyncio.Task[link.Link]) -> None:
        try:
            self._adopt(joining.result())
        except errors.HostProblem as error:
            self._complain(str(error))
            return
        for port in list(self._kept):
            self._send_kept(port)
        for name, guarded in self._guarded.items():
            self._send(wire.Guard(name=name, freezer=guarded))

    def _adopt(self, adopted: link.Link) -> None:
        if self._complained:
            log.info("there is a keeper again", pid=adopted.pid)
        self._link = adopted
        self.problem = ""
        self._complained = False

    def _complain(self, problem: str) -> None:
        """Warn, once until there is a keeper again."""
        self.problem = problem
        if not self._complained:
            log.warning(
                "there is no keeper: if the server ends now, clients are refused and frozen engines stay so",
                problem=problem,
            )
        self._complained = True

    def _send_kept(self, port: int) -> None:
        descriptors = [one.fileno() for one in self._kept[port] if one.fileno() != -1]
        if descriptors:
            self._send(wire.Keep(port=port), descriptors)
        else:
            self._send(wire.LetGo(port=port))

    def _send(self, message: wire.Message, descriptors: Sequence[int] = ()) -> None:
        if self._link is None:
            return
        try:
            self._link.send(message, descriptors, within_s=BEHIND_S)
        except OSError as error:
            self._lose(f"it cannot be reached: {error}")

    def _lose(self, why: str) -> None:
        assert self._link is not None
        self._complain(f"The keeper, process {self._link.pid}, is lost: {why}.")
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the connection, if there is one; the process is still to be waited for."""
        if self._link is None:
            return
        self._stop_watching()
        self._link.connection.close()
        self._lost_links.append(self._link)
        self._link = None
        self._lost.set()

    def _stop_watching(self) -> None:
        # Before the connection is closed: the loop would watch whatever gets its number next.
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def _all_lost(self) -> Sequence[link.Link]:
        self._hang_up()
        self.problem = "The keeper has been left."
        lost, self._lost_links = self._lost_links, []
        return lost
