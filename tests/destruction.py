"""Real destruction: a cluster of six copies is broken in every way while writers record what it has acknowledged.

`python tests/destruction.py --minutes 60 --seed 1` does so by hand; tests/e2e/test_destruction.py does a little of it.
The seed decides the order of the faults and what each of them hits. Faults come one at a time: the next one only when
all copies are current again and every writer has committed since. An acknowledged commit that is missing ends the run.
"""

import argparse
import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from fix_shared_memory import remove_unused
from harness import Server, end, is_gone, remove_when_left
from small_disk import Disk
from volumes import Volume, flip
from waiting import wait_until
from zorya.cli import wire
from zorya.core import errors

MEGABYTE = 1024 * 1024

NAME = "main"
"""The cluster that is broken."""

WHOLE_WITHIN_S = 120.0
"""How long repair may take until all copies are current again."""

COMMIT_WITHIN_S = 60.0
"""How long a writer may go without a commit where one has to be possible."""

DISK_MEGABYTES = 1500
"""The size of zone c's disk, where it has one of its own."""

LOG_THAT_FILLS_MEGABYTES = 48
"""How much log is written to a full disk: more than what PostgreSQL has allocated beforehand."""

THINK_S = 0.01
"""How long a writer thinks between two commits, so that the machine has time for repair."""

ACCOUNTS = 20
BALANCE = 1000
WRITERS_OF_EACH_KIND = 2
LOOK_EVERY = 100
"""After how many elements the writer of a list takes a new session, and looks whether all of them are there."""

EVENTS = {
    "ZORYA-EVENT-0071": "failovers",
    "ZORYA-EVENT-0069": "failovers that failed",
    "ZORYA-EVENT-1025": "rebuilds",
    "ZORYA-EVENT-1026": "copies found damaged",
    "ZORYA-EVENT-1023": "times that commits waited",
}

EXPECTED = (
    # libpq says of an engine that ended that it "closed the connection unexpectedly".
    r"^(?!.*(Traceback|(?<!closed the connection )unexpectedly|critical|never retrieved|never awaited))"
    r".*level=(warning|error)"
)
"""Lines of the server's log that faults cause: warnings and errors, but none of a defect in the server itself."""

_SCHEMA: tuple[LiteralString, ...] = (
    "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)",
    "CREATE TABLE transfer (writer int, n int, source int, target int, amount int, PRIMARY KEY (writer, n))",
    "CREATE TABLE element (writer int, n int, PRIMARY KEY (writer, n))",
)
_IN_AND_OUT: LiteralString = """
    SELECT id, balance, %s
        + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE target = id)
        - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE source = id)
    FROM account
"""


class Signals:
    """What writers are told, and tell, across threads."""

    def __init__(self) -> None:
        """They are to go."""
        self.end = threading.Event()
        self.go = threading.Event()
        """While it is not set, writers stay away."""
        self.go.set()
        self.alarm = threading.Event()
        """Set when one has found something lost."""

    @property
    def working(self) -> bool:
        """Whether writers are to commit."""
        return self.go.is_set() and not self.end.is_set()


class Writer(threading.Thread):
    """Commits one thing after the other through the endpoint, and notes those that were acknowledged.

    A commit that ended with an error, or that PostgreSQL has not waited for ("canceling wait for synchronous
    replication"), is not noted: it may be there or not.
    """

    def __init__(self, number: int, url: str, *, signals: "Signals") -> None:
        super().__init__(name=f"{type(self).__name__.lower()} {number}", daemon=True)
        self.number = number
        self.acknowledged = 0
        """How many commits; read by other threads."""
        self.errors: Counter[str] = Counter()
        """What sessions ended with."""
        self.failure = ""
        """What was lost, as a sentence."""
        self.longest_s = 0.0
        """The longest time between two acknowledged commits, since somebody set this to 0."""
        self.is_away = False
        """Whether it has no session since it was told to stay away."""
        self.signals = signals
        self._url = url
        self._was_waited_for = True
        self._acknowledged_s = time.monotonic()

    def run(self) -> None:
        """Take one session after the other, until it is told to end or has found something lost."""
        try:
            while not self.signals.end.is_set():
                self.is_away = not self.signals.go.is_set()
                if self.is_away:
                    self.signals.go.wait()
                    self._acknowledged_s = time.monotonic()
                    continue
                try:
                    with psycopg.connect(self._url, autocommit=True, connect_timeout=60) as connection:
                        connection.add_notice_handler(self._hear)
                        self.use(connection)
                except psycopg.Error as error:
                    self.errors[str(error).strip().split("\n")[0]] += 1
                    self.signals.end.wait(THINK_S)
        except Exception as error:  # noqa: BLE001 - a thread's error is the run's
            self.failure = f"{self.name}: {error!r}"
            self.signals.alarm.set()

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        if "synchronous replication" in (notice.message_primary or ""):
            self._was_waited_for = False

    def commit(self, work: Callable[[], object]) -> bool:
        """Do what ends with a commit. Answer whether that was acknowledged. Raises psycopg.Error."""
        self._was_waited_for = True
        work()
        if self._was_waited_for:
            self.acknowledged += 1
            now_s = time.monotonic()
            self.longest_s = max(self.longest_s, now_s - self._acknowledged_s)
            self._acknowledged_s = now_s
        return self._was_waited_for

    def use(self, connection: psycopg.Connection) -> None:
        """Commit in one session. Raises psycopg.Error, or AssertionError when something is lost."""
        raise NotImplementedError


class Transfers(Writer):
    """Moves money between accounts. Each transfer has its row."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.numbers: list[int] = []
        """The transfers that were acknowledged."""
        self._random = random.Random(self.number)
        self._n = 0

    def use(self, connection: psycopg.Connection) -> None:
        """Transfer until it is told to end or to stay away."""
        while self.signals.working:
            self._n += 1
            if self.commit(functools.partial(self._transfer, connection)):
                self.numbers.append(self._n)
            self.signals.end.wait(THINK_S)

    def _transfer(self, connection: psycopg.Connection) -> None:
        source, target = self._random.sample(range(ACCOUNTS), 2)
        amount = self._random.randint(1, 10)
        changes = [(-amount, source), (amount, target)]
        with connection.transaction():
            # In the accounts' order, so that two writers do not wait for each other.
            for change in sorted(changes, key=lambda one: one[1]):
                connection.execute("UPDATE account SET balance = balance + %s WHERE id = %s", change)
            row = (self.number, self._n, source, target, amount)
            connection.execute("INSERT INTO transfer VALUES (%s, %s, %s, %s, %s)", row)


class List(Writer):
    """Appends 1, 2, 3 … to a list. Each session begins with a look at what is there, and goes on from it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.last = 0
        """The last element that was acknowledged; all before it have to be there too."""

    def use(self, connection: psycopg.Connection) -> None:
        """Look, then append until it is told to end or to stay away, or it is time for another look."""
        n = self._look(connection)
        for _ in range(LOOK_EVERY):
            if not self.signals.working:
                return
            n += 1
            row = (self.number, n)
            if self.commit(functools.partial(connection.execute, "INSERT INTO element VALUES (%s, %s)", row)):
                self.last = n
            self.signals.end.wait(THINK_S)

    def _look(self, connection: psycopg.Connection) -> int:
        sql = "SELECT count(*), coalesce(max(n), 0) FROM element WHERE writer = %s"
        row = connection.execute(sql, (self.number,)).fetchone()
        assert row is not None
        count, last = row
        assert count == last, f"the list has {count} elements, and the last is {last}"
        assert last >= self.last, f"the list ends at {last}, and {self.last} was acknowledged"
        return int(last)


class Writers:
    """All writers of one run."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.signals = Signals()
        url = server.url(NAME)
        kinds: list[type[Writer]] = [Transfers, List]
        self.all = [kind(number, url, signals=self.signals) for kind in kinds for number in range(WRITERS_OF_EACH_KIND)]

    @contextmanager
    def going(self) -> Iterator[None]:
        """Make the tables and have all writers commit for the block; after it none is connected any more."""
        for statement in _SCHEMA:
            self._server.query(statement, NAME)
        self._server.query(f"INSERT INTO account SELECT n, {BALANCE} FROM generate_series(0, {ACCOUNTS - 1}) n", NAME)
        for one in self.all:
            one.start()
        try:
            yield
        finally:
            self.signals.end.set()
            self.signals.go.set()
            for one in self.all:
                one.join(COMMIT_WITHIN_S)
        hang = [one.name for one in self.all if one.is_alive()]
        assert not hang, f"these neither commit nor get an error: {hang}"

    @property
    def acknowledged(self) -> int:
        """How many commits were acknowledged."""
        return sum(one.acknowledged for one in self.all)

    def raise_lost(self) -> None:
        """Raise AssertionError when a writer has found something lost."""
        lost = [one.failure for one in self.all if one.failure]
        assert not lost, "; ".join(lost)

    def wait_commits(self, within_s: float = COMMIT_WITHIN_S) -> None:
        """Wait until each writer has committed from now on."""
        before = {one: one.acknowledged for one in self.all}

        def all_did() -> bool:
            self.raise_lost()
            return all(one.acknowledged > number for one, number in before.items())

        try:
            wait_until(all_did, "every writer has committed", within_s)
        except AssertionError as error:
            still = {one.name: dict(one.errors) for one, number in before.items() if one.acknowledged <= number}
            raise AssertionError(f"{error}; these did not, with their errors so far: {still}") from error

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have none of them connected for the block."""
        self.signals.go.clear()
        wait_until(lambda: all(one.is_away for one in self.all), "no writer is connected", COMMIT_WITHIN_S)
        try:
            yield
        finally:
            self.signals.go.set()

    def take_longest_s(self) -> float:
        """Answer the longest time that one went without a commit since this was asked last."""
        longest_s = max(one.longest_s for one in self.all)
        for one in self.all:
            one.longest_s = 0.0
        return longest_s

    def check(self) -> None:
        """See that all that was acknowledged before is there, that sums hold, and that no list has a hole."""
        self.raise_lost()
        transfers = {one.number: list(one.numbers) for one in self.all if isinstance(one, Transfers)}
        lists = {one.number: one.last for one in self.all if isinstance(one, List)}
        with psycopg.connect(self._server.url(NAME), connect_timeout=60) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            for number, acknowledged in transfers.items():
                rows = connection.execute("SELECT n FROM transfer WHERE writer = %s", (number,)).fetchall()
                missing = set(acknowledged) - {n for (n,) in rows}
                assert not missing, f"acknowledged transfers of writer {number} are missing: {sorted(missing)}"
            for number, last in lists.items():
                rows = connection.execute("SELECT n FROM element WHERE writer = %s ORDER BY n", (number,)).fetchall()
                assert [n for (n,) in rows] == list(range(1, len(rows) + 1)), f"list {number} has a hole"
                assert len(rows) >= last, f"list {number} ends at {len(rows)}, and {last} was acknowledged"
            accounts = connection.execute(_IN_AND_OUT, (BALANCE,)).fetchall()
        assert sum(balance for _, balance, _ in accounts) == ACCOUNTS * BALANCE, f"money is lost or made: {accounts}"
        wrong = [one for one in accounts if one[1] != one[2]]
        assert not wrong, f"balances are not what the transfers make of them (id, is, should be): {wrong}"


class Destruction:
    """Breaks one cluster of six copies, one fault after the other."""

    def __init__(self, server: Server, seed: int, *, env: Mapping[str, str], disk: Disk | None) -> None:
        """The server is up, and was started with `env`. Without `disk`, none is ever full."""
        self.volume = Volume(server, NAME)
        self.writers = Writers(server)
        self.done: defaultdict[str, list[float]] = defaultdict(list)
        """By kind of fault, for how many seconds a writer was without a commit at each, at most."""
        self.events: Counter[str] = Counter()
        self._server = server
        self._env = dict(env)
        self._disk = disk
        self._random = random.Random(seed)
        self._last_event = 0
        self.faults: dict[str, Callable[[], str]] = {
            "kill -9 of the primary": self._kill_primary,
            "kill -9 of a process of the primary's": self._kill_child_of_primary,
            "kill -9 of a standby": lambda: self._kill_copy("full"),
            "kill -9 of a receiver of log": lambda: self._kill_copy("tail"),
            "SIGSTOP of any process": self._stop_process,
            "SIGSTOP of a copy": self._stop_copy,
            "one copy deleted": lambda: self._delete(1),
            "two copies deleted": lambda: self._delete(2),
            "one copy corrupted while it follows": self._corrupt_one,
            "two copies corrupted at rest": self._corrupt_two_at_rest,
            "a zone lost": self._lose_zone,
            "a zone and one copy lost": self._lose_zone_and_one,
            "kill -9 of the server": self._kill_server,
            "kill -9 of the server in a failover": self._kill_server_in_failover,
            "kill -9 of the server in a repair": self._kill_server_in_repair,
        }
        if disk is not None:
            self.faults["a zone's disk full"] = self._fill_disk
        self.slow_faults = {"SIGSTOP of the primary until another copy takes over": self._stop_primary_for_good}
        """More of them, which take long."""

    # The run.

    def run(self, *, until: Callable[[int], bool]) -> None:
        """Break and wait for repair until `until` says so of the number of faults; then check everything.

        Raises AssertionError when something is lost, or is not repaired in time.
        """
        self._server.run("modify", NAME, "--freeze-after", "never", "--pause-after", "never")
        self._server.run("resume", NAME)
        self.volume.wait_whole(WHOLE_WITHIN_S)
        self._count_events()
        self.events.clear()
        with self.writers.going():
            self.writers.wait_commits()
            for number, kind in enumerate(self._kinds()):
                if until(number):
                    break
                self._break(kind)
        self.writers.check()

    def _kinds(self) -> Iterator[str]:
        """Answer kinds of faults without end: all of them in some order, then all in another."""
        while True:
            kinds = list(self.faults)
            self._random.shuffle(kinds)
            yield from kinds

    def _break(self, kind: str) -> None:
        began_s = time.monotonic()
        _say(f"{kind} …")
        self.writers.take_longest_s()
        what = self.faults[kind]()
        self.writers.wait_commits()
        longest_s = self.writers.take_longest_s()
        self.done[kind].append(longest_s)
        self._wait_repaired()
        self.writers.wait_commits()
        self.writers.check()
        self._count_events()
        whole_s = time.monotonic() - began_s
        _say(f"  {what}; at most {longest_s:.1f} s without a commit, whole after {whole_s:.1f} s")

    def _wait_repaired(self) -> None:
        deadline = time.monotonic() + WHOLE_WITHIN_S
        self.volume.wait_whole(WHOLE_WITHIN_S)
        left_s = deadline - time.monotonic()
        wait_until(lambda: self.volume.shown["health"] == "whole", "the volume is whole", left_s)

    def _count_events(self) -> None:
        while True:
            found = self._server.api.events(NAME, after=self._last_event, limit=1000, wait_s=0, sleep=False)
            if not found:
                return
            self._last_event = found[-1]["seq"]
            self.events.update(EVENTS[one["kind"]] for one in found if one["kind"] in EVENTS)

    def report(self) -> str:
        """Answer what was done, in some lines."""
        lines = [f"{sum(len(times) for times in self.done.values())} faults:"]
        lines += [
            f"{len(times):6}  {kind}: at most {max(times):.1f} s without a commit"
            for kind, times in sorted(self.done.items())
        ]
        lines.append(f"{self.writers.acknowledged} commits acknowledged")
        lines += [f"{self.events[what]:6}  {what}" for what in EVENTS.values()]
        met = sum((one.errors for one in self.writers.all), Counter[str]())
        lines.append(f"{met.total()} sessions ended with an error:")
        lines += [f"{number:6}  {error}" for error, number in met.most_common(10)]
        return "\n".join(lines)

    # What is hit.

    def _others(self, kind: str = "") -> list[str]:
        """Answer the copies but for the primary, or those of one kind."""
        primary = self.volume.primary
        return sorted(name for name in self.volume.copies if name != primary and name.endswith(kind))

    def _some_pid(self, copy: str, *, but: int | None = None) -> int:
        pids = sorted(set(self.volume.pids(copy)) - {but})
        assert pids, f"{copy} has no process"
        return self._random.choice(pids)

    # Faults. Each answers what it has hit.

    def _kill_primary(self) -> str:
        primary = self.volume.primary
        self.volume.kill(primary)
        return primary

    def _kill_child_of_primary(self) -> str:
        primary = self.volume.primary
        pid = self._some_pid(primary, but=self.volume.pid(primary))
        name = _name_of(pid)
        _signal(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid), "it is gone")
        return name

    def _kill_copy(self, kind: str) -> str:
        copy = self._random.choice(self._others(kind))
        pid = self._some_pid(copy)
        name = _name_of(pid)
        _signal(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid), "it is gone")
        return f"{copy}: {name}"

    def _stop_process(self) -> str:
        of = self._random.choice(["the server", *sorted(self.volume.copies)])
        pid = self._server.api.status()["pid"] if of == "the server" else self._some_pid(of)
        name = _name_of(pid)
        _signal(pid, signal.SIGSTOP)
        seconds = self._pass(1, 3)
        _signal(pid, signal.SIGCONT)
        return f"{of}: {name} for {seconds:.1f} s"

    def _stop_copy(self) -> str:
        copy = self._random.choice(sorted(self.volume.copies))
        self.volume.signal(copy, signal.SIGSTOP)
        seconds = self._pass(1, 3)
        self.volume.signal(copy, signal.SIGCONT)
        return f"{copy} for {seconds:.1f} s"

    def _stop_primary_for_good(self) -> str:
        """Stop the primary until another copy takes over; then it wakes up, if it still can."""
        primary, epoch = self.volume.primary, self.volume.shown["epoch"]
        pids = self.volume.pids(primary)
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        wait_until(lambda: self.volume.shown["epoch"] > epoch, "another copy has taken over", COMMIT_WITHIN_S)
        for pid in pids:
            _signal(pid, signal.SIGCONT)
        return primary

    def _pass(self, least_s: float, most_s: float) -> float:
        """Let writers go on for a while, or until one finds something lost; answer for how long."""
        seconds = self._random.uniform(least_s, most_s)
        self.writers.signals.alarm.wait(seconds)
        return seconds

    def _delete(self, number: int) -> str:
        copies = self._random.sample(sorted(self.volume.copies), number)
        for copy in copies:
            _remove(self.volume.folder(copy))
        self._wait_noticed(*copies)
        return " and ".join(copies)

    def _lose_zone(self) -> str:
        zone = self._random.choice("abc")
        primary = self.volume.primary
        self._destroy_zone(zone)
        self._wait_noticed(f"{zone}_full", f"{zone}_tail")
        return f"{zone}, the primary being {primary}"

    def _lose_zone_and_one(self) -> str:
        zone = self._random.choice("abc")
        copy = self._random.choice([name for name in sorted(self.volume.copies) if not name.startswith(zone)])
        primary = self.volume.primary
        _remove(self.volume.folder(copy))
        self._destroy_zone(zone)
        self._wait_noticed(copy, f"{zone}_full", f"{zone}_tail")
        return f"{zone} and {copy}, the primary being {primary}"

    def _destroy_zone(self, zone: str) -> None:
        """Remove all that the cluster has in a zone, and end its processes there."""
        pids = [pid for kind in ("full", "tail") for pid in self.volume.pids(f"{zone}_{kind}")]
        _remove(self.volume.zone(zone))
        for pid in pids:
            _signal(pid, signal.SIGKILL)

    def _wait_noticed(self, *copies: str) -> None:
        """Wait until copies that are gone are seen to be gone, or are there again."""
        marks = {copy: self.volume.folder(copy) for copy in copies}

        def noticed() -> bool:
            seen = self.volume.copies
            return all(seen[copy]["state"] != "current" or folder.exists() for copy, folder in marks.items())

        wait_until(noticed, f"{', '.join(copies)} are seen to be gone", WHOLE_WITHIN_S)

    def _corrupt_one(self) -> str:
        """Flip bits in a copy that follows, and have them found."""
        copy = self._random.choice(self._others())
        path = self._file_of_catalog()
        if copy.endswith("_tail"):
            self._finish_segment(copy)
        self._flip(copy, path)
        self._verify(copy)
        return copy

    def _corrupt_two_at_rest(self) -> str:
        """Flip bits in any two copies while nobody is connected, and have them found."""
        copies = self._random.sample(sorted(self.volume.copies), 2)
        primary = self.volume.primary
        path = self._file_of_catalog()
        for copy in copies:
            if copy.endswith("_tail"):
                self._finish_segment(copy)
        with self.writers.away():
            self._server.run("pause", NAME)
            for copy in copies:
                self._flip(copy, path)
            self._verify(*copies)
        return f"{' and '.join(copies)}, the primary being {primary}"

    def _file_of_catalog(self) -> str:
        """Answer a file in each full copy that nothing changes and that is on the disk for sure."""
        return str(self._server.query("SELECT pg_relation_filepath('pg_proc')", NAME)[0][0])

    def _flip(self, copy: str, path: str) -> None:
        if copy.endswith("_full"):
            flip(self.volume.folder(copy) / path, at=5000 + 8192 * self._random.randrange(50))
        else:
            self._flip_log(copy)

    def _finished(self, copy: str) -> list[str]:
        """Answer the names of the segments of a tail's log that are full, the oldest first."""
        length = len("000000010000000000000001")
        return sorted(path.name for path in self.volume.folder(copy).iterdir() if len(path.name) == length)

    def _finish_segment(self, copy: str) -> None:
        before = self._finished(copy)
        self.volume.ask(self.volume.primary, "SELECT pg_switch_wal()")
        wait_until(lambda: self._finished(copy) != before, f"{copy} has finished a segment")

    def _flip_log(self, copy: str) -> None:
        """Flip bits all over what is written of the first page of the newest finished segment of a tail's log."""
        segment = self.volume.folder(copy) / self._finished(copy)[-1]
        written = [at for at, byte in enumerate(segment.read_bytes()[:8192]) if byte and at >= 64]
        for at in written[::16]:
            flip(segment, at=at)

    def _verify(self, *damaged: str) -> None:
        """Have the volume verified, once nothing is in the way, and see that damage to these copies is found."""

        def answer() -> wire.Verification | None:
            try:
                return self._server.api.verify(NAME)
            except errors.ZoryaError as error:
                assert error.retry_can_help, error
                return None

        found = wait_until(answer, "the volume is verified", WHOLE_WITHIN_S)
        assert found is not None
        unseen = [copy for copy in damaged if not any(copy in sentence for sentence in found["damaged"])]
        assert not unseen, f"damage to {unseen} was not found: {found}"

    def _fill_disk(self) -> str:
        """Fill the disk of zone c; writers go on with what the other zones have."""
        assert self._disk is not None
        primary = self.volume.primary
        self._disk.fill(left_megabytes=0)
        try:
            for _ in range(LOG_THAT_FILLS_MEGABYTES):
                with contextlib.suppress(psycopg.Error):
                    self._server.query(f"SELECT pg_logical_emit_message(false, 'fill', repeat('x', {MEGABYTE}))", NAME)
            self.writers.wait_commits(WHOLE_WITHIN_S)
            states = {name: one["state"] for name, one in self.volume.copies.items() if name.startswith("c")}
        finally:
            self._disk.free()
        return f"zone c, the primary being {primary}; its copies while it was full: {states}"

    def _kill_server(self) -> str:
        self._server.kill()
        self._server.start(**self._env)
        return "while all was well"

    def _kill_server_in_failover(self) -> str:
        point = "failover." + self._random.choice(["fenced", "recorded", "collected", "promoted"])
        primary = self.volume.primary
        with self._dying_at(point):
            self._destroy_zone(primary[0])
        return f"{point}, {primary} and its zone lost"

    def _kill_server_in_repair(self) -> str:
        copy = self._random.choice(self._others())
        with self._dying_at("rebuild.made"):
            _remove(self.volume.folder(copy))
        return copy

    @contextmanager
    def _dying_at(self, point: str) -> Iterator[None]:
        """Have another server, which the block makes die at a failpoint, and then one that lives."""
        self._server.kill()
        self._server.start(**self._env, ZORYA_FAILPOINTS=f"{point}=kill")
        yield
        self._server.wait_killed()
        self._server.start(**self._env)


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _remove(folder: Path) -> None:
    """Remove a folder with all that is in it, though processes go on making files there."""
    while folder.exists():
        # What was made meanwhile, or removed by others, is met in the next round.
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)


def _name_of(pid: int) -> str:
    """Answer what a process calls itself."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()[:60]
    return "a process that had ended"


@contextmanager
def _disk_of_zone_c(home: Path) -> Iterator[Disk | None]:
    """Have a small disk where zone c is to be; None where this user or host cannot mount one."""
    folder = home / "zones" / "c"
    folder.mkdir(parents=True, mode=0o711)
    folder.parent.chmod(0o711)
    options = f"size={DISK_MEGABYTES}m,mode=0711"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    disk = Disk(folder)
    try:
        yield disk
    except BaseException:
        # What was there may tell why.
        disk.free()
        subprocess.run(["cp", "--archive", str(folder), str(folder.with_name("c-as-it-was"))], check=False)
        raise
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def breaking(home: Path, seed: int) -> Iterator[Destruction]:
    """Have what breaks a new cluster in `home`, which no server was started on yet. Leaves no process behind.

    A failure is told with its seed; the server's log is `server.log` beside the home.
    """
    home.mkdir(mode=0o711, exist_ok=True)
    env = {"ZORYA_COPIES": "6", "ZORYA_LOG_KEEP_MIB": "256", "ZORYA_ZONE_DIRS": f"c={home / 'zones' / 'c'}"}
    server = Server(home)
    with _disk_of_zone_c(home) as disk:
        try:
            server.start(**env)
            yield Destruction(server, seed, env=env, disk=disk)
            server.stop()
            server.allow(EXPECTED)
            server.check_log()
        except BaseException as error:
            error.add_note(f"Again: python tests/destruction.py --seed {seed}")
            raise
        finally:
            end(server)


def main() -> int:
    """Break a cluster for as long as asked, and print what was done. What is left of a failed run stays there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", default="", help="only the faults with this in their names, such as SIGSTOP")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="where the home is made; best on a disk")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("ZORYA_", "PG"))]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="zt-", dir=arguments.folder))
    folder.chmod(0o711)
    _say(f"seed {arguments.seed}, in {folder}")
    began_s, deadline = time.time() - 1, time.monotonic() + arguments.minutes * 60
    with breaking(folder / "home", arguments.seed) as destruction:
        kinds = {**destruction.faults, **destruction.slow_faults}
        destruction.faults = {kind: do for kind, do in kinds.items() if arguments.only in kind}
        try:
            destruction.run(until=lambda _: time.monotonic() > deadline)
        except Exception as error:
            _say(destruction.report())
            _say(f"FAILED with seed {arguments.seed}: {error}\nWhat is left, with server.log: {folder}")
            raise
        _say(f"{destruction.report()}\nNo acknowledged commit is lost.")
    remove_when_left(folder)
    remove_unused(began_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
