"""The server's side: a keeper that ends is replaced, and one that cannot be had does no harm."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from keeper import actors
from waiting import wait_until
from zorya.compute.freezer import Freezer
from zorya.keeper import link
from zorya.keeper.client import STEADY_S, Keeper, next_pause_s

NewKeeper = Callable[..., Keeper]


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    yield opened
    for one in opened:
        one.close()


@asynccontextmanager
async def _running(keeper: Keeper) -> AsyncIterator[None]:
    task = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _wait_for_keeper(keeper: Keeper, *, other_than: int | None) -> int:
    async with asyncio.timeout(30):
        while keeper.pid in {None, other_than}:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)
    assert keeper.pid is not None
    return keeper.pid


async def test_another_keeper_gets_everything_when_one_is_killed(
    engine: Freezer, listeners: list[socket.socket], new_keeper: NewKeeper
) -> None:
    keeper = new_keeper()
    keeper.join()
    first = keeper.pid
    assert first is not None
    one, two, gone, unwanted = listeners
    keeper.keep(7400, [one, two])
    keeper.keep(7401, [gone])
    keeper.keep(7402, [unwanted])
    keeper.guard("shop", engine)
    gone.close()
    keeper.let_go(7402)
    async with _running(keeper):
        os.kill(first, signal.SIGKILL)
        second = await _wait_for_keeper(keeper, other_than=first)
        assert keeper.problem == ""
    assert actors.has_ended(first)
    actors.freeze(engine)
    keeper.abandon()
    wait_until(partial(actors.runs, engine), "the engine runs again")
    again = new_keeper()
    held = again.join()
    assert again.pid == second
    assert {port: len(sockets) for port, sockets in held.items()} == {7400: 2}
    link.close_all(held)


async def test_keeper_is_had_later_when_it_cannot_be_started_at_first(
    run: Path, engine: Freezer, listeners: list[socket.socket]
) -> None:
    folder = run / "later"
    keeper = Keeper(folder, log=run / "keeper.log", keep_s=600)
    assert keeper.join() == {}
    assert "ended at its start" in keeper.problem
    assert keeper.pid is None
    keeper.keep(7400, listeners)
    keeper.keep(7401, listeners)
    keeper.let_go(7401)
    keeper.guard("shop", engine)
    keeper.forget("shop")
    folder.mkdir()
    async with _running(keeper):
        await _wait_for_keeper(keeper, other_than=None)
    keeper.abandon()
    again = Keeper(folder, log=run / "keeper.log", keep_s=600)
    held = again.join()
    assert list(held) == [7400]
    link.close_all(held)
    again.dismiss()


def test_everything_is_allowed_when_there_is_no_keeper(
    run: Path, engine: Freezer, listeners: list[socket.socket]
) -> None:
    keeper = Keeper(run / "nowhere", log=run / "nowhere" / "keeper.log", keep_s=600)
    assert keeper.join() == {}
    assert "No such file" in keeper.problem
    keeper.keep(7400, listeners)
    keeper.let_go(7401)
    keeper.guard("shop", engine)
    keeper.forget("other")
    keeper.abandon()
    keeper.dismiss()


async def test_keeper_that_reads_nothing_is_given_up_and_joined_later(
    engine: Freezer, listeners: list[socket.socket], new_keeper: NewKeeper
) -> None:
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    assert pid is not None
    keeper.keep(7400, listeners)
    os.kill(pid, signal.SIGSTOP)
    for number in range(100_000):
        keeper.guard(f"shop{number % 10}", engine)
        if keeper.problem:
            break
    assert "cannot be reached" in keeper.problem
    os.kill(pid, signal.SIGCONT)
    async with _running(keeper):
        assert await _wait_for_keeper(keeper, other_than=None) == pid
    assert keeper.problem == ""


def test_keeper_is_waited_for_when_it_is_behind(listeners: list[socket.socket], new_keeper: NewKeeper) -> None:
    keeper = new_keeper()
    keeper.join()
    # More than the kernel takes before the keeper reads.
    for number in range(2000):
        keeper.keep(1 + number % 50, listeners[:1])
    assert keeper.problem == ""
    keeper.abandon()
    held = new_keeper().join()
    assert set(held) == set(range(1, 51))
    link.close_all(held)


async def test_link_stays_when_watching_ends(run: Path, engine: Freezer, new_keeper: NewKeeper) -> None:
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    assert pid is not None
    keeper.guard("shop", engine)
    for _ in range(2):
        async with _running(keeper):
            await asyncio.sleep(0)
    assert keeper.pid == pid
    assert not actors.has_ended(pid)
    keeper.dismiss()
    assert actors.has_ended(pid)


async def test_keeper_that_is_being_started_is_known_when_watching_is_cancelled(
    run: Path, new_keeper: NewKeeper
) -> None:
    keeper = new_keeper()
    task = asyncio.create_task(keeper.run())
    while not (run / "keeper.log").exists():  # noqa: ASYNC110 - the start is seen from outside alone
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert keeper.pid is not None


def test_keeper_that_hangs_is_killed_when_it_is_dismissed(
    new_keeper: NewKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zorya.keeper.client.DISMISS_S", 0.1)
    keeper = new_keeper()
    keeper.join()
    pid = keeper.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    keeper.dismiss()
    wait_until(partial(actors.has_ended, pid), "the keeper ends")


def test_pauses_grow_while_keepers_die_young() -> None:
    pauses = [next_pause_s(None, 0)]
    for _ in range(8):
        pauses.append(next_pause_s(pauses[-1], STEADY_S - 1))
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert next_pause_s(60, STEADY_S) == 0
