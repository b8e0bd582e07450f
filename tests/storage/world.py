"""A small world: the disks and processes of a volume's copies, a network that delays and loses, clients, and a checker.

Nothing goes wrong here by itself but messages; `faults` does that, and `coordinator` mends it. A log is a list of
records, and a position is how many there are. Time is in ticks of a hundredth of a second.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from pathlib import Path
from random import Random

from zorya.core.volume import Copy, CopyKind
from zorya.storage import history, placement, quorum
from zorya.storage.history import Relation
from zorya.storage.quorum import Position


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
    """The copies, what passes between them, and who uses them. Whatever happens in it may raise Violation."""

    def __init__(self, seed: int, flaw: Flaw) -> None:
        self.random = Random(seed)
        self.flaw = flaw
        self.now = 0.0
        self.trace: list[str] = []
        self.counts: Counter[str] = Counter()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count(1)
        self._order = itertools.count()
        copies = 3 if self.random.random() < 0.15 else 6
        self.rule = quorum.rule(copies)
        self.volume = placement.new_volume(copies, lambda zone: Path("/", zone))
        """What the coordinator keeps, durably."""
        self.nodes = {copy.name: Node(copy) for copy in self.volume.copies}
        self.serving = self.primary
        """Where clients were sent last."""
        self.serving.leads = 1
        self.serving_epoch = 1
        self.when_new_primary: Callable[[], None] = lambda: None
        self._served_from: list[Record | None] = []
        """The log with which the last primary began to serve."""
        self._acknowledged: dict[int, tuple[Record, int]] = {}
        self._furthest = Position(epoch=0, position=0)
        self.is_healing = False
        """Whether nothing goes wrong any more, and nobody commits."""
        # Each seed has its own weather.
        self.loss = self.random.choice([0.0, 0.02, 0.1, 0.3])
        self._slowness = self.random.choice([1.0, 1.0, 4.0])

    @property
    def primary(self) -> Node:
        """The copy that the volume goes by."""
        return self.nodes[self.volume.primary]

    # What is said, and when.

    def say(self, text: str) -> None:
        self.trace.append(f"{self.now:9.2f}  {text}")

    def after(self, ticks: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + ticks, next(self._order), do))

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

        self.after(self.delay(self._slowness), arrive)

    # The checker.

    def check_log(self, node: Node, when: str) -> None:
        for record, position in self._acknowledged.values():
            if position > len(node.log) or node.log[position - 1] != record:
                raise Violation(f"{node.name} lacks the acknowledged {record} at {position}: {when}.")

    def check_last(self) -> None:
        node = self.serving
        if node.is_there and self._acknowledged and node.leads == self.serving_epoch:
            record, position = next(reversed(self._acknowledged.values()))
            if position > len(node.log) or node.log[position - 1] != record:
                raise Violation(f"{node.name} serves without the acknowledged {record} at {position}.")

    def note_serving(self, node: Node, epoch: int) -> None:
        if epoch < self.serving_epoch:
            raise Violation(f"{node.name} serves in epoch {epoch}, after {self.serving_epoch}.")
        self.check_log(node, f"it serves in epoch {epoch}")
        is_new = epoch > self.serving_epoch
        self.serving, self.serving_epoch = node, epoch
        self._served_from = list(node.log)
        self.say(f"{node.name} serves in epoch {epoch} from {len(node.log)}")
        if is_new:
            self.when_new_primary()

    def note_acknowledged(self, node: Node, record: Record, position: int) -> None:
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
            if at < self._furthest:
                raise Violation(f"{node.name} acknowledges {record} at {at}, after one at {self._furthest}.")
            self._furthest = at
        self._acknowledged[record.number] = (record, position)
        self.counts["acknowledged"] += 1

    # Clients.

    def commit_later(self) -> None:
        self.after(self.delay(4.0), self._commit)

    def _commit(self) -> None:
        if self.is_healing:
            return
        for node in self.nodes.values():
            # Whoever believes to be the primary has clients that do.
            if node.leads is not None and node.runs and not node.asleep and len(node.waiting) < 8:
                record = Record(node.leads, next(self.numbers))
                node.pending.append(record)
                node.waiting[record.number] = (record, node.received)
                self._flush_later(node)
        self.commit_later()

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
                    self.flush(node)

        self.after(self.delay(0.7) * node.slowness, flush)

    def flush(self, node: Node) -> None:
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
                self.note_acknowledged(primary, record, position)

    def connect(self, node: Node, primary: Node) -> None:
        node.follow_nobody()
        node.source, node.session = primary, next(self.numbers)
        session, flushed = node.session, len(node.log)

        def accept() -> None:
            if primary.leads is not None:
                primary.feeds[node.name] = Feed(session, flushed)
                self._feed(primary)

        self.send(primary, accept)

    def retransmit_later(self) -> None:
        def retransmit() -> None:
            for node in self.nodes.values():
                if node.leads is not None and node.runs and not node.asleep:
                    self._feed(node)
                elif node.runs and not node.asleep and node.source is not None:
                    self._tell_flushed(node)
            self.retransmit_later()

        self.after(12.0, retransmit)

    def end(self, node: Node) -> None:
        """End a process: what was not on its disk is lost."""
        node.runs, node.asleep = False, False
        node.life += 1
        node.pending.clear()
        node.inbox.clear()
        node.feeds.clear()
        node.waiting.clear()
        node.leads = None
        node.follow_nobody()

    def start(self, node: Node) -> None:
        node.runs = True

    def wake(self, node: Node) -> None:
        node.asleep = False
        inbox, node.inbox = node.inbox, []
        for do in inbox:
            do()

    def empty(self, node: Node) -> None:
        node.is_there, node.begins_at = False, 0
        node.log = []

    # What is to be seen on the disks.

    def position(self, node: Node) -> Position | None:
        """Answer how far a copy's log goes, by its disk."""
        if not node.is_there or node.mark is None or (node.begins_at and node.begins_at == len(node.log)):
            return None
        return history.position_of(self.volume.epochs, node.mark, len(node.log))

    def relation(self, node: Node) -> Relation:
        return history.can_follow(self.volume.epochs, self.position(node))

    def is_unwell(self, node: Node) -> bool:
        """Whether the promise counts this copy as missing already."""
        primary = self.nodes[self.volume.primary]
        # One that was out of reach in a failover may still get records that the present log will not have.
        is_stale = node is not primary and (node.leads is not None or node.source not in {None, primary})
        return is_stale or not node.is_there or node.begins_at > 0 or self.relation(node) is not Relation.FOLLOWS
