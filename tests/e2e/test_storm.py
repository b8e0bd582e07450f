"""Very many connections at the same moment."""

import asyncio
import resource
import subprocess
from collections.abc import Iterator

import asyncpg
import pytest

from harness import Server
from held import Held
from waiting import wait_until

STORM = 1000


@pytest.fixture(autouse=True)
def _enough_descriptors() -> Iterator[None]:
    """Let this process, and the server that it starts, open as many files as the host allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * STORM:
        pytest.skip(f"this host allows a process {hard} open files; {3 * STORM} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def server(fresh_server: Server) -> Server:
    """A server that was started with as many."""
    return fresh_server


async def storm(url: str, clients: int) -> tuple[int, list[BaseException]]:
    """Connect so many clients at once; answer how many were served, and the errors of the others.

    Those that are served stay until every one has its answer, so that none makes room for another.
    """
    async with asyncio.timeout(100):
        found = await asyncio.gather(
            *(asyncpg.connect(url, timeout=100) for _ in range(clients)), return_exceptions=True
        )
        sessions = [one for one in found if isinstance(one, asyncpg.Connection)]
        answers = await asyncio.gather(*(session.fetchval("SELECT 1") for session in sessions))
        assert answers == [1] * len(sessions)
        for session in sessions:
            session.terminate()
    return len(sessions), [one for one in found if isinstance(one, BaseException)]


def test_thousand_clients_are_served_or_told_by_postgres_that_it_is_full_when_they_come_at_once(
    server: Server,
) -> None:
    # 4 ACUs, the default, allow 800 connections, three of them kept for superusers.
    served, refused = asyncio.run(storm(server.url(), STORM))
    assert served + len(refused) == STORM
    assert served >= 750
    for error in refused:
        assert isinstance(error, asyncpg.TooManyConnectionsError), repr(error)
        # Only PostgreSQL itself names the place in its source that the error comes from.
        assert error.server_source_filename, repr(error)
    assert server.besides_scaling() == ["0170", "0147", "0148"]
    assert server.query("SELECT 1") == [(1,)]
    wait_until(lambda: server.show()["sessions"] == 0, "every client is counted out")


def test_every_client_is_served_when_the_limit_is_high_enough(server: Server) -> None:
    server.run("create", "big", "--max-capacity", "8")
    served, refused = asyncio.run(storm(server.url("big"), STORM))
    assert (served, refused) == (STORM, [])
    assert server.besides_scaling("big") == ["0170", "0147", "0148"]


@pytest.mark.parametrize(
    ("step", "then"),
    [("checkpointed", ["0146"]), ("signalled", ["0145", "0147", "0148"])],
    ids=str,
)
def test_no_client_fails_when_three_hundred_come_during_a_pause(
    stopped_server: Server, step: str, then: list[str]
) -> None:
    server = stopped_server
    held = Held(server, f"pause.{step}")
    server.start(**held.env)
    server.run("resume", "main")
    url = server.url()
    pausing = subprocess.Popen([*server.command, "pause", "main"], env=server.env, stderr=subprocess.DEVNULL)
    held.wait()

    async def come_then_release() -> tuple[int, list[BaseException]]:
        coming = asyncio.create_task(storm(url, 300))
        await asyncio.to_thread(wait_until, lambda: server.show()["sessions"] == 300, "every client is held")
        held.release()
        return await coming

    assert asyncio.run(come_then_release()) == (300, [])
    pausing.wait(30)
    assert server.besides_scaling() == ["0170", "0147", "0148", "0144", *then]
