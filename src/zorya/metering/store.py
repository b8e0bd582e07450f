"""The meters' SQLite file. Blocking, and for one thread.

It holds one row of the server (when it was last there), one for each cluster's meter, and what was used in which hours.
A batch changes all of them or none, so what has been added to the hours is at any moment just what the meters and the
server's sighting say is accounted for. A batch has a number and is done once, however often it is tried.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zorya.core import sqlite_file
from zorya.metering.ledger import Amounts, Hours, Left, Meter, Place, Sighting

FORMAT = 1
"""Rises when the file's form changes. A file of a higher format is left alone."""

_KIND = sqlite_file.Kind(
    subject="The file {path}, which says what clusters have used,",
    writing="Writing down what clusters use",
    hint="If it is damaged, put a copy from a backup in its place, or move it away to begin anew.",
    client_message="The server cannot say what clusters have used.",
)

_SCHEMA = f"""
BEGIN;
CREATE TABLE server (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    boot_id   TEXT NOT NULL,
    seen_ms   INTEGER NOT NULL,
    offset_ms INTEGER NOT NULL,
    batch     INTEGER NOT NULL
) STRICT;
CREATE TABLE clusters (
    id   TEXT PRIMARY KEY,
    name TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX clusters_by_name ON clusters (name);
CREATE TABLE meters (
    cluster_id    TEXT PRIMARY KEY,
    is_watched    INTEGER NOT NULL,
    capacity      INTEGER NOT NULL,
    storage_bytes INTEGER,
    storage_rest  INTEGER NOT NULL,
    total         INTEGER NOT NULL,
    until_ms      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE usage (
    length         INTEGER NOT NULL,
    hour           INTEGER NOT NULL,
    cluster_id     TEXT NOT NULL,
    metered_ms     INTEGER NOT NULL,
    awake_ms       INTEGER NOT NULL,
    capacity_ms    INTEGER NOT NULL,
    peak           INTEGER NOT NULL,
    storage_byte_s INTEGER NOT NULL,
    PRIMARY KEY (length, hour, cluster_id)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
COMMIT;
"""

_ADD_USAGE = (
    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " metered_ms = metered_ms + excluded.metered_ms, awake_ms = awake_ms + excluded.awake_ms,"
    " capacity_ms = capacity_ms + excluded.capacity_ms, peak = max(peak, excluded.peak),"
    " storage_byte_s = storage_byte_s + excluded.storage_byte_s"
)
_SAVE_NAME = (
    "INSERT INTO clusters VALUES (?, ?) ON CONFLICT DO UPDATE SET name = excluded.name WHERE name <> excluded.name"
)
_COLUMNS = (
    "u.cluster_id, c.name, u.hour, u.length, metered_ms, awake_ms, capacity_ms, peak, storage_byte_s"
    " FROM usage u JOIN clusters c ON c.id = u.cluster_id"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What is to be written together."""

    number: int
    """One more than that of the batch before."""
    sighting: Sighting
    usage: Mapping[Place, Amounts]
    """To be added to what is there."""
    meters: Mapping[str, Meter | None]
    """Those that changed, by their cluster's id; None is no more."""
    names: Mapping[str, str]
    """Of all clusters of which something is written."""
    are_watched: bool
    """Whether the server that writes sees to the meters from here on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What an earlier server has left."""

    sighting: Sighting | None
    """None in a new file."""
    batch: int
    """The number of the last that was written."""
    left: Sequence[Left]


class Store:
    """The open file."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `open`."""
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, made if missing.

        Raises HomeTooNew when a newer Zorya wrote it, HomeUnusable when it cannot be used; either way it is unchanged.
        Raises DiskFull.
        """
        with _KIND.errors(path):
            path.touch(mode=0o600)
            connection = sqlite3.connect(path, timeout=10, isolation_level=None)
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def read(self) -> Found:
        """Answer what is there. Raises HomeUnusable."""
        with _KIND.errors(self._path):
            server = self._connection.execute("SELECT boot_id, seen_ms, offset_ms, batch FROM server").fetchone()
            rows = self._connection.execute(
                "SELECT m.cluster_id, c.name, capacity, storage_bytes, storage_rest, total, until_ms, is_watched"
                " FROM meters m JOIN clusters c ON c.id = m.cluster_id"
            ).fetchall()
        if server is None:
            return Found(sighting=None, batch=0, left=[])
        boot_id, seen_ms, offset_ms, batch = server
        return Found(
            sighting=Sighting(boot_id=boot_id, seen_ms=seen_ms, offset_ms=offset_ms),
            batch=batch,
            left=[_left(row) for row in rows],
        )

    def write(self, batch: Batch) -> None:
        """Write the batch, unless it is written already. Raises HomeUnusable, DiskFull; then it is not written."""
        with _KIND.errors(self._path), self._transaction("IMMEDIATE"):
            if self._batch() < batch.number:
                self._write(batch)

    def usage(self, cluster: str | None, hours: range) -> tuple[int, Sequence[tuple[Place, str, Amounts]]]:
        """Answer what was used in these hours, with the clusters' names, and the number of the last batch in it.

        Raises HomeUnusable.
        """
        query = (
            # Two ranges of the primary key.
            f"SELECT {_COLUMNS} WHERE length = 1 AND hour >= :first AND hour < :end AND (:name IS NULL OR name = :name)"
            f" UNION ALL SELECT {_COLUMNS}"
            " WHERE length > 1 AND hour < :end AND hour + length > :first AND (:name IS NULL OR name = :name)"
        )
        with _KIND.errors(self._path), self._transaction("DEFERRED"):
            last = self._batch()
            rows = self._connection.execute(
                query, {"first": hours.start, "end": hours.stop, "name": cluster}
            ).fetchall()
        return last, [_usage(row) for row in rows]

    def knows(self, cluster: str) -> bool:
        """Whether there is or was a cluster of this name. Raises HomeUnusable."""
        with _KIND.errors(self._path):
            found = self._connection.execute("SELECT 1 FROM clusters WHERE name = ?", (cluster,)).fetchone()
        return found is not None

    def _batch(self) -> int:
        row = self._connection.execute("SELECT batch FROM server").fetchone()
        return int(row[0]) if row else 0

    def _write(self, batch: Batch) -> None:
        run = self._connection.executemany
        run(_SAVE_NAME, batch.names.items())
        run(
            _ADD_USAGE,
            (
                (
                    place.hours.length,
                    place.hours.first,
                    place.cluster_id,
                    used.metered_ms,
                    used.awake_ms,
                    used.capacity_ms,
                    used.peak,
                    used.storage_byte_s,
                )
                for place, used in batch.usage.items()
            ),
        )
        gone = [(cluster_id,) for cluster_id, meter in batch.meters.items() if meter is None]
        run("DELETE FROM meters WHERE cluster_id = ?", gone)
        run(
            "INSERT OR REPLACE INTO meters VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    meter.cluster_id,
                    batch.are_watched,
                    meter.capacity,
                    meter.storage_bytes,
                    meter.storage_rest,
                    meter.total,
                    meter.until_ms,
                )
                for meter in batch.meters.values()
                if meter is not None
            ),
        )
        seen = batch.sighting
        self._connection.execute(
            "INSERT OR REPLACE INTO server VALUES (1, ?, ?, ?, ?)",
            (seen.boot_id, seen.seen_ms, seen.offset_ms, batch.number),
        )

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _left(row: Sequence[Any]) -> Left:
    cluster_id, name, capacity, storage_bytes, storage_rest, total, until_ms, is_watched = row
    meter = Meter(
        cluster_id=cluster_id,
        name=name,
        capacity=capacity,
        storage_bytes=storage_bytes,
        storage_rest=storage_rest,
        total=total,
        until_ms=until_ms,
    )
    return Left(meter=meter, is_watched=bool(is_watched))


def _usage(row: Sequence[Any]) -> tuple[Place, str, Amounts]:
    cluster_id, name, hour, length, metered_ms, awake_ms, capacity_ms, peak, storage_byte_s = row
    amounts = Amounts(
        metered_ms=metered_ms,
        awake_ms=awake_ms,
        capacity_ms=capacity_ms,
        peak=peak,
        storage_byte_s=storage_byte_s,
    )
    return Place(cluster_id, Hours(hour, length)), name, amounts


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    found = sqlite_file.read_format(connection, path, newest=FORMAT)
    connection.execute("PRAGMA journal_mode = WAL")
    # What a process has written outlives it in any case. A flush for each batch would only matter when the host fails.
    connection.execute("PRAGMA synchronous = NORMAL")
    if found == 0:
        connection.executescript(_SCHEMA)
