import asyncio

import pytest

from zorya.control.waiting import WaitingRoom
from zorya.core import errors
from zorya.core.model import Address, Entrance, Handoff

ENTRANCE = Entrance(
    address=Address(host="127.0.0.1", port=1), handoff=Handoff(inlet=None, reason="There is no library.")
)


async def wait_for_waiters(room: WaitingRoom, number: int) -> None:
    async with asyncio.timeout(10):
        while room.waiters != number:  # noqa: ASYNC110 - a count, not an event
            await asyncio.sleep(0)


async def test_all_who_wait_are_let_go_at_once() -> None:
    room = WaitingRoom("main", timeout_s=30)
    held = [asyncio.create_task(room.wait()) for _ in range(100)]
    await wait_for_waiters(room, 100)
    room.settle(ENTRANCE)
    assert await asyncio.gather(*held) == [ENTRANCE] * 100
    assert room.waiters == 0


async def test_each_gets_an_error_of_its_own_when_there_is_no_engine() -> None:
    room = WaitingRoom("main", timeout_s=30)
    held = [asyncio.create_task(room.wait()) for _ in range(3)]
    await wait_for_waiters(room, 3)
    room.settle(errors.StartFailed("no", hint="h", client_message="c"))
    found = await asyncio.gather(*held, return_exceptions=True)
    assert [(type(one), str(one)) for one in found] == [(errors.StartFailed, "no h")] * 3
    assert len({id(one) for one in found}) == 3


async def test_one_who_waited_too_long_is_told_and_the_others_stay() -> None:
    room = WaitingRoom("main", timeout_s=0.01)
    with pytest.raises(errors.WakeTimeout, match="the start goes on"):
        await room.wait()
    assert room.waiters == 0
    room.settle(ENTRANCE)


async def test_one_who_leaves_takes_nobody_along() -> None:
    room = WaitingRoom("main", timeout_s=30)
    leaving, staying = asyncio.create_task(room.wait()), asyncio.create_task(room.wait())
    await wait_for_waiters(room, 2)
    leaving.cancel()
    await wait_for_waiters(room, 1)
    room.settle(ENTRANCE)
    assert await staying == ENTRANCE


async def test_who_comes_after_the_outcome_waits_for_the_next() -> None:
    room = WaitingRoom("main", timeout_s=30)
    room.settle(errors.StartFailed("past"))
    held = asyncio.create_task(room.wait())
    await wait_for_waiters(room, 1)
    room.settle(ENTRANCE)
    assert await held == ENTRANCE
