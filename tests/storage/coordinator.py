"""What mends the small world: failover and repair in the order of `control.failover` and `control.copies`.

What decides is what ships, `zorya.storage`; what carries it out is written here again, one step between two
interruptions. See `storage.election` for what has to be kept to.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace
from math import inf

from storage.world import Flaw, Node, Record, World
from zorya.storage import election, history, repair
from zorya.storage.election import Choice, Seen
from zorya.storage.history import Relation
from zorya.storage.repair import Action, CopySeen, Process, Way

TICKS_S = 100
KEPT_RECORDS = 40
"""How far behind a copy may be before the primary gives it up."""


class Server:
    """What runs the coordinator, step by step, and starts it anew when it has crashed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._step_ticks = world.random.choice([0.5, 2.0, 6.0])
        self._life: Iterator[None] | None = None

    def ensure_started(self) -> None:
        """Start a coordinator, if none runs."""
        if self._life is None:
            self._life = Coordinator(self._world).live()
            self._step_later(self._life)

    def crash(self) -> None:
        """End the coordinator where it is; another one starts later, which knows what is on disks only."""
        if self._life is not None:
            self._world.say("the coordinator crashes")
            self._world.counts["coordinator crashes"] += 1
            self._life = None
            self._world.after(self._world.delay(10.0), self.ensure_started)

    def _step_later(self, life: Iterator[None]) -> None:
        def step() -> None:
            if self._life is life:
                next(life)
                self._step_later(life)

        self._world.after(self._world.delay(self._step_ticks), step)


class Coordinator:
    """One run of the server, until it crashes: `live` yields after each step. It knows nothing of an earlier one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = world.random
        self._must_fail_over = False

    @property
    def _primary(self) -> Node:
        return self.world.primary

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
                if self.random.random() < 0.2:
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
        self.world.start(primary)
        primary.leads = self.world.volume.epoch.number
        self.world.counts["restarts in place"] += 1
        self.world.note_serving(primary, primary.leads)

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
            world.end(node)
        else:
            node.follow_nobody()
            if node.pending:
                # What it has received is written, as long as it is not ended.
                world.flush(node)

    def _see(self, node: Node, fenced: dict[str, int]) -> Seen:
        world = self.world
        if not self._is_usable(node, fenced):
            return Seen(copy=node.copy, position=None)
        self._set_back(node)
        position = world.position(node)
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
            self.world.start(node)
        return True

    def _collect(self, chosen: Node, source: Node, wanted: int, fenced: dict[str, int]) -> Generator[None, None, bool]:
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
        chosen.log.append(Record(number, next(world.numbers)))
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
                world.note_serving(node, number)
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
            if node.begins_at and self.random.random() < 0.04:
                node.log[: node.begins_at] = primary.log[: node.begins_at]
                node.begins_at = 0
                yield
            return
        if node.leads is not None or node.asleep:
            world.end(node)
        node.follow_nobody()
        if node.pending:
            world.flush(node)
        self._set_back(node)
        if world.flaw is Flaw.MARKED_FIRST and node.mark is not None and self._knows(node.mark):
            relation = world.relation(node)
            node.mark = world.volume.epoch.number
            yield
        else:
            relation = world.relation(node)
        step = repair.decide(self._seen(node, primary, relation))
        match step.action:
            case Action.REBUILD:
                yield from self._rebuild(node, primary)
            case Action.REJOIN:
                yield from self._rejoin(node, primary)
            case Action.RESTART:
                world.start(node)
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
            self.world.connect(node, primary)
            yield

    def _rejoin(self, node: Node, primary: Node) -> Iterator[None]:
        """Take back what it has too much of, and give it what it lacks."""
        world = self.world
        world.say(f"{node.name} is taken back")
        world.counts["rejoins"] += 1
        world.end(node)
        yield
        if node.is_there and self._feeds(primary):
            node.log = list(primary.log)
            yield
            if node.is_there:
                world.start(node)
                yield from self._follow(node, primary)

    def _rebuild(self, node: Node, primary: Node) -> Iterator[None]:
        world = self.world
        world.say(f"{node.name} is made anew")
        world.counts["rebuilds"] += 1
        world.end(node)
        world.empty(node)
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
            world.start(node)
            yield from self._follow(node, primary)
