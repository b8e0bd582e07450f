"""A volume in a small world: its copies' disks and processes, a network that delays and loses, and everything that fails.

What decides is what ships: `zorya.storage`. What carries it out is written here again, in the order of
`control.failover` and `control.copies`, one step between two interruptions. Everything follows from the seed.

    python tests/storage/simulation.py --seeds 5000            plays many, and tells of those that fail
    python tests/storage/simulation.py --first 17 --trace      plays one, and tells what happened

A log is a list of records, and a position is how many there are. Time is in ticks of a hundredth of a second.
"""

import argparse
import heapq
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import inf
from pathlib import Path
from random import Random

from zorya.core.volume import ZONES, Copy, CopyKind
from zorya.storage import election, history, placement, quorum, repair
from zorya.storage.election import Choice, Seen
from zorya.storage.history import Relation
from zorya.storage.quorum import Position
from zorya.storage.repair import Action, CopySeen, Process, Way

TICKS_S = 100
FAULTY_TICKS = 1500
HEALING_TICKS = 6000
KEPT_RECORDS = 40
"""How far behind a copy may be before the primary gives it up."""


class Flaw(StrEnum):
    """A rule that is broken on purpose: the checker has to notice."""

    NONE = "none"
    BY_JOINED = "the log is chosen by the highest epoch joined, not by that of the last record"
    READ_LESS = "one copy less is read than has to be"
    WRITE_LESS = "a commit is on one copy less than has to be"
    NO_FENCE = "copies go on taking log of the old epoch while their positions are read"
    MARKED_FIRST = "a copy's mark says the new epoch before what it has too much of is cut back"
    DIVERGED_COUNT = "copies whose log is not of the present one count in an election"
    UNFLUSHED_SENT = "the primary gives away what is not on its own disk"
    GIVEN_UP_EARLY = "an epoch is given up while the copy that may have begun it cannot be asked"
    COLLECTED_UNMARKED = "a copy collects log of an epoch that its mark does not say"
    GAPS_COUNT = "a tail counts whose log does not go back to where the candidate's ends"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a log, known by the epoch that wrote it and a number of its own."""

    epoch: int
    number: int


class Violation(Exception):
    """What must never happen has happened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What happened under one seed."""

    seed: int
    failure: str
    """What must not have happened, as a sentence; empty if nothing did."""
    counts: Counter[str]
    trace: tuple[str, ...]

    def __str__(self) -> str:
        """Answer all that is needed to find out why it failed."""
        again = f"python tests/storage/simulation.py --first {self.seed} --trace"
        return "\n".join([*self.trace, f"seed {self.seed}: {self.failure or 'all is well'}  ({again})"])


@dataclass(slots=True)
class Feed:
    """What the primary knows of one copy that is connected to it."""

    session: int
    flushed: int


@dataclass(slots=True, eq=False)
class Node:
    """One copy: what is on its disk, and its process."""

    copy: Copy
    # On its disk.
    is_there: bool = True
    log: list[Record | None] = field(default_factory=list)
    """None is what a tail that was made anew lacks: its beginning."""
    begins_at: int = 0
    mark: int | None = 1
    # Its process.
    runs: bool = True
    asleep: bool = False
    """Stopped by a signal: what comes for it waits until it wakes."""
    reached: bool = True
    """Whether the coordinator reaches it. Others do, all the same."""
    slowness: float = 1.0
    """How many times as long as others its disk takes."""
    life: int = 0
    """Which process this is, of those it has had."""
    pending: list[Record | None] = field(default_factory=list)
    """Not on its disk yet."""
    inbox: list[Callable[[], None]] = field(default_factory=list)
    ends: int = 0
    ended_at: float = -inf
    # As a follower.
    source: "Node | None" = None
    session: int = 0
    # As the primary.
    leads: int | None = None
    """The epoch for which it believes to be the primary."""
    feeds: dict[str, Feed] = field(default_factory=dict)
    waiting: dict[int, tuple[Record, int]] = field(default_factory=dict)
    """The commits that it has not answered yet: the record, and the position that has to be safe."""

    @property
    def name(self) -> str:
        return self.copy.name

    @property
    def is_full(self) -> bool:
        return self.copy.kind is CopyKind.FULL

    @property
    def received(self) -> int:
        return len(self.log) + len(self.pending)

    def follow_nobody(self) -> None:
        self.source, self.session = None, 0


class World:
    """The copies, the network, the clients, and what goes wrong. Raises Violation from `play`."""

    def __init__(self, seed: int, flaw: Flaw = Flaw.NONE) -> None:
        self.random = Random(seed)
        self.flaw = flaw
        self.now = 0.0
        self.trace: list[str] = []
        self.counts: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        copies = 3 if self.random.random() < 0.15 else 6
        self.rule = quorum.rule(copies)
        self.volume = placement.new_volume(copies, lambda zone: Path("/", zone))
        self.nodes = {copy.name: Node(copy) for copy in self.volume.copies}
        self.serving = self.nodes[self.volume.primary]
        self.serving.leads = 1
        self.serving_epoch = 1
        self._served_from: list[Record | None] = []
        """The log with which the last primary began to serve."""
        self.acknowledged: dict[int, tuple[Record, int]] = {}
        self.furthest = Position(epoch=0, position=0)
        self._life: Iterator[None] | None = None
        self._healing = False
        # Each seed has its own weather.
        self.loss = self.random.choice([0.0, 0.02, 0.1, 0.3])
        self.slowness = self.random.choice([1.0, 1.0, 4.0])
        self.fault_every = self.random.choice([10.0, 25.0, 60.0])
        self.step_ticks = self.random.choice([0.5, 2.0, 6.0])
        self.haste = self.random.choice([0.0, 0.5])
        """How often a new primary fails at once."""
        self.fault_kinds = self._draw_fault_kinds()

    # What is said, and when.

    def say(self, text: str) -> None:
        self.trace.append(f"{self.now:9.2f}  {text}")

    def after(self, ticks: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + ticks, next(self._order), do))

    def delay(self, mean: float) -> float:
        """Answer a time around this one, now and then much longer."""
        return self.random.expovariate(1 / mean) * (20 if self.random.random() < 0.02 else 1)

    def send(self, to: Node, do: Callable[[], None]) -> None:
        """Have something happen at a process, if the message arrives and the process is still the same then."""
        if self.random.random() < self.loss:
            return
        life = to.life

        def arrive() -> None:
            if to.life == life and to.runs:
                if to.asleep:
                    to.inbox.append(do)
                else:
                    do()

        self.after(self.delay(self.slowness), arrive)

    # The whole play.

    def play(self) -> None:
        """Have everything happen; then let everything heal, and compare. Raises Violation."""
        self._start_coordinator()
        self._commit_later()
        self._retransmit_later()
        self._fault_later()
        self._run_until(FAULTY_TICKS, lambda: False)
        self._heal()
        if not self._run_until(self.now + HEALING_TICKS, self._is_whole):
            raise Violation(f"The volume did not become whole again: {self._how_it_is()}")
        self._check_log(self.serving, "everything healed")
        if self.now > FAULTY_TICKS:
            self.counts["healed"] += 1

    def _run_until(self, end: float, done: Callable[[], bool]) -> bool:
        look_at = self.now
        while self._events and self._events[0][0] <= end:
            self.now, _, do = heapq.heappop(self._events)
            do()
            self.counts["events"] += 1
            self._check_last()
            if self.now >= look_at:
                look_at = self.now + 25
                if done():
                    return True
        self.now = end
        return done()

    def _heal(self) -> None:
        self.say("everything heals")
        self._healing = True
        self.loss = 0.0
        for node in self.nodes.values():
            node.reached, node.slowness = True, 1.0
            self._wake(node)
        if self._life is None:
            self._start_coordinator()

    def _is_whole(self) -> bool:
        primary = self.nodes[self.volume.primary]
        return (
            self.volume.epoch.begins_at is not None
            and self.serving is primary
            and primary.runs
            and not primary.pending
            and all(
                node.runs and node.mark == self.volume.epoch.number and node.begins_at == 0 and node.log == primary.log
                for node in self.nodes.values()
            )
        )

    def _how_it_is(self) -> str:
        each = ", ".join(
            f"{node.name} {'runs' if node.runs else 'ended'} mark {node.mark} at {len(node.log)}"
            f"{'' if node.is_there else ' lost'}{f' from {node.begins_at}' if node.begins_at else ''}"
            for node in self.nodes.values()
        )
        epochs = " ".join(f"{one.number}:{one.copy}@{one.begins_at}" for one in self.volume.epochs)
        return f"primary {self.volume.primary}; {each}; {epochs}"

    # The checker.

    def _check_log(self, node: Node, when: str) -> None:
        for record, position in self.acknowledged.values():
            if position > len(node.log) or node.log[position - 1] != record:
                raise Violation(f"{node.name} lacks the acknowledged {record} at {position}: {when}.")

    def _check_last(self) -> None:
        node = self.serving
        if node.is_there and self.acknowledged and node.leads == self.serving_epoch:
            record, position = next(reversed(self.acknowledged.values()))
            if position > len(node.log) or node.log[position - 1] != record:
                raise Violation(f"{node.name} serves without the acknowledged {record} at {position}.")

    def _note_serving(self, node: Node, epoch: int) -> None:
        if epoch < self.serving_epoch:
            raise Violation(f"{node.name} serves in epoch {epoch}, after {self.serving_epoch}.")
        self._check_log(node, f"it serves in epoch {epoch}")
        if epoch > self.serving_epoch and not self._healing and self.random.random() < self.haste:
            self.after(self.delay(8.0), self.random.choice([self._lose_primary, self._crash_primary]))
        self.serving, self.serving_epoch = node, epoch
        self._served_from = list(node.log)
        self.say(f"{node.name} serves in epoch {epoch} from {len(node.log)}")

    def _note_acknowledged(self, node: Node, record: Record, position: int) -> None:
        assert node.leads is not None
        if node.leads < self.serving_epoch:
            # A word that was under way is none of the old primary's doing, if the commit is part of the present log.
            log = self._served_from
            if position > len(log) or log[position - 1] != record:
                raise Violation(
                    f"{node.name} acknowledges {record} for epoch {node.leads}, after {self.serving_epoch}."
                )
        else:
            at = Position(epoch=record.epoch, position=position)
            if at < self.furthest:
                raise Violation(f"{node.name} acknowledges {record} at {at}, after one at {self.furthest}.")
            self.furthest = at
        self.acknowledged[record.number] = (record, position)
        self.counts["acknowledged"] += 1

    # Clients.

    def _commit_later(self) -> None:
        self.after(self.delay(4.0), self._commit)

    def _commit(self) -> None:
        if self._healing:
            return
        for node in self.nodes.values():
            # Whoever believes to be the primary has clients that do.
            if node.leads is not None and node.runs and not node.asleep and len(node.waiting) < 8:
                record = Record(node.leads, next(self._numbers))
                node.pending.append(record)
                node.waiting[record.number] = (record, node.received)
                self._flush_later(node)
        self._commit_later()

    # Processes.

    def _flush_later(self, node: Node) -> None:
        if self.flaw is Flaw.UNFLUSHED_SENT and node.leads is not None:
            self._feed(node)
        life = node.life

        def flush() -> None:
            if node.life == life and node.runs and node.pending:
                if node.asleep:
                    node.inbox.append(flush)
                else:
                    self._flush(node)

        self.after(self.delay(0.7) * node.slowness, flush)

    def _flush(self, node: Node) -> None:
        node.log.extend(node.pending)
        node.pending.clear()
        if node.leads is not None:
            self._feed(node)
            self._answer(node)
        else:
            self._tell_flushed(node)

    def _feed(self, primary: Node) -> None:
        log = [*primary.log, *primary.pending] if self.flaw is Flaw.UNFLUSHED_SENT else primary.log
        for name, feed in primary.feeds.items():
            if feed.flushed < len(log):
                self._send_log(self.nodes[name], feed, log[feed.flushed :])

    def _send_log(self, to: Node, feed: Feed, records: list[Record | None]) -> None:
        session, begins = feed.session, feed.flushed

        def receive() -> None:
            if to.session != session or begins > to.received:
                return
            new = records[to.received - begins :]
            if new:
                to.pending.extend(new)
                self._flush_later(to)

        self.send(to, receive)

    def _tell_flushed(self, node: Node) -> None:
        primary, session, flushed = node.source, node.session, len(node.log)
        if primary is None:
            return

        def hear() -> None:
            feed = primary.feeds.get(node.name)
            if feed is not None and feed.session == session:
                feed.flushed = max(feed.flushed, flushed)
                self._answer(primary)

        self.send(primary, hear)

    def _answer(self, primary: Node) -> None:
        """Acknowledge the commits that are safe."""
        needed = self.rule.followers_needed - (self.flaw is Flaw.WRITE_LESS)
        flushed = sorted((feed.flushed for feed in primary.feeds.values()), reverse=True)
        flushed = [len(primary.log), *flushed]
        safe = min(flushed[0], flushed[needed]) if len(flushed) > needed else 0
        for number, (record, position) in list(primary.waiting.items()):
            if position <= safe:
                del primary.waiting[number]
                self._note_acknowledged(primary, record, position)

    def _connect(self, node: Node, primary: Node) -> None:
        node.follow_nobody()
        node.source, node.session = primary, next(self._numbers)
        session, flushed = node.session, len(node.log)

        def accept() -> None:
            if primary.leads is not None:
                primary.feeds[node.name] = Feed(session, flushed)
                self._feed(primary)

        self.send(primary, accept)

    def _retransmit_later(self) -> None:
        def retransmit() -> None:
            for node in self.nodes.values():
                if node.leads is not None and node.runs and not node.asleep:
                    self._feed(node)
                elif node.runs and not node.asleep and node.source is not None:
                    self._tell_flushed(node)
            self._retransmit_later()

        self.after(12.0, retransmit)

    def _end(self, node: Node) -> None:
        """End a process: what was not on its disk is lost."""
        node.runs, node.asleep = False, False
        node.life += 1
        node.pending.clear()
        node.inbox.clear()
        node.feeds.clear()
        node.waiting.clear()
        node.leads = None
        node.follow_nobody()

    def _start(self, node: Node) -> None:
        node.runs = True

    def _wake(self, node: Node) -> None:
        node.asleep = False
        inbox, node.inbox = node.inbox, []
        for do in inbox:
            do()

    # What goes wrong.

    def _draw_fault_kinds(self) -> list[Callable[[], None]]:
        every = [
            self._crash,
            self._crash,
            self._crash_primary,
            self._crash_coordinator,
            self._crash_coordinator,
            self._put_to_sleep,
            self._put_primary_to_sleep,
            self._put_out_of_reach,
            self._slow_down,
            self._lose_primary,
            self._lose_copies,
            self._lose_zone,
        ]
        return self.random.sample(every, self.random.randint(4, len(every)))

    def _fault_later(self) -> None:
        def strike() -> None:
            if not self._healing:
                self.random.choice(self.fault_kinds)()
                self._fault_later()

        self.after(self.delay(self.fault_every), strike)

    def _any(self) -> Node:
        return self.random.choice(list(self.nodes.values()))

    def _crash(self, node: Node | None = None) -> None:
        node = node or self._any()
        if node.runs:
            self.say(f"{node.name}'s process crashes")
            self._end(node)
            node.ends += 1
            node.ended_at = self.now
            self.counts["crashes"] += 1

    def _crash_primary(self) -> None:
        self._crash(self.nodes[self.volume.primary])

    def _put_to_sleep(self, node: Node | None = None) -> None:
        node = node or self._any()
        if node.runs and not node.asleep:
            self.say(f"{node.name} is put to sleep")
            node.asleep = True
            self.counts["sleeps"] += 1
            life = node.life

            def wake() -> None:
                if node.asleep and node.life == life:
                    self.say(f"{node.name} wakes")
                    self._wake(node)

            self.after(self.delay(60.0), wake)

    def _put_primary_to_sleep(self) -> None:
        self._put_to_sleep(self.nodes[self.volume.primary])

    def _put_out_of_reach(self) -> None:
        zone = self.random.choice(ZONES)
        some = [node for node in self.nodes.values() if node.copy.zone == zone or self.random.random() < 0.15]
        self.say(f"{[node.name for node in some]} are out of the coordinator's reach")
        self.counts["out of reach"] += 1

        def return_() -> None:
            for node in some:
                node.reached = True

        for node in some:
            node.reached = False
        self.after(self.delay(80.0), return_)

    def _slow_down(self) -> None:
        node = self._any()
        node.slowness = 40.0

        def recover() -> None:
            node.slowness = 1.0

        self.after(self.delay(80.0), recover)

    def _lose_primary(self) -> None:
        self._lose([self.nodes[self.volume.primary]])

    def _lose_copies(self) -> None:
        self._lose(self.random.sample(list(self.nodes.values()), self.random.randint(1, 2)))

    def _lose_zone(self) -> None:
        zone = self.random.choice(ZONES)
        self._lose([node for node in self.nodes.values() if node.copy.zone == zone])

    def _lose(self, nodes: list[Node]) -> None:
        """Lose these disks with all that is on them, if the promise covers that beside what is not mended yet."""
        names = {node.name for node in nodes} | {node.name for node in self.nodes.values() if self._is_unwell(node)}
        if len(names) > (2 if self.rule.copies == 6 else 1):
            return
        for node in nodes:
            self.say(f"{node.name} is lost")
            self._end(node)
            self._empty(node)
            node.mark = None
            self.counts["losses"] += 1

    def _is_unwell(self, node: Node) -> bool:
        """Whether the promise counts this copy as missing already."""
        primary = self.nodes[self.volume.primary]
        # One that was out of reach in a failover may still get records that the present log will not have.
        is_stale = node is not primary and (node.leads is not None or node.source not in {None, primary})
        return is_stale or not node.is_there or node.begins_at > 0 or self._relation(node) is not Relation.FOLLOWS

    def _empty(self, node: Node) -> None:
        node.is_there, node.begins_at = False, 0
        node.log = []

    # The coordinator.

    def _start_coordinator(self) -> None:
        self._life = _Coordinator(self).live()
        self._step_later(self._life)

    def _step_later(self, life: Iterator[None]) -> None:
        def step() -> None:
            if self._life is life:
                next(life)
                self._step_later(life)

        self.after(self.delay(self.step_ticks), step)

    def _crash_coordinator(self) -> None:
        if self._life is not None:
            self.say("the coordinator crashes")
            self.counts["coordinator crashes"] += 1
            self._life = None
            self.after(self.delay(10.0), lambda: None if self._life else self._start_coordinator())

    def _position(self, node: Node) -> Position | None:
        """Answer how far a copy's log goes, by its disk."""
        if not node.is_there or node.mark is None or (node.begins_at and node.begins_at == len(node.log)):
            return None
        return history.position_of(self.volume.epochs, node.mark, len(node.log))

    def _relation(self, node: Node) -> Relation:
        return history.can_follow(self.volume.epochs, self._position(node))


class _Coordinator:
    """One run of the server, until it crashes: `live` yields after each step. It remembers nothing of an earlier one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self._must_fail_over = False

    @property
    def _primary(self) -> Node:
        return self.world.nodes[self.world.volume.primary]

    @property
    def _others(self) -> list[Node]:
        return [node for node in self.world.nodes.values() if node is not self._primary]

    def live(self) -> Iterator[None]:
        """Attend to the volume for ever."""
        while True:
            yield
            primary = self._primary
            if self.world.volume.epoch.begins_at is None:
                yield from self._finish()
                if self.world.volume.epoch.begins_at is None:
                    # Another election may do without that copy; if it does not, the copy may come back.
                    yield from self._fail_over()
            elif self._must_fail_over or (primary.reached and not self._is_trusted(primary)):
                yield from self._fail_over()
            elif not primary.reached or primary.asleep:
                # How long to wait for it is nobody's concern here.
                if self.random.random() < 0.1:
                    yield from self._fail_over()
            elif not primary.runs or primary.leads is None:
                yield from self._bring_back(primary)
            else:
                yield from self._attend(primary)

    def _is_trusted(self, primary: Node) -> bool:
        return primary.is_there and primary.mark == self.world.volume.epoch.number

    def _bring_back(self, primary: Node) -> Iterator[None]:
        way, _ = repair.way_back(
            log_to_replay_bytes=self.random.choice([0, 2 * repair.REPLAY_IN_PLACE_BYTES]),
            candidates_current=sum(node.is_full and node.runs for node in self._others),
        )
        if way is Way.PROMOTE:
            yield from self._fail_over()
            return
        self.world._start(primary)
        primary.leads = self.world.volume.epoch.number
        self.world.counts["restarts in place"] += 1
        self.world._note_serving(primary, primary.leads)

    # Failover, in the order of `control.failover`.

    def _fail_over(self) -> Iterator[None]:
        world = self.world
        world.counts["failovers begun"] += 1
        fenced: dict[str, int] = {}
        nodes = list(world.nodes.values())
        self.random.shuffle(nodes)
        for node in nodes:
            if node.reached:
                self._fence(node)
                fenced[node.name] = node.life
            yield
        seen = []
        for node in self._others:
            seen.append(self._see(node, fenced))
            yield
        choice = election.choose(
            replace(world.rule, read=world.rule.read - (world.flaw is Flaw.READ_LESS)),
            seen,
            epochs=None if world.flaw is Flaw.DIVERGED_COUNT else world.volume.epochs,
        )
        world.say(f"{choice.reason}")
        if not isinstance(choice, Choice):
            world.counts["refusals"] += 1
            self._must_fail_over = False
            return
        yield
        unfinished = world.volume.epoch.begins_at is None
        kept = history.abandon(world.volume) if unfinished else world.volume
        before = kept.epoch.number
        world.counts["abandoned"] += unfinished
        world.volume = history.begin(kept, choice.candidate)
        world.say(f"epoch {world.volume.epoch.number} is to begin on {choice.candidate}, from {choice.source}")
        yield
        chosen = self._primary
        if not self._is_usable(chosen, fenced):
            return
        # What it collects may be of any epoch up to the last.
        if world.flaw is not Flaw.COLLECTED_UNMARKED:
            chosen.mark = before
        yield
        collected = yield from self._collect(chosen, world.nodes[choice.source], choice.position.position, fenced)
        if collected:
            yield from self._promote(chosen, fenced)

    def _fence(self, node: Node) -> None:
        world = self.world
        if world.flaw is Flaw.NO_FENCE:
            return
        if node.leads is not None or node.asleep:
            world._end(node)
        else:
            node.follow_nobody()
            if node.pending:
                # What it has received is written, as long as it is not ended.
                world._flush(node)

    def _see(self, node: Node, fenced: dict[str, int]) -> Seen:
        world = self.world
        if not self._is_usable(node, fenced):
            return Seen(copy=node.copy, position=None)
        self._set_back(node)
        position = world._position(node)
        if world.flaw is Flaw.BY_JOINED and position is not None and node.mark is not None:
            position = replace(position, epoch=node.mark)
        gap = 0 if world.flaw is Flaw.GAPS_COUNT else node.begins_at
        return Seen(copy=node.copy, position=position, begins_at=gap)

    def _set_back(self, node: Node) -> None:
        """Have the mark of a copy that joined an epoch which it never began say the one before."""
        if node.is_there and node.mark is not None and self.world.flaw is not Flaw.GIVEN_UP_EARLY:
            begun = any(record is not None and record.epoch == node.mark for record in node.log)
            node.mark = history.mark_of(self.world.volume.epochs, node.mark, begun=begun)

    def _is_usable(self, node: Node, fenced: dict[str, int]) -> bool:
        """Whether a copy can be read, or used, that has taken no log since it was fenced."""
        if not node.is_there or not node.reached or node.asleep or node.name not in fenced:
            return False
        if node.is_full and not node.runs:
            # Only its engine says how far it goes. It follows nobody.
            self.world._start(node)
        return True

    def _collect(self, chosen: Node, source: Node, wanted: int, fenced: dict[str, int]) -> Iterator[None]:
        """Answer whether the chosen copy got all of the log."""
        while len(chosen.log) < wanted:
            usable = self._is_usable(chosen, fenced) and self._is_usable(source, fenced)
            if not usable or source.begins_at > len(chosen.log):
                return False
            some = self.random.randint(1, 10)
            chosen.log.extend(source.log[len(chosen.log) : min(len(chosen.log) + some, wanted)])
            yield
        return self._is_usable(chosen, fenced)

    def _promote(self, chosen: Node, fenced: dict[str, int]) -> Iterator[None]:
        world = self.world
        number = world.volume.epoch.number
        chosen.mark = number
        yield
        if not self._is_usable(chosen, fenced):
            return
        chosen.log.append(Record(number, next(world._numbers)))
        chosen.leads = number
        yield
        yield from self._finish()

    def _finish(self) -> Iterator[None]:
        """Record an epoch that has begun as begun, by the disk of its copy; abandon one that it cannot begin any more.

        If that copy cannot be asked, neither is done: it may have begun the epoch.
        """
        world = self.world
        number, node = world.volume.epoch.number, self._primary
        if not (node.is_there and node.reached):
            if world.flaw is Flaw.GIVEN_UP_EARLY:
                world.volume = history.abandon(world.volume)
                self._must_fail_over = True
            return
        own = [at for at, record in enumerate(node.log) if record is not None and record.epoch == number]
        if own:
            world.volume = history.began(world.volume, number, own[0])
            world.counts["failovers"] += 1
            self._must_fail_over = False
            if node.leads == number:
                world._note_serving(node, number)
            yield
            return
        if node.mark == number:
            node.mark = world.volume.epochs[-2].number
            yield
        world.say(f"epoch {number} is abandoned")
        world.counts["abandoned"] += 1
        world.volume = history.abandon(world.volume)
        self._must_fail_over = True
        yield

    # Repair, as in `control.copies`.

    def _attend(self, primary: Node) -> Iterator[None]:
        others = self._others
        self.random.shuffle(others)
        for node in others:
            if not self._feeds(primary):
                return
            if not node.reached or (node.asleep and self.random.random() < 0.8):
                continue
            yield from self._mend(node, primary)

    def _feeds(self, primary: Node) -> bool:
        return primary.runs and primary.reached and not primary.asleep and primary.leads is not None

    def _is_streaming(self, node: Node, primary: Node) -> bool:
        feed = primary.feeds.get(node.name)
        return node.runs and node.source is primary and feed is not None and feed.session == node.session

    def _mend(self, node: Node, primary: Node) -> Iterator[None]:
        world = self.world
        streaming = self._is_streaming(node, primary)
        if streaming:
            node.ends = 0
            if node.begins_at and self.random.random() < 0.1:
                node.log[: node.begins_at] = primary.log[: node.begins_at]
                node.begins_at = 0
                yield
            return
        if node.leads is not None or node.asleep:
            world._end(node)
        node.follow_nobody()
        if node.pending:
            world._flush(node)
        self._set_back(node)
        if world.flaw is Flaw.MARKED_FIRST and node.mark is not None and self._knows(node.mark):
            relation = world._relation(node)
            node.mark = world.volume.epoch.number
            yield
        else:
            relation = world._relation(node)
        step = repair.decide(self._seen(node, primary, relation))
        match step.action:
            case Action.REBUILD:
                yield from self._rebuild(node, primary)
            case Action.REJOIN:
                yield from self._rejoin(node, primary)
            case Action.RESTART:
                world._start(node)
                yield from self._follow(node, primary)
            case Action.NONE if node.runs and relation is Relation.FOLLOWS:
                yield from self._follow(node, primary)
            case Action.NONE:
                yield

    def _knows(self, number: int) -> bool:
        return any(epoch.number == number for epoch in self.world.volume.epochs)

    def _seen(self, node: Node, primary: Node, relation: Relation) -> CopySeen:
        lag = max(0, len(primary.log) - len(node.log))
        process = Process.RUNNING if node.runs else Process.ENDED if node.ends else Process.ABSENT
        return CopySeen(
            copy=node.copy,
            folder_there=node.is_there,
            marked=node.mark is not None and self._knows(node.mark),
            process=process,
            ended_times_in_a_row=node.ends,
            ended_s=(self.world.now - node.ended_at) / TICKS_S,
            streaming=False,
            lag_bytes=lag,
            kept=lag <= KEPT_RECORDS,
            relation=relation,
            damaged="",
            rebuilding=False,
            failed_rebuilds=0,
            since_failure_s=inf,
        )

    def _follow(self, node: Node, primary: Node) -> Iterator[None]:
        """Have a copy follow whose log is a beginning of the primary's: its mark first."""
        if node.mark != self.world.volume.epoch.number:
            node.mark = self.world.volume.epoch.number
            yield
        if node.runs and not node.asleep and node.is_there and self._feeds(primary):
            self.world._connect(node, primary)
            yield

    def _rejoin(self, node: Node, primary: Node) -> Iterator[None]:
        """Take back what it has too much of, and give it what it lacks."""
        world = self.world
        world.say(f"{node.name} is taken back")
        world.counts["rejoins"] += 1
        world._end(node)
        yield
        if node.is_there and self._feeds(primary):
            node.log = list(primary.log)
            yield
            if node.is_there:
                world._start(node)
                yield from self._follow(node, primary)

    def _rebuild(self, node: Node, primary: Node) -> Iterator[None]:
        world = self.world
        world.say(f"{node.name} is made anew")
        world.counts["rebuilds"] += 1
        world._end(node)
        world._empty(node)
        yield
        if not self._feeds(primary):
            return
        if node.is_full:
            node.log = list(primary.log)
        else:
            node.begins_at = len(primary.log)
            node.log = [None] * node.begins_at
        node.is_there, node.ends = True, 0
        yield
        if node.is_there and self._feeds(primary):
            world._start(node)
            yield from self._follow(node, primary)


def run(seed: int, flaw: Flaw = Flaw.NONE) -> Report:
    """Play one seed to its end, or to the first thing that must not happen."""
    world = World(seed, flaw)
    failure = ""
    try:
        world.play()
    except Violation as violation:
        failure = str(violation)
    return Report(seed=seed, failure=failure, counts=world.counts, trace=tuple(world.trace))


def main() -> int:
    """Play the seeds that are asked for; answer 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--flaw", choices=[flaw.name for flaw in Flaw], default=Flaw.NONE.name, help="break a rule")
    parser.add_argument("--trace", action="store_true", help="tell what happened")
    given = parser.parse_args()
    total: Counter[str] = Counter()
    failed = 0
    for seed in range(given.first, given.first + given.seeds):
        report = run(seed, Flaw[given.flaw])
        total += report.counts
        failed += bool(report.failure)
        if given.trace:
            sys.stdout.write(f"{report}\n")
        elif report.failure:
            sys.stdout.write(f"seed {seed}: {report.failure}\n")
    counts = ", ".join(f"{number} {what}" for what, number in sorted(total.items()))
    sys.stdout.write(f"{given.seeds} seeds, {failed} failed: {counts}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
