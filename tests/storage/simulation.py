"""A volume in a small world in which everything fails that the promise covers, and a checker that looks at each event.

Everything follows from the seed. Another computer, and another day, make no difference.

    PYTHONPATH=tests python -m storage.simulation --seeds 5000           plays many, and tells of those that fail
    PYTHONPATH=tests python -m storage.simulation --first 17 --trace     plays one, and tells what happened
"""

import argparse
import heapq
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from storage.coordinator import Server
from storage.faults import Faults
from storage.world import Flaw, Violation, World

FAULTY_TICKS = 1500
HEALING_TICKS = 6000


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
        again = f"PYTHONPATH=tests python -m storage.simulation --first {self.seed} --trace"
        return "\n".join([*self.trace, f"seed {self.seed}: {self.failure or 'all is well'}  ({again})"])


class Play:
    """One seed from its beginning to its end."""

    def __init__(self, seed: int, flaw: Flaw) -> None:
        self.world = World(seed, flaw)
        self.server = Server(self.world)
        self.faults = Faults(self.world, self.server)

    def play(self) -> None:
        """Have everything happen; then let everything heal, and compare. Raises Violation."""
        self.server.ensure_started()
        self.world.commit_later()
        self.world.retransmit_later()
        self.faults.strike_later()
        self._run_until(FAULTY_TICKS, lambda: False)
        self._heal()
        if not self._run_until(self.world.now + HEALING_TICKS, self._is_whole):
            raise Violation(f"The volume did not become whole again: {self._how_it_is()}")
        self.world.check_log(self.world.serving, "everything healed")
        self.world.counts["healed"] += 1

    def _run_until(self, end: float, done: Callable[[], bool]) -> bool:
        look_at = self.world.now
        while self.world.events and self.world.events[0][0] <= end:
            self.world.now, _, do = heapq.heappop(self.world.events)
            do()
            self.world.counts["events"] += 1
            self.world.check_last()
            if self.world.now >= look_at:
                look_at = self.world.now + 25
                if done():
                    return True
        self.world.now = end
        return done()

    def _heal(self) -> None:
        world = self.world
        world.say("everything heals")
        world.is_healing, world.loss = True, 0.0
        for node in world.nodes.values():
            node.reached, node.slowness = True, 1.0
            world.wake(node)
        self.server.ensure_started()

    def _is_whole(self) -> bool:
        primary = self.world.primary
        return (
            self.world.volume.epoch.begins_at is not None
            and self.world.serving is primary
            and primary.runs
            and not primary.pending
            and all(
                node.runs
                and node.mark == self.world.volume.epoch.number
                and node.begins_at == 0
                and node.log == primary.log
                for node in self.world.nodes.values()
            )
        )

    def _how_it_is(self) -> str:
        each = ", ".join(
            f"{node.name} {'runs' if node.runs else 'ended'} mark {node.mark} at {len(node.log)}"
            f"{'' if node.is_there else ' lost'}{f' from {node.begins_at}' if node.begins_at else ''}"
            for node in self.world.nodes.values()
        )
        epochs = " ".join(f"{one.number}:{one.copy}@{one.begins_at}" for one in self.world.volume.epochs)
        return f"primary {self.world.volume.primary}; {each}; {epochs}"


def run(seed: int, flaw: Flaw = Flaw.NONE) -> Report:
    """Play one seed to its end, or to the first thing that must not happen."""
    play = Play(seed, flaw)
    world, failure = play.world, ""
    try:
        play.play()
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
