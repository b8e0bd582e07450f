"""Those who dawdle at the start make room for newcomers."""

import asyncio
import contextlib

import pytest

from gateway.fakes import GREETING, FakeEndpoint, FakeKeep, connected, eventually, running, startup
from zorya.core.model import Entrance
from zorya.core.settings import Settings
from zorya.gateway import handshakes
from zorya.gateway.handshakes import Handshakes


async def wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """As few of them as may be set, and little time for each."""
    monkeypatch.setattr(handshakes, "PATIENCE_S", 0.05)
    return Settings(startup_timeout_s=60, wake_timeout_s=60, max_handshakes=8)


async def test_the_first_to_come_is_cut_off_when_there_is_one_too_many() -> None:
    calls: list[int] = []
    clients = Handshakes(2, has_room=lambda: calls.append(len(clients)))
    tasks = [asyncio.create_task(wait_for_ever(), name=str(number)) for number in range(4)]
    for task in tasks[:2]:
        clients.begin(task, 10.0)
    assert [clients.room_in_s(now_s) for now_s in (10.0, 11.5, 12.0, 20.0, 9.0)] == [2.0, 0.5, 0.0, 0.0, 3.0]
    # Who has said enough is not counted, nor cut off.
    clients.end(tasks[0])
    clients.end(tasks[0])
    clients.end(None)
    assert (calls, clients.room_in_s(10.0)) == ([1], 0.0)
    clients.begin(tasks[2], 10.0)
    await asyncio.sleep(0)
    assert (len(clients), [task.cancelling() for task in tasks]) == (2, [0, 0, 0, 0])
    clients.begin(tasks[3], 12.0)
    assert (len(clients), [task.cancelling() for task in tasks]) == (2, [0, 1, 0, 0])
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_newcomer_is_served_however_many_say_nothing(
    few: Settings, keep: FakeKeep, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    endpoint.runs(entrance)
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running(few, keep=keep))
        port = gateway.open(endpoint)
        silent = [await stack.enter_async_context(connected(port)) for _ in range(20)]
        client = await stack.enter_async_context(connected(port))
        await client.ask_for_a_session()
        for one in silent[:12]:
            await one.wait_until_cut_off()
        # There is room for the others.
        await silent[-1].ask_for_a_session()


async def test_clients_that_wait_for_a_start_are_not_cut_off(
    few: Settings, keep: FakeKeep, endpoint: FakeEndpoint, entrance: Entrance
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running(few, keep=keep))
        port = gateway.open(endpoint)
        held = []
        for number in range(20):
            held.append(await stack.enter_async_context(connected(port)))
            held[-1].send(startup())
            await eventually(lambda number=number: endpoint.present == number + 1, "the client is held")  # type: ignore[misc]
        endpoint.starts(entrance)
        for client in held:
            assert await client.read(len(GREETING)) == GREETING
