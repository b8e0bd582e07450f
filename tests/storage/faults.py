"""What goes wrong in the small world: processes crash, sleep or are slow, disks are lost, the coordinator dies.

Disks are lost only as far as the promise covers that: no more than two of six at a time, or one of three, those that
are not mended yet among them.
"""

from collections.abc import Callable

from storage.coordinator import Server
from storage.world import Node, World
from zorya.core.volume import ZONES


class Faults:
    """Has some kinds of faults strike, others under each seed."""

    def __init__(self, world: World, server: Server) -> None:
        self.world = world
        self.random = world.random
        self.server = server
        self._every = self.random.choice([10.0, 25.0, 60.0])
        self._haste = self.random.choice([0.0, 0.5, 0.9])
        """How often a new primary fails at once."""
        self._kinds = self._draw_kinds()
        world.when_new_primary = self._strike_new_primary

    def _draw_kinds(self) -> list[Callable[[], None]]:
        every = [
            self._crash,
            self._crash,
            self._crash_primary,
            self.server.crash,
            self.server.crash,
            self._put_to_sleep,
            self._put_primary_to_sleep,
            self._put_out_of_reach,
            self._slow_down,
            self._lose_primary,
            self._lose_copies,
            self._lose_zone,
        ]
        return self.random.sample(every, self.random.randint(4, len(every)))

    def strike_later(self) -> None:
        def strike() -> None:
            if not self.world.is_healing:
                self.random.choice(self._kinds)()
                self.strike_later()

        self.world.after(self.world.delay(self._every), strike)

    def _any(self) -> Node:
        return self.random.choice(list(self.world.nodes.values()))

    def _crash(self, node: Node | None = None) -> None:
        node = node or self._any()
        if node.runs:
            self.world.say(f"{node.name}'s process crashes")
            # Some of what was not on the disk for certain may be there.
            node.log.extend(node.pending[: self.random.randint(0, len(node.pending))])
            self.world.end(node)
            node.ends += 1
            node.ended_at = self.world.now
            self.world.counts["crashes"] += 1

    def _crash_primary(self) -> None:
        self._crash(self.world.primary)

    def _put_to_sleep(self, node: Node | None = None) -> None:
        node = node or self._any()
        if node.runs and not node.asleep:
            self.world.say(f"{node.name} is put to sleep")
            node.asleep = True
            self.world.counts["sleeps"] += 1
            life = node.life

            def wake() -> None:
                if node.asleep and node.life == life:
                    self.world.say(f"{node.name} wakes")
                    self.world.wake(node)

            self.world.after(self.world.delay(60.0), wake)

    def _put_primary_to_sleep(self) -> None:
        self._put_to_sleep(self.world.primary)

    def _put_out_of_reach(self) -> None:
        zone = self.random.choice(ZONES)
        some = [node for node in self.world.nodes.values() if node.copy.zone == zone or self.random.random() < 0.15]
        self.world.say(f"{[node.name for node in some]} are out of the coordinator's reach")
        self.world.counts["out of reach"] += 1

        def return_() -> None:
            for node in some:
                node.reached = True

        for node in some:
            node.reached = False
        self.world.after(self.world.delay(80.0), return_)

    def _slow_down(self) -> None:
        node = self._any()
        node.slowness = 40.0

        def recover() -> None:
            node.slowness = 1.0

        self.world.after(self.world.delay(80.0), recover)

    def _lose_primary(self) -> None:
        self._lose([self.world.primary])

    def _lose_copies(self) -> None:
        self._lose(self.random.sample(list(self.world.nodes.values()), self.random.randint(1, 2)))

    def _lose_zone(self) -> None:
        zone = self.random.choice(ZONES)
        self._lose([node for node in self.world.nodes.values() if node.copy.zone == zone])

    def _lose(self, nodes: list[Node]) -> None:
        """Lose these disks with all that is on them, if the promise covers that beside what is not mended yet."""
        names = {node.name for node in nodes} | {
            node.name for node in self.world.nodes.values() if self.world.is_unwell(node)
        }
        if len(names) > (2 if self.world.rule.copies == 6 else 1):
            return
        for node in nodes:
            self.world.say(f"{node.name} is lost")
            self.world.end(node)
            self.world.empty(node)
            node.mark = None
            self.world.counts["losses"] += 1

    def _strike_new_primary(self) -> None:
        if not self.world.is_healing and self.random.random() < self._haste:
            self.world.after(self.world.delay(8.0), self.random.choice([self._lose_primary, self._crash_primary]))
