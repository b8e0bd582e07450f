"""No second is counted twice or lost, wherever servers are killed."""

import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from metering import doomed
from zorya.metering.meters import Meters

KILLS = 15
LONGEST_S = 0.15
ROOT = Path(__file__).parents[2]


class Change(NamedTuple):
    """What a server said that it would tell its meters."""

    cluster: str
    kind: str
    at_ms: int
    capacity: int


class Row(NamedTuple):
    """What the file says of a cluster."""

    is_watched: int
    capacity: int
    until_ms: int


@dataclass
class Expected:
    """What a cluster must have used by now."""

    at_ms: int
    first_ms: int
    capacity: int = 0
    awake_ms: int = 0
    total: int = 0

    def go(self, at_ms: int, capacity: int) -> None:
        """Time went by until then; from then on it has this capacity."""
        assert at_ms >= self.at_ms
        self.total += self.capacity * (at_ms - self.at_ms)
        self.awake_ms += (at_ms - self.at_ms) if self.capacity else 0
        self.at_ms, self.capacity = at_ms, capacity


@pytest.fixture
def killer() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, doomed.__file__],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def look(file: Path) -> tuple[int, dict[str, Row]]:
    """Answer when the file says that a server was there last, and each cluster's row."""
    with closing(sqlite3.connect(file)) as connection:
        try:
            (seen_ms,) = connection.execute("SELECT seen_ms FROM server").fetchone()
        except (sqlite3.OperationalError, TypeError):
            # Killed before it had made the file.
            return 0, {}
        rows = connection.execute("SELECT cluster_id, is_watched, capacity, until_ms FROM meters").fetchall()
    return seen_ms, {cluster: Row(*rest) for cluster, *rest in rows}


def follow(expected: dict[str, Expected], changes: list[Change], rows: dict[str, Row], *, seen_ms: int) -> None:
    """Bring what is expected up to date with those changes that have reached the file."""
    for cluster, row in rows.items():
        if not row.is_watched:
            continue
        told = [change for change in changes if change.cluster == cluster]
        assert (row.until_ms, row.capacity) in {(change.at_ms, change.capacity) for change in told}
        missing = [change for change in told if change.at_ms > row.until_ms]
        assert all(change.at_ms >= seen_ms for change in missing), "what the server was there for is in the file"
        mine = expected.setdefault(cluster, Expected(at_ms=told[0].at_ms, first_ms=told[0].at_ms))
        for change in told:
            if change.at_ms < row.until_ms:
                mine.go(change.at_ms, change.capacity)
        mine.go(row.until_ms, row.capacity)


@pytest.mark.parametrize("went_on", [True, False])
async def test_no_second_is_lost_or_counted_twice_when_servers_are_killed(
    tmp_path: Path, killer: subprocess.Popen[str], went_on: bool
) -> None:
    file, log = tmp_path / "usage.db", tmp_path / "changes"
    assert killer.stdin is not None
    assert killer.stdout is not None
    expected: dict[str, Expected] = {}
    kills = written = before_ms = 0
    # Most live long enough to write something, and those that do not are part of it.
    while kills < KILLS or written < KILLS // 2:
        kills += 1
        log.write_text("")
        killer.stdin.write(f"{file} {log} {went_on} {random.uniform(0, LONGEST_S)}\n")
        killer.stdin.flush()
        assert killer.stdout.readline() == "killed\n"
        changes = [
            Change(cluster, kind, int(at_ms), int(capacity))
            for cluster, kind, at_ms, capacity in (line.split() for line in log.read_text().splitlines())
        ]
        seen_ms, rows = look(file)
        if seen_ms == before_ms:
            # Killed before it wrote anything: the file is as the last one left it.
            continue
        before_ms = seen_ms
        written += all(row.is_watched for row in rows.values())
        follow(expected, changes, rows, seen_ms=seen_ms)
        if not went_on:
            # From here on nobody saw it, whether or not the next server comes to write.
            for cluster, row in rows.items():
                if row.is_watched:
                    expected[cluster].go(seen_ms, 0)

    clock = doomed.PinnedClock()
    end_ms = round(time.monotonic() * 1000)
    clock.pinned = end_ms / 1000
    with closing(Meters.open(file, clock)) as meters:
        now = datetime.now(UTC)
        for cluster, mine in expected.items():
            meters.take_over(cluster, cluster, capacity=0, went_on=went_on)
            mine.go(end_ms, 0)
            found = await meters.records(cluster, since=now - timedelta(days=1), until=now + timedelta(days=1))
            assert round(sum(one.seconds for one in found) * 1000) == end_ms - mine.first_ms
            assert round(sum(one.awake_s for one in found) * 1000) == mine.awake_ms
            assert round(sum(one.acu_s for one in found) * 1e6) == mine.total
            assert round(meters.total_acu_s(cluster) * 1e6) == mine.total
