"""What is told of processes that the kernel has ended for want of memory, as the engine's log says sooner or later."""

from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest

from zorya.compute.usage import Usage
from zorya.control.events import EventKind
from zorya.control.live import LiveEngine
from zorya.control.seat import Seat
from zorya.control.sizing import Sizing
from zorya.control.standing import Standing
from zorya.control.surroundings import Surroundings
from zorya.core.capacity import Acu, Bounds
from zorya.core.model import Compute


class World:
    """An engine whose processes can be killed, and a log in which it says so."""

    def __init__(self) -> None:
        self.kills = 0
        self.said: Sequence[str] = ()
        self.now_s = 0.0
        self.told: list[str] = []
        self.live: Any = Mock(LiveEngine, activity=None, counted=1)
        self.live.process = Mock(pid=1)
        self.live.group = Mock()
        self.live.group.usage = self._usage
        self.seat: Any = Mock(Seat, live=self.live)
        around: Any = Mock(Surroundings, acu=Acu(memory_bytes=2**31, cores=0.25), burst=True)
        around.clock = Mock(monotonic_s=lambda: self.now_s)
        around.runner = Mock(killed_since=lambda *_: self.said, log_mark=lambda _: 0)
        standing: Any = Mock(Standing, capacity=1.0, tell_later=self._tell)
        standing.record = Mock(compute=Compute.RUNNING, bounds=Bounds(least=0.5, most=4.0))
        self.sizing = Sizing(around, standing=standing, seat=self.seat, changed=lambda: None)
        self.look()

    def look(self) -> list[str]:
        """Have it looked at a second later; answer all that was told."""
        self.now_s += 1
        self.sizing.look(self.now_s)
        return self.told

    def _usage(self) -> Usage:
        return Usage(
            cpu_s=0.0,
            throttled_s=None,
            waited_s=None,
            memory_bytes=2**20,
            unreclaimable_bytes=2**20,
            warm_bytes=0,
            refaults=None,
            oom_kills=self.kills,
        )

    def _tell(self, kind: EventKind, message: str) -> None:
        assert kind is EventKind.OUT_OF_MEMORY
        self.told.append(message.partition(".")[0])


@pytest.fixture
def world() -> World:
    return World()


def test_a_kill_is_told_at_once_when_the_engine_has_said_of_it(world: World) -> None:
    assert world.look() == []
    world.kills, world.said = 1, ["client backend"]
    assert world.look() == ["It ended 1 (client backend)"]
    assert world.look() == ["It ended 1 (client backend)"]


def test_a_kill_is_told_at_the_next_look_when_the_engine_says_of_it_later(world: World) -> None:
    world.kills = 1
    assert world.look() == []
    world.said = ["client backend"]
    assert world.look() == ["It ended 1 (client backend)"]


def test_a_kill_is_told_without_the_kind_when_the_engine_does_not_say_of_it(world: World) -> None:
    world.kills = 2
    assert world.look() == []
    assert world.look() == ["It ended 2"]
    assert world.look() == ["It ended 2"]


def test_a_kill_is_told_when_the_engine_is_gone_at_the_next_look(world: World) -> None:
    world.kills = 1
    assert world.look() == []
    world.seat.live = None
    assert world.look() == ["It ended 1"]
