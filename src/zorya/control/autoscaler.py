"""The capacity of all running clusters: who is looked at when, and how much of the node each gets.

`scaling.policy` says what one cluster should have and `scaling.shares` who gets how much of too little; `sizing.Sizing`
carries it out for its cluster. With no cluster running nothing is done here at all.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from zorya.core import logging
from zorya.core.clock import Clock
from zorya.scaling import shares
from zorya.scaling.shares import Claim

TICK_S = 0.1
"""How often it is seen whether a running cluster suddenly wants more: one counter of each is read."""

NODE_EVERY_S = 5.0
"""How often it is seen what the node has, which others may change: a container's limits, the cores of this process."""

_log = logging.get("zorya.control")


class Scalable(Protocol):
    """One cluster that runs. `sizing.Sizing` is the implementation."""

    @property
    def capacity(self) -> float:
        """What it has, in ACUs."""

    def awake(self) -> None:
        """It runs from now on."""

    def asleep(self) -> None:
        """It runs no more."""

    def is_due(self, now_s: float) -> bool:
        """Whether it is to be looked at. Cheap."""

    def look(self, now_s: float) -> None:
        """See what it uses and decide what it should have."""

    def claim(self) -> Claim:
        """Answer what it wants, as was decided last."""

    def note_share(self, share: float, node_acu: float) -> None:
        """It gets this much of what there is for all."""

    def needs(self, capacity: float) -> bool:
        """Whether anything is to be done for it to have this capacity."""

    async def give(self, capacity: float) -> None:
        """Have it have this capacity, as far as that can be done now."""


class Autoscaler:
    """Looks after the running clusters' capacity, in rounds of which one runs at a time."""

    def __init__(self, *, clock: Clock, read_node: Callable[[], float]) -> None:
        """`read_node` answers what this host has for all clusters together, in ACUs."""
        self._clock = clock
        self._read_node = read_node
        self._awake: dict[str, Scalable] = {}
        self._any = asyncio.Event()
        self._turn = asyncio.Lock()
        self._node_acu = read_node()
        self._node_read_s = clock.monotonic_s()

    @property
    def node_acu(self) -> float:
        """What this host has for all clusters together, in ACUs."""
        now_s = self._clock.monotonic_s()
        if now_s - self._node_read_s >= NODE_EVERY_S:
            before, self._node_acu, self._node_read_s = self._node_acu, self._read_node(), now_s
            if self._node_acu != before:
                _log.warning("the node's capacity has changed", before=before, now=self._node_acu)
        return self._node_acu

    def add(self, cluster_id: str, sizing: Scalable) -> None:
        """Look after this one from now on. May be repeated."""
        if self._awake.get(cluster_id) is not sizing:
            self._awake[cluster_id] = sizing
            sizing.awake()
            self._any.set()

    def remove(self, cluster_id: str) -> None:
        """Look after it no more. May be repeated."""
        found = self._awake.pop(cluster_id, None)
        if found is not None:
            found.asleep()
        if not self._awake:
            self._any.clear()

    async def run(self) -> None:
        """Do rounds while anything runs, until cancelled."""
        while True:
            await self._any.wait()
            now_s = self._clock.monotonic_s()
            due = {cluster_id for cluster_id, one in self._awake.items() if one.is_due(now_s)}
            if due:
                await self._round(due)
            await asyncio.sleep(TICK_S)

    async def settle(self) -> None:
        """Give every running cluster what was decided for it, without looking at any. Returns when that is done."""
        await self._round(())

    async def _round(self, due: Collection[str]) -> None:
        async with self._turn:
            now_s = self._clock.monotonic_s()
            for cluster_id in due:
                found = self._awake.get(cluster_id)
                if found is not None:
                    self._look(cluster_id, found, now_s)
            given = self._allot()
            awake = [
                (one, given[cluster_id]) for cluster_id, one in self._awake.items() if one.needs(given[cluster_id])
            ]
            # Those that give something back go first, so that there is enough for the others.
            smaller = [(one, acu) for one, acu in awake if acu < one.capacity]
            larger = [(one, acu) for one, acu in awake if acu >= one.capacity]
            for some in (smaller, larger):
                await asyncio.gather(*(self._give(one, acu) for one, acu in some))

    def _look(self, cluster_id: str, sizing: Scalable, now_s: float) -> None:
        try:
            sizing.look(now_s)
        except Exception:  # noqa: BLE001 - a defect in one cluster's figures must not end the others'
            _log.exception("a cluster's load could not be judged", cluster_id=cluster_id)

    def _allot(self) -> Mapping[str, float]:
        claims = {cluster_id: one.claim() for cluster_id, one in self._awake.items()}
        node_acu = self.node_acu
        if sum(one.wanted for one in claims.values()) <= node_acu:
            given: Mapping[str, float] = {cluster_id: one.wanted for cluster_id, one in claims.items()}
        else:
            given = shares.allot(list(claims.values()), node_acu)
        for cluster_id, one in self._awake.items():
            one.note_share(given[cluster_id], node_acu)
        return given

    async def _give(self, sizing: Scalable, capacity: float) -> None:
        try:
            await sizing.give(capacity)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("a cluster's capacity could not be changed", capacity=capacity)
