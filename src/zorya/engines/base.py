"""What Zorya needs of a database engine. One implementation a kind; they do not know of each other."""

import signal
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from zorya.core import errors
from zorya.core.account import Account
from zorya.core.capacity import Acu, Bounds
from zorya.core.home import ClusterFolders
from zorya.core.identity import FailedLogin, Known
from zorya.core.model import Address, EngineKind, Secret
from zorya.engines.following import Following, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """An engine's programs on this host."""

    kind: EngineKind
    version: str
    """The full version, such as "15.18"."""
    major: str
    """The version that a data folder is bound to, such as "15"."""
    folder: Path
    """The folder that holds `bin`."""
    source: str
    """Where it was found, in words, such as "setting" or "PATH"."""
    is_fallback: bool
    """Whether it serves only where nothing else does."""
    speaks_tls: bool
    """Whether it was built with a TLS library."""

    def program(self, name: str) -> Path:
        """Answer the path of one of its programs."""
        return self.folder / "bin" / name


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """What an engine needs to speak TLS."""

    certificate: str
    """PEM: the server's certificate, then those that lead to its root."""
    key: Secret
    """PEM, without a passphrase."""
    root: str
    """PEM: the certificate that the server's leads to, and by which those of clients are checked."""
    min_version: str
    """The oldest version of TLS that is spoken: "1.0", "1.1", "1.2" or "1.3"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One cluster as its engine sees it."""

    cluster: str
    installation: Installation
    folders: ClusterFolders
    account: Account
    username: str
    database: str
    bounds: Bounds
    """Between which capacities it will be while it runs."""
    capacity: float
    """What it has now, or starts with, in ACUs."""
    acu: Acu
    library: Path | None
    """native/handoff.c, to be preloaded; None where clients are relayed."""
    tls: TlsFiles | None
    """None where the engine shall not speak TLS."""
    following: Following | None
    """None where the volume has one copy."""
    requires_tls: bool
    """Whether the engine itself is to turn away clients without TLS, if it cannot be seen before it has them."""


class Phase(StrEnum):
    """How far a live engine process is."""

    STARTING = "starting"
    FOLLOWING = "following"
    """It follows another copy, and serves those who only read."""
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, kw_only=True, slots=True)
class Readiness:
    """What a live engine says of itself."""

    phase: Phase
    address: Address | None
    """Where it takes clients' connections over TCP; None until it is ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Activity:
    """What a running engine does at one moment."""

    clients: Set[int]
    """The workers that serve a client: in a session, or while it is let in or turned away. Zorya's own is none."""
    helpers: Set[int]
    """The engine's other workers, but for the first: those of its own, and what serves Zorya."""
    busy: str
    """What keeps it from resting, as a sentence; empty when the engine rests.

    It rests when every session is outside a transaction and waits for its client, having done all that the client had
    sent, and when no worker of the engine's own has anything to do.
    """
    mark: str
    """A text that changes when a session begins, ends or does something."""
    idle_s: float | None
    """How long ago, by the host's wall clock, a session last did something; None without sessions."""
    at_work: int
    """Sessions that do something, or wait within a transaction."""
    waiting: int
    """Sessions that wait for a lock."""
    blocks_hit: int
    """Blocks of 8 KiB that were found in the engine's own cache, since the watcher first asked. Only rises.

    Of each database with sessions what came after the first look at it. A session's blocks are counted once the
    transaction has ended in which it needed them.
    """
    blocks_read: int
    """Blocks that it asked the kernel for, counted likewise."""
    cache_bytes: int = 0
    """What its own cache holds, where that is memory that it gives back when its capacity falls; else 0."""
    blocks_missed: int = 0
    """Of the blocks read, those for which that cache had no free room, so that another had to leave. Only rises."""
    own_work: int
    """A number that moves while the engine works by itself in a way that `busy` does not tell of."""
    log_flushed: bool
    """Whether all of its log is on the disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEnd:
    """How far a copy's log goes, whole records only."""

    timeline: int
    """That of the last record."""
    position: int
    """Where the last whole record ends, in bytes."""
    begins: int = 0
    """From where on the log is there without a gap; 0 for a full copy, which has replayed what was before."""
    last: int | None = None
    """Where the last whole record begins, where that is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowerSeen:
    """What the primary knows of one copy that follows it."""

    flushed: int
    """What it has on its disk, as a position in bytes."""
    replayed: int | None
    """What it has replayed; None for a tail."""
    is_streaming: bool
    """Whether it has what the primary has kept for it, and gets the rest as it is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrimarySeen:
    """What a primary knows of its volume."""

    flushed: int
    """What it has on its own disk, as a position in bytes."""
    followers: Mapping[str, FollowerSeen]
    """By the names of the copies; those that are connected."""
    given_up: Set[str]
    """The copies for which it no longer keeps the log they would need."""


class Replication(Protocol):
    """How the copies of a volume come by their log: the engine's own means. Raises errors of `core.errors` only.

    `tail` is always a tail copy's folder. Positions are bytes from the beginning of the first log.
    """

    def receiver(
        self, installation: Installation, source: Source, *, copy: str, tail: Path
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """Answer the arguments and the environment of the program that receives log into `tail`, in the foreground.

        It tells the source of what it has on the disk only. It ends when the source does, or cannot be reached. It
        needs the source's promise to keep the log (`ensure_kept`), and something in `tail` to go on from, or nothing.
        """

    async def begin_tail(self, instance: Instance, tail: Path) -> None:
        """Put into an empty `tail` what it has to begin with, from a full copy whose engine does not run, durably."""

    async def seed(self, instance: Instance, like: Path) -> None:
        """Make a full copy's data folder as a copy of `like`, a data folder that no engine runs on, durably.

        It appears whole or not at all; if it exists, nothing is done. Raises DiskFull, StorageProblem.
        """

    async def clone(
        self, instance: Instance, source: Source, *, max_kib_s: int | None, progress: Callable[[float], None]
    ) -> None:
        """Make a full copy's data folder anew from the running primary, durably; one that is there is replaced.

        `progress` is told the part that is done, 0 to 1. The old folder goes first: it could be in the way of the new.
        If cancelled, or on any error, nothing is left of the new one. Raises DiskFull, StorageProblem, EngineProblem.
        """

    async def rejoin(self, instance: Instance, source: Source) -> None:
        """Take back, in a full copy that was the primary once and does not run, what the primary does not have.

        Afterwards it can follow. Raises EngineProblem where that cannot be done; then it has to be cloned.
        """

    async def ensure_kept(self, folders: ClusterFolders, copies: Set[str], *, anew: Set[str] = frozenset()) -> None:
        """Have the primary keep log for these copies and no others, from now on. Raises NotReady, EngineProblem.

        For a copy that was given up (`PrimarySeen.given_up`) nothing is kept before it is among those that are `anew`:
        it needs no log of before now. `clone` sees to that itself; a tail that begins anew has to be named here.
        """

    async def look(self, folders: ClusterFolders) -> PrimarySeen:
        """Answer what the primary knows of its volume. Raises NotReady, EngineProblem."""

    async def received(self, folders: ClusterFolders) -> LogEnd:
        """Answer how far the log goes, in whole records, that a full copy has on its disk, which follows nobody.

        It runs. Waits until it has let go whom it followed, and has replayed most of what it has.
        `timeline` is that of the last byte. Raises NotReady, and EngineProblem also when that takes too long.
        """

    async def replayed(self, folders: ClusterFolders) -> int:
        """Answer how far a following full copy, which runs, has replayed its log. Raises NotReady, EngineProblem."""

    async def promote(self, folders: ClusterFolders) -> None:
        """Make the primary of a full copy that follows nobody, once it has replayed all it has; return when it is.

        Its log goes on in a timeline of its own. May be repeated. Raises NotReady, EngineProblem.
        """

    async def let_go(self, folders: ClusterFolders) -> None:
        """Hold nothing of the engine there any more; it is about to end, or is gone. May be repeated."""

    def has_begun(self, folders: ClusterFolders) -> bool:
        """Whether a full copy has become a primary, and does not follow again since; not if its files are gone."""

    def timeline(self, folders: ClusterFolders) -> tuple[int, int]:
        """Answer the timeline that a full copy's log is in, running or not, and the position at which that begins.

        That of one that follows is of the last checkpoint it has replayed, and it begins none: the position is 0.
        Raises DataDamaged when its files do not say.
        """

    def rest(self, folders: ClusterFolders) -> LogEnd | None:
        """Answer the position at which a primary was stopped cleanly; None if it was not. Reads one small file."""

    def is_stopped_cleanly(self, folders: ClusterFolders) -> bool:
        """Whether a full copy, whether it leads or follows, was stopped cleanly. Reads one small file."""

    def rests_at(self, folders: ClusterFolders, end: LogEnd) -> bool:
        """Whether a full copy, which does not run, has replayed everything up to the primary's `rest`."""

    def tail_reaches(self, tail: Path, end: LogEnd) -> bool:
        """Whether a tail has the whole of the primary's last record, that of its clean stop. `end` is its `rest`."""

    async def tail_end(self, installation: Installation, tail: Path) -> LogEnd | None:
        """Answer how far a tail's log goes, whose receiver does not run; None when it has none, or none that is whole.

        The last records are read and their checksums compared.
        """

    async def offer(self, tail: Path, collected: Path) -> None:
        """Make `collected` a folder with what a tail has, for a full copy to replay (`Following.collected`).

        What is in the tail stays as it is. Raises StorageProblem, DiskFull.
        """

    async def mend_tail(self, tail: Path, peers: Sequence[Path], *, upto: int) -> None:
        """Fill a tail's gaps, and replace its damaged or missing segments before `upto`, from other folders of log.

        `peers` are tails, and full copies' folders of log. Segments appear whole or not at all.
        """

    def log_folder(self, folders: ClusterFolders) -> Path:
        """Answer where a full copy has its log."""

    def needs_from(self, folders: ClusterFolders) -> int:
        """Answer from where on a full copy needs the log to start. Reads one small file. Raises DataDamaged."""

    async def cut_tail(self, tail: Path, *, timeline: int, position: int) -> None:
        """Have a tail, whose receiver does not run, go on from `position`, at which `timeline` begins.

        It has no whole record beyond it, but may have the beginning of one, in segments of older timelines that are
        filled. Raises StorageProblem.
        """

    async def prune_tail(self, tail: Path, *, before: int, older_than_s: float) -> int:
        """Remove a tail's whole segments that end before this position and were written before; answer the bytes."""

    async def verify_data(self, instance: Instance, *, max_kib_s: int | None) -> Sequence[str]:
        """Check the checksum of every page of a full copy that does not run; answer what is damaged, as sentences.

        `max_kib_s` is how much may be read in a second; None is any.
        """

    async def verify_log(
        self, installation: Installation, folder: Path, *, begin: int, end: int | None
    ) -> Sequence[str]:
        """Check every record of a tail, or a full copy's folder of log, from `begin` on; answer what is damaged.

        None ends where the log does.
        """


class Watcher(Protocol):
    """Asks one running engine what it does, cheaply and often."""

    async def observe(self, workers: Set[int], first: int) -> Activity:
        """Answer what the engine does. `workers` are as `Engine.workers` lists them, `first` is the first process.

        They must have been listed before the call. Raises NotReady and EngineProblem; may be repeated then.
        """

    async def end_sessions(self, clients: Set[int], workers: Callable[[], Set[int]]) -> None:
        """Ask these of `Activity.clients` to end in order, and return at once. Those that are gone are passed over.

        `workers` answers which there are now. Raises NotReady and EngineProblem.
        """

    async def close(self) -> None:
        """Let the engine go. May be repeated."""


class HeldIdentities(Protocol):
    """Who may log in to a running engine, kept from changing until `close` or the engine's end."""

    @property
    def identities(self) -> Known:
        """Who may log in."""

    async def close(self) -> None:
        """Let them change again. May be repeated; no error if the engine is gone."""


class Engine(Protocol):
    """A kind of database engine. Its methods raise errors of `core.errors` only."""

    kind: EngineKind
    oldest: str
    """The oldest major version that it runs."""
    stop_signal: signal.Signals
    """Ends sessions and stops cleanly: nothing to recover at the next start."""
    abort_signal: signal.Signals
    """Stops at once; the next start recovers."""
    spares_first: bool
    """Whether the kernel's out-of-memory killer is to spare the first process: there are others to end in its place."""

    @property
    def replication(self) -> Replication | None:
        """How copies of a volume come by their log; None for a kind whose volumes have one copy."""

    def find(self) -> Sequence[Installation]:
        """Answer the installations on this host, the preferred first. Runs programs; blocking.

        Raises EngineMissing when a setting names one that is not there.
        """

    def workers(self, pids: Set[int], first: int) -> Set[int]:
        """Answer what comes and goes with sessions, as numbers: processes, or the threads of the first. Cheap.

        `pids` are all processes of the engine.
        """

    def speaks_tls(self, installation: Installation) -> bool:
        """Whether its engines can do TLS for clients that ask for it first."""

    def speaks_direct_tls(self, installation: Installation) -> bool:
        """Whether its engines can do TLS for clients that begin with the handshake."""

    def new_verifier(self, password: Secret) -> Secret:
        """Answer what the engine is to keep of a password, by which it can check it and nobody can learn it.

        Another one each time. Takes some milliseconds.
        """

    def has_files(self, folders: ClusterFolders) -> bool:
        """Whether a full copy's data is where it is to be: looked at from outside, at a few of its files."""

    async def build(self, instance: Instance, verifier: Secret) -> None:
        """Make the cluster's data folder, with its user and its database, durable on return.

        `verifier` is what `new_verifier` answered for the user's password. The folder appears whole or not at all, and
        not before `folders.identities`, which says who may log in to it; if it exists, nothing is done. Raises
        DiskFull, StorageProblem, StartFailed.
        """

    def release(self, data: Path) -> None:
        """Give back what an engine that was killed holds outside its data folder. Called before that is removed.

        None of its processes may be there. Never raises.
        """

    def check_data(self, instance: Instance) -> None:
        """Raise DataDamaged when the data folder is visibly not one that this installation can run.

        Nor is one that follows another copy, when it is to lead (see Replication.promote), or one that has led, when it
        is to follow (see Replication.rejoin).
        """

    async def write_configuration(self, instance: Instance) -> None:
        """Write everything that the engine reads at its start, the certificate and its key among it. Idempotent.

        One that runs takes what it can of it at the next `reload`. Raises DiskFull, StorageProblem.
        """

    async def write_capacity(self, instance: Instance) -> bool:
        """Write what follows the capacity, for a running engine to take at the next `reload`.

        Answers whether anything is otherwise than before. What cannot change while it runs is chosen by
        `write_configuration` at each start. Raises DiskFull, StorageProblem; then the engine keeps what it had.
        """

    async def reload(self, instance: Instance, tell: Callable[[signal.Signals], None]) -> None:
        """Have a running engine, which is ready and not frozen, take its configuration and certificate anew.

        Sessions go on. What it cannot use, it leaves as it was. `tell` sends a signal to its first process. Raises
        NotReady, EngineProblem.
        """

    def command(self, instance: Instance, port: int) -> tuple[Sequence[str], Mapping[str, str]]:
        """Answer the arguments and the environment that start the engine in the foreground.

        `port` is where it shall listen on 127.0.0.1 for Zorya's relay; it is good for this start only.
        """

    def ended_cleanly(self, folders: ClusterFolders) -> bool:
        """Whether the engine that last ran there, and runs no more, was stopped cleanly. Reads one small file."""

    def stamp(self, folders: ClusterFolders) -> str:
        """Answer what the data looks like from outside: it differs after every start, and in data put in its place.

        Empty where there is no data. Looks at one file.
        """

    def recorded_pid(self, folders: ClusterFolders) -> int | None:
        """Answer the process number that the data folder's own lock names, whoever has that number now."""

    def forget_recorded_pid(self, folders: ClusterFolders) -> None:
        """Remove the data folder's lock, after a `release`. Only when no process uses the folder."""

    def readiness(self, folders: ClusterFolders, pid: int) -> Readiness:
        """Answer how far the live process `pid` is. Reads one small file; never blocks for long."""

    def watcher(self, folders: ClusterFolders) -> Watcher:
        """Answer what asks the engine that runs there. Raises EngineProblem when it does not say where it listens."""

    async def checkpoint(self, folders: ClusterFolders) -> None:
        """Write all changed pages while sessions may still work, so that the stop that follows is short.

        Raises NotReady while it starts, recovers or stops, EngineProblem when it does not answer.
        """

    async def hold_identities(self, folders: ClusterFolders) -> HeldIdentities:
        """Answer who may log in, and let nobody change that until the answer is closed.

        Neither roles nor databases can be made, altered or dropped meanwhile; those that try wait. What holds them is
        no session, and ends with a clean stop like one. Raises NotReady, and EngineProblem when somebody else's
        transaction is in the way for more than a second, or the engine does not answer.
        """

    async def set_password(self, folders: ClusterFolders, role: str, verifier: Secret) -> None:
        """Give a role a password, as `new_verifier` answered it; sessions go on. Nothing secret is logged.

        Raises NotReady, and EngineProblem when there is no such role or the engine does not answer.
        """

    async def bound_log(self, folders: ClusterFolders, keep_bytes: int) -> None:
        """Have a running engine keep no more of its log than this beyond what it needs itself. Cheap when it does.

        Raises NotReady, EngineProblem.
        """

    def failed_logins(self, log: str) -> Sequence[FailedLogin]:
        """Answer the logins that the engine turned down because the client could not prove who it is, in their order.

        `log` is a stretch of what the engine logged, which begins where a line begins and ends where one ends. Nobody
        who reaches the engine can have it say that another address failed.
        """

    def explain_exit(self, log: str) -> str:
        """Answer, from what it logged, why the engine ended, as one sentence; empty when the log does not say."""

    def killed_processes(self, log: str, first: int) -> Sequence[str]:
        """Answer which of its processes were ended by SIGKILL, in their order: the kinds, in the engine's words.

        Such as "server process", which serves a session, and `background worker "parallel worker"`; never what they
        were doing. `log` is a stretch of what was logged, as for `failed_logins`, and `first` the engine's first
        process, which goes on: it ends all sessions, recovers, and takes connections again. Nobody who reaches the
        engine can have it answer what did not happen.
        """


def choose(available: Sequence[Installation], version: str | None, *, kind: EngineKind, oldest: str) -> Installation:
    """Answer the installation for a new cluster: the first of `available`, or the first of the version asked for.

    `version` is a major one ("15") or a full one ("15.18"). Raises EngineMissing that lists what there is.
    """
    fitting = [one for one in available if version is None or version in {one.major, one.version}]
    if fitting:
        return fitting[0]
    there_are = ", ".join(f"{one.version} ({one.source})" for one in available) or "none"
    raise errors.EngineMissing(
        f"This host has no {kind.product} {version or f'{oldest} or newer'}.",
        hint=f"Installed: {there_are}. `zorya doctor` says where it looks.",
    )
