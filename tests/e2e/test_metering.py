"""What a cluster has used, over deaths of the server, sleeps and jumps of the clock."""

import random
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from e2e.test_clock import HOUR, turn
from e2e.turned import is_written
from harness import Server
from waiting import wait_until

KILLS = 4
STATEMENT_S = 0.1
SETTLED_S = 0.5
"""Longer than it may take until a change is written down."""
LEAST, MOST = 0.5, 4.0
ROUNDING_S = 0.01


class Asked:
    """All that cluster main has used when it was asked, and between which moments that was."""

    def __init__(self, server: Server) -> None:
        self.after_s = time.monotonic()
        report = server.api.usage("main", since="2020-01-01T00:00:00Z", until="2100-01-01T00:00:00Z", by="total")
        self.before_s = time.monotonic()
        (row,) = report["rows"]
        self.seconds, self.awake_s, self.acu_s = row["seconds"], row["awake_s"], row["acu_s"]
        self.storage_byte_s = row["storage_byte_s"]
        self.peak_acu = row["peak_acu"]


def passed(server: Server, since: Asked, seconds: float) -> Asked:
    """Wait until so many seconds more are metered."""

    def ask() -> Asked | None:
        asked = Asked(server)
        return asked if asked.seconds >= since.seconds + seconds else None

    found = wait_until(ask, "time is metered")
    assert found is not None
    return found


def check_seconds(first: Asked, last: Asked) -> None:
    """Check that each second between the two was counted, once."""
    metered_s = last.seconds - first.seconds
    assert last.after_s - first.before_s - ROUNDING_S <= metered_s <= last.before_s - first.after_s + ROUNDING_S


class Visitor(threading.Thread):
    """A session that now and then has a statement that takes a while, and notes when that was."""

    def __init__(self, url: str, choice: random.Random) -> None:
        super().__init__()
        self._choice = choice
        self._url = url
        self._ends = threading.Event()
        self.served: list[tuple[float, float]] = []
        self.error = ""

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True, sslmode="disable") as session:
                while not self._ends.wait(self._choice.uniform(0.02, 0.6)):
                    began_s = time.monotonic()
                    session.execute(f"SELECT pg_sleep({STATEMENT_S})")
                    self.served.append((began_s, time.monotonic()))
        except psycopg.Error as error:
            self.error = repr(error)

    def end(self) -> None:
        self._ends.set()
        self.join(60)
        assert (self.is_alive(), self.error) == (False, "")


def live_and_die(server: Server, visitor: Visitor, choice: random.Random) -> list[tuple[float, float]]:
    """Kill the server at random moments and start it again; answer from when to when it was there, but the last."""
    lives: list[tuple[float, float]] = []
    began_s = time.monotonic()
    for _ in range(KILLS):
        threading.Event().wait(choice.uniform(0.0, 1.2))
        server.kill()
        lives.append((began_s, time.monotonic()))
        server.start()
        began_s = time.monotonic()
    count = len(visitor.served)

    def has_served() -> bool:
        # The statement after the one that may have begun before this server was up.
        return len(visitor.served) > count + 1 and time.monotonic() > visitor.served[count + 1][1] + SETTLED_S

    wait_until(has_served, "the visitor was served by the last server, and all of it is settled")
    return [*lives, (began_s, time.monotonic())]


def test_no_second_is_lost_or_counted_twice_when_the_server_is_killed_at_random(stopped_server: Server) -> None:
    server, seed = stopped_server, random.randrange(2**32)
    choice = random.Random(seed)
    server.env |= {"ZORYA_FREEZE_AFTER": "0.05", "ZORYA_PAUSE_AFTER": "never"}
    server.start()
    with psycopg.connect(server.url(), sslmode="disable") as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
    first = Asked(server)
    visitor = Visitor(server.url(), choice)
    visitor.start()
    try:
        lives = live_and_die(server, visitor, choice)
    finally:
        visitor.end()
    frozen = Asked(server) if server.wait_for("frozen") else first
    check_seconds(first, frozen)
    surely_s = STATEMENT_S * sum(
        any(began_s <= asked_s and answered_s <= ended_s - SETTLED_S for began_s, ended_s in lives)
        for asked_s, answered_s in visitor.served
    )
    awake_s, acu_s = frozen.awake_s - first.awake_s, frozen.acu_s - first.acu_s
    assert 0 < surely_s <= awake_s < frozen.seconds - first.seconds, f"seed {seed}"
    assert LEAST * awake_s - ROUNDING_S <= acu_s <= frozen.peak_acu * awake_s + ROUNDING_S, f"seed {seed}"
    check_sleep_costs_nothing(server, frozen)


def check_sleep_costs_nothing(server: Server, frozen: Asked) -> None:
    """Check that what is frozen or stopped has used nothing but its storage."""
    later = passed(server, frozen, 0.5)
    assert (later.awake_s, later.acu_s) == (frozen.awake_s, frozen.acu_s)
    server.api.pause("main", force=False)
    stopped = Asked(server)
    # A pause is work: it has the engine's checkpoint in it.
    assert stopped.awake_s > frozen.awake_s
    wait_until(partial(is_written, server, 0), "its end is written down")
    server.kill()
    server.start()
    later = passed(server, stopped, 0.5)
    check_seconds(frozen, later)
    assert (later.awake_s, later.acu_s) == (stopped.awake_s, stopped.acu_s)
    size = server.show()["storage_bytes"]
    metered_s = later.seconds - stopped.seconds
    # The size is looked at anew at the end of a pause, which may be a moment after.
    assert later.storage_byte_s - stopped.storage_byte_s == pytest.approx(size * metered_s, rel=0.01)


def test_capacity_and_its_metering_go_on_when_the_clock_jumps(stopped_server: Server) -> None:
    server = stopped_server
    offset = server.home.parent / "offset"
    offset.write_text("0")
    server.env |= {"CLOCK_OFFSET_FILE": str(offset), "ZORYA_FREEZE_AFTER": "never"}
    server.command = [sys.executable, str(Path(__file__).with_name("jumping_clock.py"))]
    server.start()
    with psycopg.connect(server.url(), sslmode="disable") as session:
        assert session.execute("SELECT 1").fetchone() == (1,)
        server.api.set_capacity("main", LEAST)
        first = Asked(server)
        phases: list[tuple[float, float, float]] = [(LEAST, first.after_s, first.before_s)]
        last = first
        # Never ahead of this process's clock: a report has nothing in it that is not over.
        for jump, capacity in ((-2 * HOUR, MOST), (-HOUR, 1.0), (-HOUR - 60, 3.0), (-HOUR, LEAST)):
            turn(offset, jump)
            asked_s = time.monotonic()
            assert server.api.set_capacity("main", capacity)["capacity"] == capacity
            phases.append((capacity, asked_s, time.monotonic()))
            last = passed(server, last, 0.3)
        phases.append((0.0, last.after_s, last.before_s))
        assert session.execute("SELECT 1").fetchone() == (1,)
    check_seconds(first, last)
    # Each capacity held at least from when it was set until the next was asked for.
    at_least = at_most = 0.0
    for (capacity, asked_s, set_s), (_, next_asked_s, next_set_s) in pairwise(phases):
        at_least += capacity * (next_asked_s - set_s)
        at_most += capacity * (next_set_s - asked_s)
    used = last.acu_s - first.acu_s
    assert at_least - MOST * ROUNDING_S <= used <= at_most + MOST * ROUNDING_S
    assert last.awake_s - first.awake_s == pytest.approx(last.seconds - first.seconds)
