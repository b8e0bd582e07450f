"""Rounds over clusters that are values: who is looked at, who gets how much, and in which order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from zorya.control import autoscaler as autoscalers
from zorya.control.autoscaler import Autoscaler
from zorya.scaling.shares import Claim


class Hands:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)

    def monotonic_s(self) -> float:
        return self.at_s


@dataclass(kw_only=True)
class Cluster:
    """Wants what it is told to want, and writes down what is done to it. Implements autoscaler.Scalable."""

    name: str
    wanted: float
    done: list[tuple[str, float]]
    capacity: float = 0.5
    least: float = 0.5
    most: float = 8.0
    looks: int = 0
    shares: list[float] = field(default_factory=list)
    breaks: bool = False

    def awake(self) -> None:
        pass

    def asleep(self) -> None:
        self.shares.clear()

    def is_due(self, now_s: float) -> bool:  # noqa: ARG002 - the protocol's
        return True

    def look(self, now_s: float) -> None:  # noqa: ARG002 - the protocol's
        self.looks += 1
        if self.breaks:
            raise RuntimeError("its figures make no sense")

    def claim(self) -> Claim:
        return Claim(name=self.name, wanted=self.wanted, least=self.least, weight=self.most)

    def note_share(self, share: float, node_acu: float) -> None:  # noqa: ARG002 - the protocol's
        self.shares.append(share)

    def needs(self, capacity: float) -> bool:
        return capacity != self.capacity

    async def give(self, capacity: float) -> None:
        await asyncio.sleep(0)
        self.done.append((self.name, capacity))
        self.capacity = capacity


class Node:
    """A host, the clusters on it, and their autoscaler."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.clock = Hands()
        self.done: list[tuple[str, float]] = []
        self.autoscaler = Autoscaler(clock=self.clock, read_node=lambda: self.capacity)

    def add(self, name: str, wanted: float, *, capacity: float = 0.5, most: float = 8.0) -> Cluster:
        made = Cluster(name=name, wanted=wanted, done=self.done, capacity=capacity, most=most)
        self.autoscaler.add(name, made)
        return made

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.autoscaler.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_everybody_gets_what_it_wants_where_there_is_enough() -> None:
    node = Node(8)
    node.add("a", 2)
    node.add("b", 5)
    await node.autoscaler.settle()
    assert sorted(node.done) == [("a", 2), ("b", 5)]


async def test_who_gives_something_back_goes_before_who_gets_more() -> None:
    node = Node(8)
    node.add("a", 6, capacity=1)
    node.add("b", 1, capacity=6)
    node.add("c", 1, capacity=1)
    await node.autoscaler.settle()
    assert node.done == [("b", 1), ("a", 6)]


async def test_clusters_share_in_proportion_when_the_node_is_full() -> None:
    node = Node(6)
    little, much = node.add("little", 4, most=4), node.add("much", 8, most=8)
    await node.autoscaler.settle()
    assert little.capacity + much.capacity == 6
    assert little.capacity < much.capacity
    assert (little.shares, much.shares) == ([little.capacity], [much.capacity])


async def test_clusters_shrink_when_the_node_does_under_them() -> None:
    node = Node(8)
    one, other = node.add("one", 4, most=4), node.add("other", 4, most=4)
    await node.autoscaler.settle()
    assert (one.capacity, other.capacity) == (4, 4)
    node.capacity = 3
    await node.autoscaler.settle()
    assert (one.capacity, other.capacity) == (4, 4)  # it is not asked for all the time
    node.clock.at_s += autoscalers.NODE_EVERY_S
    await node.autoscaler.settle()
    assert one.capacity + other.capacity == 3


async def test_nothing_is_done_for_a_cluster_that_sleeps() -> None:
    node = Node(8)
    one = node.add("one", 4)
    node.autoscaler.remove("one")
    node.autoscaler.remove("one")
    async with node.running():
        await asyncio.sleep(0)
        assert (one.looks, node.done) == (0, [])
        node.autoscaler.add("one", one)
        async with asyncio.timeout(10):
            while one.looks < 2:  # noqa: ASYNC110 - rounds tell nobody of themselves
                await asyncio.sleep(0.001)
    assert node.done == [("one", 4)]


async def test_the_others_are_looked_after_when_one_makes_no_sense(caplog: pytest.LogCaptureFixture) -> None:
    node = Node(8)
    broken, sound = node.add("broken", 1), node.add("sound", 2)
    broken.breaks = True
    async with node.running(), asyncio.timeout(10):
        while sound.looks < 1 or sound.capacity != 2:  # noqa: ASYNC110 - rounds tell nobody of themselves
            await asyncio.sleep(0.001)
    assert broken.looks >= 1
