"""One cluster as the gateway sees it: who is there, who may come, and the way in. See gateway.directory.Endpoint."""

import asyncio

from zorya.control.attendance import Attendance
from zorya.control.copies import Copies
from zorya.control.events import EventKind
from zorya.control.identities import SavedIdentities
from zorya.control.logins import FailedLogins
from zorya.control.pause import Pause
from zorya.control.record import ClusterRecord
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.surroundings import Surroundings
from zorya.control.waiting import WaitingRoom
from zorya.core import errors
from zorya.core.identity import Known
from zorya.core.model import Access, Compute, EngineKind, Entrance, Status


class ClusterEndpoint:
    """What an owner knows that the gateway may ask for. `cluster.ClusterOwner` adds what acts on it."""

    def __init__(self, record: ClusterRecord, *, revision: int, surroundings: Surroundings) -> None:
        """Know the cluster of this record; nothing is seen of its engine yet."""
        self._around = surroundings
        self._runner = surroundings.runner
        self._clock = surroundings.clock
        self._changed = asyncio.Event()
        self._standing = Standing(record, revision=revision, surroundings=surroundings)
        self._seat = Seat(record.id, guard=surroundings.guard, changed=self._changed.set)
        self._attendance = Attendance(surroundings.clock.monotonic_s())
        self._waiting = WaitingRoom(record.name, timeout_s=surroundings.wake_timeout_s)
        self._saved = SavedIdentities(
            self._runner.identities_path(record), cluster=record.name, stamp=lambda: self._runner.stamp(self.record)
        )
        self._copies = Copies(surroundings, standing=self._standing, seat=self._seat, changed=self._changed.set)
        self._pause = Pause(
            surroundings,
            standing=self._standing,
            seat=self._seat,
            attendance=self._attendance,
            waiting=self._waiting,
            saved=self._saved,
            copies=self._copies,
        )
        self._logins = FailedLogins()
        self._delete_asked = False
        self._server_stops = False

    @property
    def record(self) -> ClusterRecord:
        """The cluster's record, as it is now."""
        return self._standing.record

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.record.name

    # Who is there.

    def enter(self) -> None:
        """Count a client in that wants a session."""
        self._attendance.enter()

    def leave(self) -> None:
        """Count the client out."""
        if self._attendance.leave(self._clock.monotonic_s()):
            self._changed.set()

    def attached(self) -> None:
        """Note that a client has its session with the engine, which is to be looked at for it."""
        self._attendance.attach(self._clock.monotonic_s())
        if self._seat.live is not None:
            self._seat.live.begin_rest_anew()

    def detached(self) -> None:
        """Note that a session is over, so that the engine is looked at soon."""
        if self._seat.live is not None:
            self._seat.live.look_soon()
        self._changed.set()

    @property
    def sessions(self) -> int:
        """Clients that have a session with the engine, and those at the endpoint that wait for theirs."""
        attendance, live = self._attendance, self._seat.live
        readers = sum(one.counted for one in self._copies.lives)
        return attendance.visitors + readers + (live.sessions(attendance.unseen) if live is not None else 0)

    def has_process(self, pid: int) -> bool:
        """Whether this is one of the engine's processes."""
        return (self._seat.live is not None and pid in self._seat.live.group.pids()) or self._copies.has_process(pid)

    # Who may come.

    @property
    def access(self) -> Access:
        """Who may come, and how."""
        return self.record.access

    @property
    def identities(self) -> Known | None:
        """Who may log in, as the engine that has stopped, or is being stopped, last knew; None when it is not known."""
        return self._pause.identities or self._saved.known

    @property
    def speaks_tls(self) -> bool:
        """Whether the engine itself does TLS for clients that ask for it first."""
        return self._runner.speaks_tls(self.record)

    @property
    def speaks_direct_tls(self) -> bool:
        """Whether the engine itself does TLS for clients that begin with the handshake."""
        return self._runner.speaks_direct_tls(self.record)

    @property
    def engine(self) -> EngineKind:
        """What its clients speak."""
        return self.record.engine

    @property
    def engine_major(self) -> str:
        """The major version of the engine."""
        return self.record.engine_major

    def login_failed(self, address: str, role: str) -> None:
        """Note a failed login, and have it told when there are many."""
        reason = self._logins.note(address, role, self._clock.monotonic_s())
        if reason:
            self._standing.tell_later(EventKind.LOGINS_FAILED, reason)

    # The way in.

    @property
    def is_up(self) -> bool:
        """Whether the engine serves clients, be it frozen."""
        return self._seat.entrance is not None and self.record.compute in {Compute.RUNNING, Compute.FROZEN}

    @property
    def is_starting(self) -> bool:
        """Whether a start of the engine is under way that newcomers may wait for."""
        return self.record.compute is Compute.RESUMING and not self._ends

    def running(self) -> Entrance | None:
        """Answer how to get into the engine if it runs and is about neither to stop nor to freeze."""
        live = self._seat.live
        if self.record.compute is not Compute.RUNNING or live is None or live.is_freezing:
            return None
        return self._seat.entrance

    async def wake(self) -> Entrance:
        """Answer how to get into the engine, once it runs; see gateway.directory.Endpoint.wake."""
        entrance = self.running()
        if entrance is not None:
            return entrance
        if self._ends:
            raise self._refusal()
        self._changed.set()
        return await self._waiting.wait()

    @property
    def _ends(self) -> bool:
        return self._server_stops or self._delete_asked or self.record.status in {Status.DELETING, Status.DELETED}

    def _refusal(self) -> errors.ZoryaError:
        if self._server_stops:
            return errors.NotReady("The Zorya server is stopping.", client_message="the Zorya server is stopping")
        return errors.ClusterNotFound(f"Cluster {self.name} was deleted.")
