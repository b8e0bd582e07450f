"""Which sessions a running engine is seen to have, as they come and go around the looks at it."""

from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

from resting import RESTING
from zorya.compute.group import ProcessGroup
from zorya.compute.processes import EngineProcess
from zorya.control.live import LOOK_EVERY_S, LiveEngine
from zorya.control.tail import LogTail
from zorya.core.clock import SystemClock
from zorya.engines.base import Activity

FIRST, HELPER, CLIENT = 1, 2, 3


class ScriptedEngine:
    """An engine without sessions that is asked by itself."""

    def __init__(self) -> None:
        self.workers = {FIRST, HELPER}
        self.asked = 0
        self.while_asked: Callable[[], None] = lambda: None

    async def observe(self, workers: Set[int], first: int) -> Activity:
        assert (first, workers) == (FIRST, self.workers)
        self.asked += 1
        self.while_asked()
        return replace(RESTING, clients=self.workers - {FIRST, HELPER}, helpers={HELPER})

    async def end_sessions(self, clients: Set[int], workers: Callable[[], Set[int]]) -> None:
        self.workers -= clients & workers()

    async def close(self) -> None:
        pass

    def live(self, tmp_path: Path) -> LiveEngine:
        return LiveEngine(
            "shop",
            Mock(EngineProcess, pid=FIRST),
            Mock(ProcessGroup),
            workers=lambda: frozenset(self.workers),
            new_watcher=lambda: self,
            tail=LogTail(tmp_path / "log", find=lambda _: []),
            clock=SystemClock(),
        )


async def test_client_that_came_while_the_engine_was_asked_is_counted_until_it_has_left(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    live = engine.live(tmp_path)
    engine.while_asked = lambda: engine.workers.add(CLIENT)
    await live.look(LOOK_EVERY_S)
    assert (live.counted, live.sessions(0)) == (1, 1)
    engine.while_asked = lambda: None
    engine.workers.remove(CLIENT)
    # Its workers are those that there were before it came.
    await live.look(LOOK_EVERY_S)
    assert (live.counted, live.sessions(0)) == (0, 0)


async def test_engine_without_sessions_is_asked_again_only_when_its_workers_change(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    live = engine.live(tmp_path)
    for _ in range(3):
        await live.look(LOOK_EVERY_S)
    assert engine.asked == 1
    engine.workers.add(CLIENT)
    await live.look(LOOK_EVERY_S)
    assert (engine.asked, live.counted) == (2, 1)


async def test_rest_begins_anew_with_a_client_that_no_look_has_shown(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    live = engine.live(tmp_path)
    await live.look(LOOK_EVERY_S)
    assert live.quiet is not None
    began_s = live.quiet.since_s
    await live.look(LOOK_EVERY_S)
    assert live.quiet.since_s == began_s
    live.begin_rest_anew()
    await live.look(LOOK_EVERY_S)
    assert began_s is not None
    assert live.quiet is not None
    assert live.quiet.since_s is not None
    assert live.quiet.since_s > began_s
