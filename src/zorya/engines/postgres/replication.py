"""Copies of a volume by PostgreSQL's own means: streaming replication, its receiver, its base backup, its rewind.

Full copies are a primary and hot standbys; a tail is a folder into which `pg_receivewal` writes. The primary keeps log
for each by a physical replication slot of the copy's name. All of it goes over Unix sockets of this host.
"""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from pathlib import Path

import psycopg
from psycopg import sql

from zorya.core import account as accounts
from zorya.core import commands, errors, files
from zorya.core.account import Account
from zorya.core.home import ClusterFolders
from zorya.core.volume import format_position, parse_position
from zorya.engines import making
from zorya.engines.base import FollowerSeen, Installation, Instance, LogEnd, PrimarySeen
from zorya.engines.following import Source
from zorya.engines.postgres import (
    admin,
    configuration,
    control_file,
    identities,
    lockfile,
    log_files,
    shared_memory,
)
from zorya.engines.postgres.log_files import SEGMENT_BYTES, Segment

STANDBY_FILE = "standby.signal"
"""What makes a follower of a full copy (manual, "Standby Server Operation"); PostgreSQL removes it when it promotes."""

PROMOTE_WITHIN_S = 60

ANSWER_WITHIN_S = 5.0
"""How long an engine may take to answer a question."""
_CHECKED_WITHIN_S = 24 * 3600

_LOOK = """
SELECT pg_catalog.pg_current_wal_flush_lsn()::text,
       (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_array(
            application_name, state, flush_lsn::text, replay_lsn::text)), '[]')
        FROM pg_catalog.pg_stat_replication WHERE usename = %s),
       (SELECT coalesce(pg_catalog.json_agg(slot_name), '[]')
        FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND wal_status = 'lost')
"""

_RECEIVED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walreceiver'),
       pg_catalog.pg_last_wal_replay_lsn()::text
"""

_POLL_S = 0.005

_READ_BYTES = 4 * 1024**2
"""How much log is read here to find its end; what is more than that PostgreSQL replays faster."""

_PERCENT = re.compile(rb"\((\d+)%\)")
_FAULT_AT = re.compile(r"error in WAL record at ([0-9A-F]+/[0-9A-F]+)")
_BAD_PAGE = re.compile(r'checksum verification failed in file "([^"]+)", block (\d+)')


class PostgresReplication:
    """Implements `engines.base.Replication`."""

    def __init__(self, account: Account, scratch: Path) -> None:
        """Run programs as `account`, as engines run; what is only looked at is put below the folder `scratch`."""
        self._account = account
        self._scratch = scratch
        self._connections: dict[tuple[Path, int, int], psycopg.AsyncConnection] = {}
        """By the socket's folder, the port and the first process: that of an engine that has ended is of no use."""

    @classmethod
    def of_this_user(cls) -> "PostgresReplication":
        """Answer one that runs programs as the engines of a server would that this user starts."""
        return cls(accounts.ensure("zorya"), Path(tempfile.gettempdir()))

    # What follows.

    def receiver(
        self, installation: Installation, source: Source, *, copy: str, tail: Path
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """See Replication.receiver."""
        argv = [
            str(installation.program("pg_receivewal")),
            f"--directory={tail}",
            # Without it what the primary is told of is not on the disk.
            "--synchronous",
            "--no-loop",
            # What it tells of a segment's last byte it tells with this only, in seconds.
            "--status-interval=1",
            f"--slot={copy}",
            f"--dbname={_conninfo(source, copy)}",
        ]
        return argv, commands.ENVIRONMENT

    async def begin_tail(self, instance: Instance, tail: Path) -> None:
        """See Replication.begin_tail."""
        folders = instance.folders
        redo = _control(folders).redo
        log = self.log_folder(folders)
        end = self.rest(folders)
        found = [one for one in log_files.segments(log) if one.begin + SEGMENT_BYTES > redo and log_files.is_used(one)]
        last = (end.position - 1) // SEGMENT_BYTES if end is not None else max(one.number for one in found)
        with files.disk_errors("Making a copy of the log", tail):
            for one in found:
                if one.number <= last:
                    name = f"{one.name}.partial" if one.number == last else one.name
                    await asyncio.to_thread(self._put, one.path, tail / name, end.position if end else None)
            for path in log_files.histories(log).values():
                await asyncio.to_thread(self._put, path, tail / path.name, None)
            files.sync_folder(tail)

    def _put(self, original: Path, target: Path, end: int | None) -> None:
        """Copy a file durably, for the engines' account; of a segment nothing from the position `end` on."""
        partial = target.with_name(f".{target.name}.new")
        data = original.read_bytes()
        if end is not None and target.name.endswith(".partial"):
            data = data[: end % SEGMENT_BYTES].ljust(SEGMENT_BYTES, b"\0")
        with partial.open("wb") as file:
            if self._account.is_other:
                os.fchown(file.fileno(), self._account.uid, self._account.gid)
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)

    async def seed(self, instance: Instance, like: Path) -> None:
        """See Replication.seed."""
        target = instance.folders.data
        if target.exists():
            return
        with files.disk_errors("Making a copy of the data", target.parent):
            partial = await asyncio.to_thread(self._partial, target)
            try:
                await commands.run(["cp", "--archive", "--reflink=auto", f"{like}/.", partial], account=self._account)
                (partial / lockfile.NAME).unlink(missing_ok=True)
                self._make_standby(partial)
                await self._sync(instance, partial)
                making.publish(partial, target)
            except commands.CommandFailed as error:
                await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
                raise _explain(error, "Making a copy of the data", target.parent) from error

    async def clone(
        self, instance: Instance, source: Source, *, max_kib_s: int | None, progress: Callable[[float], None]
    ) -> None:
        """See Replication.clone."""
        target = instance.folders.data
        if instance.following is not None:
            # First, since it fails where the primary does not answer: then what is there stays.
            await _keep_anew(source, instance.following.copy)
        await asyncio.to_thread(_remove, target)
        with files.disk_errors("Making a copy anew", target.parent):
            partial = await asyncio.to_thread(self._partial, target)
            argv: list[str | Path] = [
                instance.installation.program("pg_basebackup"),
                f"--pgdata={partial}",
                f"--dbname={_conninfo(source, admin.APPLICATION)}",
                "--checkpoint=fast",
                "--wal-method=stream",
                "--progress",
                "--no-password",
                *([f"--max-rate={min(max(max_kib_s, 32), 1048576)}"] if max_kib_s is not None else []),
            ]
            try:
                await self._run_with_progress(argv, progress)
                self._make_standby(partial)
                await self._sync(instance, partial)
                making.publish(partial, target)
            except commands.CommandFailed as error:
                raise _explain(error, "Making a copy anew", target.parent) from error
            finally:
                if partial.exists():
                    await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)

    async def _run_with_progress(self, argv: Sequence[str | Path], progress: Callable[[float], None]) -> None:
        """Run a program that says how far it is; it ends if the caller is cancelled. Raises CommandFailed."""
        loop = asyncio.get_running_loop()
        spawning = asyncio.ensure_future(asyncio.to_thread(self._spawn, argv))

        def listen(program: "subprocess.Popen[bytes]") -> str:
            said = b""
            with program as ended:
                assert ended.stderr is not None
                while piece := os.read(ended.stderr.fileno(), 4096):
                    said = (said + piece)[-8192:]
                    for part in _PERCENT.findall(piece):
                        loop.call_soon_threadsafe(progress, int(part) / 100)
            return said.decode(errors="replace")

        listening: asyncio.Future[str] | None = None
        try:
            program = await asyncio.shield(spawning)
            listening = loop.run_in_executor(None, listen, program)
            said = await asyncio.shield(listening)
        except asyncio.CancelledError:
            program = await spawning
            # It has a process of its own that receives the log.
            os.killpg(program.pid, signal.SIGKILL)
            await (listening or loop.run_in_executor(None, listen, program))
            raise
        if program.returncode != 0:
            raise commands.CommandFailed(argv, program.returncode, said)

    def _spawn(self, argv: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=dict(commands.ENVIRONMENT),
            start_new_session=True,
            umask=0o077,
            **self._account.switch(),
        )

    async def rejoin(self, instance: Instance, source: Source) -> None:
        """See Replication.rejoin."""
        data, settings = instance.folders.data, instance.folders.conf / configuration.SETTINGS_FILE
        # Before PostgreSQL 16 pg_rewind takes the timeline from the primary's control file, which says the new one from
        # the first checkpoint on: before, it would answer that nothing is to be done.
        await admin.checkpoint(source.socket, source.port)
        with files.disk_errors("Taking a copy back", data):
            (data / STANDBY_FILE).unlink(missing_ok=True)
            shared_memory.release(data)
            (data / lockfile.NAME).unlink(missing_ok=True)
            try:
                await commands.run(
                    [
                        instance.installation.program("pg_rewind"),
                        f"--target-pgdata={data}",
                        f"--source-server={_conninfo(source, admin.APPLICATION)} dbname=postgres",
                        # An older one takes the file that initdb has made, which serves for a recovery as well.
                        *([f"--config-file={settings}"] if int(instance.installation.major) >= 15 else []),
                    ],
                    account=self._account,
                )
            except commands.CommandFailed as error:
                raise _explain(error, "Taking a copy back", data) from error
            finally:
                self._make_standby(data)

    # What is asked of a primary and of followers that run.

    async def ensure_kept(self, folders: ClusterFolders, copies: Set[str], *, anew: Set[str] = frozenset()) -> None:
        """See Replication.ensure_kept."""
        async with self._asking(folders) as connection:
            await connection.execute("SET synchronous_commit = local")
            found = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (configuration.REPLICA,))
            if await found.fetchone() is None:
                await connection.execute(configuration.CREATE_REPLICA)
                await connection.execute(configuration.GRANT_REPLICA)
            rows = await connection.execute(
                "SELECT slot_name, active FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary"
            )
            present = set()
            for name, is_active in await rows.fetchall():
                if not is_active and (name in anew or (name not in copies and configuration.is_copy_name(name))):
                    await connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
                else:
                    present.add(name)
            for name in sorted(copies - present):
                # A copy that is being cloned may have got its own meanwhile.
                with contextlib.suppress(psycopg.errors.DuplicateObject):
                    await connection.execute("SELECT pg_create_physical_replication_slot(%s, true)", (name,))

    async def look(self, folders: ClusterFolders) -> PrimarySeen:
        """See Replication.look."""
        async with self._asking(folders) as connection:
            row = await (await connection.execute(_LOOK, (configuration.REPLICA,))).fetchone()
        assert row is not None
        flushed, followers, lost = row
        return PrimarySeen(
            flushed=parse_position(flushed),
            followers={
                name: FollowerSeen(
                    flushed=parse_position(position) if position else 0,
                    replayed=parse_position(replayed) if replayed and not name.endswith("_tail") else None,
                    is_streaming=state == "streaming" and position is not None,
                )
                for name, state, position, replayed in followers
            },
            given_up=frozenset(lost),
        )

    async def received(self, folders: ClusterFolders) -> LogEnd:
        """See Replication.received."""
        log = self.log_folder(folders)
        async with self._asking(folders) as connection:
            position = await self._end_on_disk(connection, log)
            while position is None:
                await asyncio.sleep(_POLL_S)
                position = await self._end_on_disk(connection, log)
        number = max(position - 1, 0) // SEGMENT_BYTES
        timelines = [one.timeline for one in log_files.segments(log) if one.number == number]
        return LogEnd(timeline=max(timelines, default=_control(folders).timeline), position=position)

    async def _end_on_disk(self, connection: psycopg.AsyncConnection, log: Path) -> int | None:
        """Answer where the last whole record in a follower's log ends; None when that cannot be told now."""
        row = await (await connection.execute(_RECEIVED)).fetchone()
        assert row is not None
        receives, replayed = row
        if receives:
            return None
        # What pg_last_wal_receive_lsn() says may be within a record, and says nothing of an earlier start.
        begin = parse_position(replayed) if replayed else 0
        return await asyncio.to_thread(log_files.end_from, log, begin, within_bytes=_READ_BYTES)

    async def replayed(self, folders: ClusterFolders) -> int:
        """See Replication.replayed."""
        async with self._asking(folders) as connection:
            row = await (await connection.execute("SELECT pg_last_wal_replay_lsn()::text")).fetchone()
        return parse_position(row[0]) if row is not None and row[0] is not None else 0

    async def promote(self, folders: ClusterFolders) -> None:
        """See Replication.promote."""
        async with self._asking(folders, PROMOTE_WITHIN_S + ANSWER_WITHIN_S) as connection:
            row = await (
                await connection.execute(
                    sql.SQL("SELECT NOT pg_is_in_recovery() OR pg_promote(true, {})").format(PROMOTE_WITHIN_S)
                )
            ).fetchone()
        if row is None or not row[0]:
            raise errors.EngineProblem(f"The engine on {folders.data} was not promoted within {PROMOTE_WITHIN_S} s.")

    async def let_go(self, folders: ClusterFolders) -> None:
        """See Replication.let_go."""
        for key in [key for key in self._connections if key[0] == folders.socket]:
            await self._connections.pop(key).close()

    @contextlib.asynccontextmanager
    async def _asking(
        self, folders: ClusterFolders, within_s: float = ANSWER_WITHIN_S
    ) -> AsyncIterator[psycopg.AsyncConnection]:
        """Lend the connection to the engine that runs there; it is kept for the next question."""
        found = _lock(folders)
        if found is None or found.port is None:
            raise errors.NotReady(f"The engine on {folders.data} does not say where it listens.")
        key = (folders.socket, found.port, found.pid)
        try:
            connection = self._connections.pop(key, None) or await admin.connect(folders.socket, found.port)
            try:
                async with asyncio.timeout(within_s):
                    yield connection
            except BaseException:
                await connection.close()
                raise
        except psycopg.Error as error:
            raise admin.explain(error) from error
        except TimeoutError as error:
            raise errors.EngineProblem(f"The engine on {folders.data} has not answered for {within_s:g} s.") from error
        other = self._connections.get(key)
        self._connections[key] = connection
        if other is not None:
            await other.close()

    # Where copies are that do not run.

    def has_begun(self, folders: ClusterFolders) -> bool:
        """See Replication.has_begun. PostgreSQL removes the file before the first record of the new timeline."""
        return (folders.data / "PG_VERSION").exists() and not (folders.data / STANDBY_FILE).exists()

    def timeline(self, folders: ClusterFolders) -> tuple[int, int]:
        """See Replication.timeline."""
        control = _control(folders)
        found = log_files.histories(self.log_folder(folders))
        if (folders.data / STANDBY_FILE).exists() or not found:
            return control.timeline, 0
        highest = max(found)
        return highest, log_files.begin_of(found[highest])

    def rest(self, folders: ClusterFolders) -> LogEnd | None:
        """See Replication.rest."""
        try:
            control = _control(folders)
        except errors.DataDamaged:
            return None
        if control.state != control_file.SHUT_DOWN:
            return None
        name = log_files.name_of(control.timeline, control.checkpoint // SEGMENT_BYTES)
        end = log_files.end_of_record(self.log_folder(folders) / name, control.checkpoint)
        if end is None:
            return None
        return LogEnd(timeline=control.timeline, position=end, last=control.checkpoint)

    def is_stopped_cleanly(self, folders: ClusterFolders) -> bool:
        """See Replication.is_stopped_cleanly."""
        try:
            return _control(folders).state in {control_file.SHUT_DOWN, control_file.SHUT_DOWN_IN_RECOVERY}
        except errors.DataDamaged:
            return False

    def rests_at(self, folders: ClusterFolders, end: LogEnd) -> bool:
        """See Replication.rests_at."""
        try:
            control = _control(folders)
        except errors.DataDamaged:
            return False
        at_rest = control.state in {control_file.SHUT_DOWN, control_file.SHUT_DOWN_IN_RECOVERY}
        return at_rest and (control.timeline, control.checkpoint) == (end.timeline, end.last)

    def tail_reaches(self, tail: Path, end: LogEnd) -> bool:
        """See Replication.tail_reaches."""
        if end.last is None:
            return False
        path = tail / log_files.name_of(end.timeline, end.last // SEGMENT_BYTES)
        if not path.exists():
            path = path.with_name(f"{path.name}.partial")
        return log_files.end_of_record(path, end.last) == end.position

    async def tail_end(self, installation: Installation, tail: Path) -> LogEnd | None:
        """See Replication.tail_end."""
        found = log_files.segments(tail)
        for timeline in sorted({one.timeline for one in found}, reverse=True):
            of_it = [one for one in found if one.timeline == timeline]
            # A record may begin in the segment before, and the last one may hold nothing yet.
            for count in (1, 2, 3):
                end = await self._end_of(installation, of_it[-count:])
                if end is not None:
                    return LogEnd(timeline=timeline, position=end, begins=log_files.begin_without_gap(found))
        return None

    async def _end_of(self, installation: Installation, run: Sequence[Segment]) -> int | None:
        """Answer where the last whole record ends in segments that follow one another; None when there is none."""
        said = await self._dump(installation, run)
        match = _FAULT_AT.search(said)
        if match is None:
            return None
        last = parse_position(match[1])
        if last < run[0].begin:
            return None
        path = next((one.path for one in run if one.begin <= last < one.begin + SEGMENT_BYTES), None)
        return log_files.end_of_record(path, last) if path is not None else None

    async def _dump(self, installation: Installation, run: Sequence[Segment]) -> str:
        """Have `pg_waldump` read segments from the first whole record on; answer why it ended.

        It takes whole names only, and waits for a file that is missing, so it gets links with such names and an empty
        segment after them.
        """

        after = log_files.name_of(run[-1].timeline, run[-1].number + 1)

        def prepare(folder: Path) -> None:
            for one in run:
                (folder / one.name).symlink_to(one.path)
            with (folder / after).open("wb") as file:
                file.truncate(SEGMENT_BYTES)

        with tempfile.TemporaryDirectory(prefix="log-", dir=self._scratch) as name:
            folder = Path(name)
            folder.chmod(0o755)
            await asyncio.to_thread(prepare, folder)
            # As this user: what it reads may be anywhere.
            try:
                return await asyncio.to_thread(
                    commands.run_blocking,
                    [installation.program("pg_waldump"), "--quiet", f"--path={folder}", run[0].name, after],
                    account=None,
                )
            except commands.CommandFailed as error:
                return error.output

    async def offer(self, tail: Path, collected: Path) -> None:
        """See Replication.offer."""

        def link() -> None:
            files.ensure_folder(collected, mode=0o700, owner=self._account)
            for one in log_files.segments(tail):
                _link(collected / one.name, one.path)
            for path in log_files.histories(tail).values():
                _link(collected / path.name, path)

        with files.disk_errors("Collecting log", collected):
            await asyncio.to_thread(link)

    async def mend_tail(self, tail: Path, peers: Sequence[Path], *, upto: int) -> None:
        """See Replication.mend_tail."""
        with files.disk_errors("Filling a tail", tail):
            for peer in peers:
                for path in log_files.histories(peer).values():
                    if not (tail / path.name).exists():
                        await asyncio.to_thread(self._put, path, tail / path.name, None)
                own = {(one.timeline, one.number): one for one in log_files.segments(tail)}
                for one in log_files.segments(peer):
                    if one.is_partial or one.begin + SEGMENT_BYTES > upto or not log_files.is_used(one):
                        continue
                    mine = own.get((one.timeline, one.number))
                    if await asyncio.to_thread(_is_wanted, one, mine):
                        await asyncio.to_thread(self._put, one.path, tail / one.name, None)
            files.sync_folder(tail)

    def log_folder(self, folders: ClusterFolders) -> Path:
        """See Replication.log_folder."""
        return folders.data / "pg_wal"

    def needs_from(self, folders: ClusterFolders) -> int:
        """See Replication.needs_from."""
        return _control(folders).redo

    async def cut_tail(self, tail: Path, *, timeline: int, position: int) -> None:
        """See Replication.cut_tail. The receiver begins after the last segment that has its whole name."""

        def cut() -> None:
            for one in log_files.segments(tail):
                if one.timeline >= timeline or one.begin + SEGMENT_BYTES <= position:
                    continue
                if one.begin >= position:
                    one.path.unlink()
                elif not one.is_partial:
                    one.path.rename(tail / f"{one.name}.partial")
            files.sync_folder(tail)

        with files.disk_errors("Cutting a tail back", tail):
            await asyncio.to_thread(cut)

    async def prune_tail(self, tail: Path, *, before: int, older_than_s: float) -> int:
        """See Replication.prune_tail."""

        def prune() -> int:
            removed = 0
            limit = time.time() - older_than_s
            for one in log_files.segments(tail)[:-1]:
                if not one.is_partial and one.begin + SEGMENT_BYTES <= before and one.path.stat().st_mtime <= limit:
                    one.path.unlink()
                    removed += SEGMENT_BYTES
            return removed

        with files.disk_errors("Removing old log", tail):
            return await asyncio.to_thread(prune)

    # Damage.

    async def verify_data(self, instance: Instance, *, max_kib_s: int | None) -> Sequence[str]:
        """See Replication.verify_data."""
        argv: Sequence[str | Path] = [
            instance.installation.program("pg_checksums"),
            "--check",
            f"--pgdata={instance.folders.data}",
        ]
        try:
            if max_kib_s is None:
                await commands.run(argv, account=self._account, timeout_s=_CHECKED_WITHIN_S)
            else:
                await commands.run_slowly(
                    argv, account=self._account, max_bytes_s=max_kib_s * 1024, timeout_s=_CHECKED_WITHIN_S
                )
        except commands.CommandFailed as error:
            pages = _BAD_PAGE.findall(error.output)
            if pages:
                file, block = pages[0]
                more = f", and {len(pages) - 1} more" if len(pages) > 1 else ""
                return [f"A page's checksum is wrong: block {block} of {file}{more}."]
            if "must be shut down" in error.output:
                return []
            return [f"Its data cannot be checked: {error.output.strip()[-200:]}"]
        return []

    async def verify_log(
        self, installation: Installation, folder: Path, *, begin: int, end: int | None
    ) -> Sequence[str]:
        """See Replication.verify_log."""
        found = [one for one in log_files.segments(folder) if one.begin + SEGMENT_BYTES > begin]
        damaged = []
        for timeline in sorted({one.timeline for one in found}):
            of_it = [one for one in found if one.timeline == timeline]
            damaged += _gaps(of_it)
            reached = await self._end_of(installation, of_it)
            is_last = timeline == found[-1].timeline
            if reached is None and not is_last and not any(_has_records(one) for one in of_it):
                # Nothing but the rest of a record that was never whole, where the next timeline begins.
                continue
            wanted = end if is_last else None
            if reached is None or (wanted is not None and reached < wanted) or _goes_on(of_it, reached):
                where = format_position(reached) if reached is not None else "its beginning"
                damaged.append(f"The log in {folder} is damaged after {where}.")
        return damaged

    # Small things.

    def _partial(self, target: Path) -> Path:
        making.remove_partial_folders(target)
        return making.partial_folder(target, self._account)

    def _make_standby(self, data: Path) -> None:
        """Have the engine that is started next on a data folder follow, durably. May be repeated."""
        # Slots that came with it would keep log, and dead rows, for copies that follow another one.
        for slot in (data / "pg_replslot").glob("*"):
            shutil.rmtree(slot)
        path = data / STANDBY_FILE
        with path.open("wb") as file:
            if self._account.is_other:
                os.fchown(file.fileno(), self._account.uid, self._account.gid)
            os.fchmod(file.fileno(), 0o600)
            os.fsync(file.fileno())
        files.sync_folder(data)

    async def _sync(self, instance: Instance, folder: Path) -> None:
        await commands.run(
            [instance.installation.program("initdb"), "--sync-only", f"--pgdata={folder}"], account=self._account
        )


def _conninfo(source: Source, application: str) -> str:
    return psycopg.conninfo.make_conninfo(
        host=str(source.socket), port=source.port, user=configuration.REPLICA, application_name=application
    )


async def _keep_anew(source: Source, copy: str) -> None:
    """Have the primary keep log for a copy from now on: what it had to have before, it needs no more."""
    try:
        async with await admin.connect(source.socket, source.port) as connection:
            await connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_name = %s AND NOT active",
                (copy,),
            )
            await connection.execute(
                "SELECT pg_create_physical_replication_slot(%s, true)"
                " WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)",
                (copy, copy),
            )
    except psycopg.Error as error:
        raise admin.explain(error) from error


def _control(folders: ClusterFolders) -> control_file.Checkpoint:
    path = folders.data / identities.CONTROL_FILE
    try:
        return control_file.read_checkpoint(path)
    except OSError as error:
        raise errors.DataDamaged(
            f"{path} cannot be read: {error}.", client_message="A control file cannot be read."
        ) from error


def _lock(folders: ClusterFolders) -> lockfile.LockFile | None:
    try:
        return lockfile.parse((folders.data / lockfile.NAME).read_text())
    except OSError:
        return None


def _remove(data: Path) -> None:
    shared_memory.release(data)
    shutil.rmtree(data, ignore_errors=True)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _is_wanted(one: Segment, mine: Segment | None) -> bool:
    """Whether a segment of another folder is to be taken in place of what a tail has of it."""
    if mine is None:
        return True
    # What is not whole is the receiver's, which begins it anew.
    return not mine.is_partial and log_files.is_better(one.path, mine.path)


def _gaps(of_it: Sequence[Segment]) -> list[str]:
    return [
        f"A segment of log is missing before {one.path}."
        for before, one in itertools.pairwise(of_it)
        if one.number != before.number + 1
    ]


def _goes_on(of_it: Sequence[Segment], reached: int) -> bool:
    """Whether there is log after where the last whole record ends, besides the rest of one that is not whole."""
    number = reached // SEGMENT_BYTES
    return any(
        log_files.goes_on_after(one.path, reached) if one.number == number else _has_records(one)
        for one in of_it
        if one.number >= number and log_files.is_used(one)
    )


def _has_records(one: Segment) -> bool:
    return log_files.is_used(one) and log_files.begins_records(one.path, one.begin)


def _explain(error: commands.CommandFailed, doing: str, where: Path) -> errors.ZoryaError:
    if os.strerror(28) in error.output:
        return files.disk_full(doing, where)
    return errors.EngineProblem(f"{doing} failed: {error}.")
