"""The catalog: the record of every cluster and the log of events, in one SQLite file.

Every write is durable on return and changes a record together with the event that tells of it. A record is replaced
only at the revision it was read at (compare-and-set). Nothing outside this module knows that it is SQLite: a catalog on
etcd would have the same methods.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self, TypeVar

from zorya.control import record as records
from zorya.control.events import EventKind
from zorya.control.record import ClusterRecord
from zorya.control.view import EventView
from zorya.core import errors, logging, sqlite_file
from zorya.core.model import Status

_log = logging.get("zorya.control")

_T = TypeVar("_T")

FORMAT = 5
"""Rises when the file's form changes. A file of a higher format is left alone, one of a lower is brought up to it."""

_UPGRADES = {
    # Clusters have a delay after which they freeze; those that were made before get the default.
    1: "UPDATE clusters SET record = json_set(record, '$.freeze_after_s', 10.0);",
    # Clusters say who may come. Before, whoever reached their port could.
    2: "UPDATE clusters SET record = json_set(record, '$.next_password', null, '$.access', json_object("
    "'allow', json_array('0.0.0.0/0', '::/0'), 'require_tls', json('false'), 'wake_on', 'authenticated',"
    " 'max_clients', null));",
    # Clusters may be provisioned; none was.
    3: "UPDATE clusters SET record = json_set(record, '$.fixed_capacity', null);",
    # Volumes may have several copies; none had.
    4: "UPDATE clusters SET record = json_set(record, '$.reader_port', null, '$.volume', json_object("
    "'copies', json_array(json_object('zone', 'a', 'kind', 'full', 'folder', 'clusters/' || id)),"
    " 'primary', 'a_full', 'epochs',"
    " json_array(json_object('number', 1, 'copy', 'a_full', 'timeline', 1, 'begins_at', 0)),"
    " 'last_epoch', 1, 'established', json_array('a_full'), 'rest', null));",
}
"""For each earlier format, what makes it the next."""

_SCHEMA = """
CREATE TABLE clusters (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    port     INTEGER NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    record   TEXT NOT NULL
) STRICT;
CREATE TABLE events (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    at       TEXT NOT NULL,
    cluster  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    category TEXT NOT NULL,
    message  TEXT NOT NULL
) STRICT;
CREATE INDEX events_of_cluster ON events (cluster, seq);
"""

_KIND = sqlite_file.Kind(
    subject="The catalog {path}",
    writing="Writing the catalog",
    hint="If it is damaged, put a copy from a backup in its place.",
    client_message="The server's catalog cannot be used.",
)

_SLEEP_KINDS = json.dumps([kind.id for kind in EventKind if kind.category == "sleep"])
"""They are told by their kind, since those that were written before there was this category have another."""

_SCALING_KINDS = json.dumps([kind.id for kind in EventKind if kind.category == "scaling"])


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEvent:
    """An event to write with a change."""

    at: datetime
    cluster: str
    kind: EventKind
    reason: str
    """Why it happened, as a sentence; may be empty."""


class Catalog:
    """The open file. SQLite works in a thread of its own, so that a slow disk does not stop the event loop."""

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        """Use `open`."""
        self._path = path
        self._connection = connection
        self._thread = thread

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the catalog, made if missing. Blocking.

        Raises HomeTooNew when a newer Zorya wrote it, HomeUnusable when it cannot be used; either way it is unchanged.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="catalog")
        try:
            return cls(path, thread.submit(_connect, path).result(), thread)
        except BaseException:
            thread.shutdown()
            raise

    def close(self) -> None:
        """Close the file. Blocking; after it no method may be called."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()

    async def load(self) -> Sequence[tuple[ClusterRecord, int]]:
        """Answer every record with its revision, by name.

        Raises HomeUnusable when one cannot be read.
        """

        def read() -> list[tuple[ClusterRecord, int]]:
            rows = self._connection.execute("SELECT record, revision FROM clusters ORDER BY name").fetchall()
            return [(_parse(text), revision) for text, revision in rows]

        return await self._run(read)

    async def insert(self, record: ClusterRecord) -> int:
        """Add a record and answer its revision. Raises NameTaken or PortInUse."""

        def write() -> int:
            try:
                with self._connection:
                    self._connection.execute(
                        "INSERT INTO clusters (id, name, port, revision, record) VALUES (?, ?, ?, 1, ?)",
                        (record.id, record.name, record.port, records.to_json(record)),
                    )
            except sqlite3.IntegrityError as error:
                if "clusters.port" in str(error):
                    raise errors.PortInUse(
                        f"Port {record.port} belongs to another cluster.", hint="Choose another --port, or none."
                    ) from error
                raise errors.NameTaken(
                    f"There is a cluster named {record.name} already.", hint="Choose another name."
                ) from error
            return 1

        return await self._run(write)

    async def replace(self, record: ClusterRecord, *, revision: int, events: Sequence[NewEvent]) -> int:
        """Replace the record that has this revision, write the events with it, and answer the new revision.

        A record whose status is deleted is removed. Raises RevisionConflict when the record has another revision.
        """

        def write() -> int:
            with self._connection:
                if record.status is Status.DELETED:
                    changed = self._connection.execute(
                        "DELETE FROM clusters WHERE id = ? AND revision = ?", (record.id, revision)
                    )
                else:
                    changed = self._connection.execute(
                        "UPDATE clusters SET record = ?, revision = revision + 1 WHERE id = ? AND revision = ?",
                        (records.to_json(record), record.id, revision),
                    )
                if changed.rowcount != 1:
                    raise errors.RevisionConflict(
                        f"The record of {record.name} is not at revision {revision} any more.",
                        hint="Another process changed the catalog; restart Zorya.",
                    )
                for event in events:
                    self._add(event)
            return revision + 1

        return await self._run(write)

    async def add_event(self, event: NewEvent) -> None:
        """Write an event that changes no record."""

        def write() -> None:
            with self._connection:
                self._add(event)

        await self._run(write)

    async def events(self, cluster: str | None, *, after: int, limit: int, sleep: bool) -> Sequence[EventView]:
        """Answer the newest `limit` events with a higher `seq` than `after`, oldest first; None is every cluster's.

        Those of the category sleep are among them, and count, only with `sleep`.
        """

        def read() -> list[EventView]:
            rows = self._connection.execute(
                "SELECT seq, at, cluster, kind, category, message FROM events"
                " WHERE seq > ? AND (? IS NULL OR cluster = ?)"
                " AND (? OR kind NOT IN (SELECT value FROM json_each(?))) ORDER BY seq DESC LIMIT ?",
                (after, cluster, cluster, sleep, _SLEEP_KINDS, limit),
            ).fetchall()
            return [
                EventView(
                    seq=seq, at=datetime.fromisoformat(at), cluster=name, kind=kind, category=category, message=message
                )
                for seq, at, name, kind, category, message in reversed(rows)
            ]

        return await self._run(read)

    async def prune_events(self, *, before: datetime) -> None:
        """Remove events that are labelled earlier than `before`."""

        def write() -> None:
            with self._connection:
                self._connection.execute("DELETE FROM events WHERE at < ?", (before.isoformat(),))

        await self._run(write)

    async def thin_out(self, *, keep: int) -> None:
        """Remove each cluster's events of the category sleep, and of scaling, but for the newest `keep` of each."""

        def write() -> None:
            with self._connection:
                for kinds in (_SLEEP_KINDS, _SCALING_KINDS):
                    self._connection.execute(
                        "DELETE FROM events WHERE seq IN (SELECT seq FROM ("
                        " SELECT seq, row_number() OVER (PARTITION BY cluster ORDER BY seq DESC) AS age FROM events"
                        " WHERE kind IN (SELECT value FROM json_each(?))) WHERE age > ?)",
                        (kinds, keep),
                    )

        await self._run(write)

    def _add(self, event: NewEvent) -> None:
        message = f"{event.kind.meaning} {event.reason}".strip()
        self._connection.execute(
            "INSERT INTO events (at, cluster, kind, category, message) VALUES (?, ?, ?, ?, ?)",
            (event.at.isoformat(), event.cluster, event.kind.id, event.kind.category, message),
        )

    async def _run(self, work: Callable[[], _T]) -> _T:
        def guarded() -> _T:
            with _KIND.errors(self._path):
                return work()

        working = asyncio.get_running_loop().run_in_executor(self._thread, guarded)
        try:
            # Shielded: a caller that is cancelled must not leave it unknown whether the write was done.
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            working.add_done_callback(_log_failure)
            raise


def _log_failure(working: asyncio.Future[_T]) -> None:
    """Log what nobody waits for any more."""
    error = None if working.cancelled() else working.exception()
    if error is not None:
        _log.error("the catalog could not be used", error=str(error))


def _connect(path: Path) -> sqlite3.Connection:
    with _KIND.errors(path):
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=10)
        try:
            found = sqlite_file.read_format(connection, path, newest=FORMAT)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            steps = _SCHEMA if found == 0 else " ".join(_UPGRADES[one] for one in range(found, FORMAT))
            if steps:
                connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {FORMAT}; COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection


def _parse(text: str) -> ClusterRecord:
    try:
        return records.from_json(text)
    except (ValueError, KeyError, TypeError) as error:
        raise errors.HomeUnusable(
            f"A cluster's record in the catalog cannot be read: {error!r}.",
            hint="If the catalog is damaged, put a copy from a backup in its place.",
        ) from error
