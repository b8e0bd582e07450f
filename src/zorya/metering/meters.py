"""The meters of all clusters, kept in one SQLite file so that no end of the server loses or repeats a second.

Memory has the truth; the file follows. A change is accounted for at the moment at which it is told, by the monotonic
clock, and written in a batch with all others within a tenth of a second; each second a batch is written in any case,
and says until when this server was there. A meter that does not change costs nothing until it does, however long that
is: what it had, until when, and that the server was there since is all that the file has to know. While the file cannot
be written, what would go there is kept, and grows with hours and clusters but not with changes.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from zorya.core import errors, logging
from zorya.core.clock import Clock
from zorya.metering import ledger, reading
from zorya.metering.ledger import Amounts, Meter, Place, Sighting, Used
from zorya.metering.reading import Memory, Usage
from zorya.metering.record import UsageRecord, UsageStretch
from zorya.metering.store import Batch, Store

_HEARTBEAT_S = 1.0
_GATHER_S = 0.1
"""Changes are gathered for so long after a batch before the next is written."""
_JUMP_MS = 500
"""The wall clock has jumped if it goes off by more than this. Less is not followed, so that hours have 3600 s."""

_log = logging.get("zorya.metering")

_T = TypeVar("_T")


def read_boot_id() -> str:
    """Answer the kernel's id of this boot of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Meters:
    """Every cluster's capacity and storage over time. Its methods never block but for `open` and `close`."""

    def __init__(self, store: Store, thread: ThreadPoolExecutor, clock: Clock, seen: Sighting) -> None:
        """Use `open`."""
        self._store = store
        self._thread = thread
        self._clock = clock
        self._boot_id = seen.boot_id
        self._seen_ms = seen.seen_ms
        self._offset_ms = seen.offset_ms
        self._meters: dict[str, Meter] = {}
        self._left: dict[str, Meter] = {}
        """Those of an earlier server that were not taken over yet."""
        self._last: dict[str, int] = {}
        """The capacities that an earlier server of this boot saw last."""
        self._number = 0
        self._sending: Batch | None = None
        """Taken to be written; it is not known yet whether it is."""
        self._usage: dict[Place, Amounts] = {}
        self._dirty: set[str] = set()
        self._names: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._is_failing = False

    @classmethod
    def open(cls, path: Path, clock: Clock, *, boot_id: str | None = None) -> Self:
        """Open or make the file, and account for what an earlier server has seen. Blocking.

        `boot_id` is the host's own unless given. Raises HomeUnusable, HomeTooNew, DiskFull.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="meters")
        try:
            store = thread.submit(Store.open, path).result()
        except BaseException:
            thread.shutdown()
            raise
        try:
            now_ms = _monotonic_ms(clock)
            offset_ms = ledger.milliseconds(clock.now()) - now_ms
            now = Sighting(boot_id=boot_id or read_boot_id(), seen_ms=now_ms, offset_ms=offset_ms)
            opened = cls(store, thread, clock, now)
            opened._begin(now)
        except BaseException:
            thread.submit(store.close).result()
            thread.shutdown()
            raise
        return opened

    def _begin(self, now: Sighting) -> None:
        """Close the books of the earlier server. Blocking."""
        found = self._thread.submit(self._store.read).result()
        self._number = found.batch
        seen = found.sighting or now
        goes_on = ledger.are_of_one_boot(seen, now)
        if goes_on and not _has_jumped(seen.offset_ms, now.offset_ms):
            self._offset_ms = seen.offset_ms
        for left in found.left:
            meter, used = ledger.close_books(left, seen=seen, now=now)
            self._add(meter, used)
            self._left[meter.cluster_id] = meter
            if goes_on:
                self._last[meter.cluster_id] = meter.capacity
        closed = self._take(self._left, are_watched=False)
        self._thread.submit(self._store.write, closed).result()
        self._sending = None

    def close(self) -> None:
        """Write what is left and close the file. Blocking; after it no method may be called."""
        self._read_clocks()
        try:
            if self._sending is not None:
                # If `run` was cancelled it may be written already; twice does no harm.
                self._thread.submit(self._store.write, self._sending).result()
            self._thread.submit(self._store.write, self._take(self._changes(), are_watched=True)).result()
        except errors.HostProblem as error:
            _log.error("the last of what clusters have used could not be written down", error=str(error))
        finally:
            self._thread.submit(self._store.close).result()
            self._thread.shutdown()

    async def run(self) -> None:
        """Write down, every second, that time goes on; until cancelled."""
        while True:
            self._read_clocks()
            await self._write()
            if self._is_failing:
                await asyncio.sleep(_HEARTBEAT_S)
                continue
            await asyncio.sleep(_GATHER_S)
            try:
                async with asyncio.timeout(_HEARTBEAT_S - _GATHER_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    # Telling.

    def take_over(self, cluster_id: str, name: str, *, capacity: float, went_on: bool) -> None:
        """Begin to meter a cluster that is there as the server starts, once for each.

        With `went_on` its engine has run all the time since the earlier server ended, with the capacity that it had
        then, and that time counts. Else only what that server has seen does.
        """
        left = self._left.pop(cluster_id, None)
        if left is not None:
            self._meters[cluster_id] = left if went_on else replace(left, capacity=0)
        self._change(cluster_id, name, lambda meter: replace(meter, capacity=ledger.thousandths(capacity)))

    def set_capacity(self, cluster_id: str, name: str, capacity: float) -> None:
        """The cluster has this capacity from now on, in ACUs; 0 while it is frozen or stopped."""
        wanted = ledger.thousandths(capacity)
        meter = self._meters.get(cluster_id)
        if meter is None or meter.capacity != wanted or meter.name != name:
            self._change(cluster_id, name, lambda meter: replace(meter, capacity=wanted))

    def set_storage(self, cluster_id: str, name: str, size_bytes: int) -> None:
        """The cluster's files have this size from now on."""
        meter = self._meters.get(cluster_id)
        if meter is None or meter.storage_bytes != size_bytes or meter.name != name:
            self._change(cluster_id, name, lambda meter: replace(meter, storage_bytes=size_bytes))

    def end(self, cluster_id: str) -> None:
        """The cluster is gone; what it has used is kept."""
        now_ms = self._read_clocks()
        self._left.pop(cluster_id, None)
        meter = self._meters.pop(cluster_id, None)
        if meter is not None:
            self._settle(meter, now_ms)
        self._dirty.add(cluster_id)
        self._changed.set()

    def _change(self, cluster_id: str, name: str, change: Callable[[Meter], Meter]) -> None:
        """Account for the time until now, and change the meter from now on."""
        now_ms = self._read_clocks()
        meter = self._meters.get(cluster_id) or self._new(cluster_id, name, now_ms)
        self._meters[cluster_id] = change(replace(self._settle(meter, now_ms), name=name))
        self._names[cluster_id] = name
        self._dirty.add(cluster_id)
        self._changed.set()

    def _new(self, cluster_id: str, name: str, now_ms: int) -> Meter:
        left = self._left.pop(cluster_id, None)
        if left is not None:
            return replace(left, capacity=0, until_ms=now_ms)
        return Meter(
            cluster_id=cluster_id,
            name=name,
            capacity=0,
            storage_bytes=None,
            storage_rest=0,
            total=0,
            until_ms=now_ms,
        )

    # Asking.

    def last_capacity(self, cluster_id: str) -> float | None:
        """Answer the capacity that the cluster had last, in this boot of the host, by an earlier server's account."""
        last = self._last.get(cluster_id)
        return None if last is None else last / 1000

    def total_acu_s(self, cluster_id: str) -> float:
        """Answer its capacity over all the time that it was metered, up to now. From memory."""
        meter = self._meters.get(cluster_id)
        if meter is None:
            left = self._left.get(cluster_id)
            return left.total / 1e6 if left else 0.0
        since_ms = max(0, _monotonic_ms(self._clock) - meter.until_ms)
        return (meter.total + meter.capacity * since_ms) / 1e6

    def storage_bytes(self, cluster_id: str) -> int | None:
        """Answer the size of its files as it was set last; None when it never was."""
        meter = self._meters.get(cluster_id) or self._left.get(cluster_id)
        return meter.storage_bytes if meter else None

    async def records(self, cluster: str | None, *, since: datetime, until: datetime) -> Sequence[UsageRecord]:
        """Answer the records of the hours that touch this time, oldest first, up to now; None is every cluster.

        Of deleted clusters too, under their names. One a cluster and hour: of many clusters over a long time,
        `stretches` answers the same in much less. Raises HomeUnusable.
        """
        usage = await self._ask(cluster, since=since, until=until)
        return await self._in_thread(usage.records)

    async def stretches(self, cluster: str | None, *, since: datetime, until: datetime) -> Sequence[UsageStretch]:
        """Answer what `records` does, with hours on end that are the same in one. Raises HomeUnusable."""
        usage = await self._ask(cluster, since=since, until=until)
        return await self._in_thread(usage.stretches)

    async def knows(self, cluster: str) -> bool:
        """Whether a cluster of this name is or was metered. Raises HomeUnusable."""
        if any(meter.name == cluster for meter in self._meters.values()):
            return True
        return await self._in_thread(partial(self._store.knows, cluster))

    async def _ask(self, cluster: str | None, *, since: datetime, until: datetime) -> Usage:
        now_ms = self._read_clocks()
        sending = self._sending
        memory = Memory(
            sent=sending.usage if sending else {},
            sent_number=sending.number if sending else 0,
            usage=dict(self._usage),
            meters=[meter for meter in self._meters.values() if cluster is None or meter.name == cluster],
            names={**(sending.names if sending else {}), **self._names},
            now_ms=now_ms,
            offset_ms=self._offset_ms,
        )
        hours = ledger.hours_touching(since, until)

        def read() -> Usage:
            last_batch, written = self._store.usage(cluster, hours)
            return reading.gather(written, last_batch, memory, cluster=cluster, hours=hours)

        return await self._in_thread(read)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # Accounting.

    def _read_clocks(self) -> int:
        """Answer the monotonic time. What was before a jump of the wall clock keeps the hours that it had."""
        now_ms = _monotonic_ms(self._clock)
        offset_ms = ledger.milliseconds(self._clock.now()) - now_ms
        if _has_jumped(self._offset_ms, offset_ms):
            for cluster_id, meter in list(self._meters.items()):
                self._meters[cluster_id] = self._settle(meter, self._seen_ms)
            self._dirty.update(self._meters)
            self._offset_ms = offset_ms
        self._seen_ms = now_ms
        return now_ms

    def _settle(self, meter: Meter, now_ms: int) -> Meter:
        settled, used = ledger.settle(meter, now_ms, offset_ms=self._offset_ms)
        self._add(meter, used)
        return settled

    def _add(self, meter: Meter, used: Used) -> None:
        for hours, amounts in used:
            place = Place(meter.cluster_id, hours)
            known = self._usage.get(place)
            self._usage[place] = amounts.plus(known) if known else amounts
        self._names[meter.cluster_id] = meter.name

    # Writing.

    async def _write(self) -> None:
        """Write what there is; if that cannot be done now, it is kept and goes first the next time."""
        if self._sending is None:
            self._take(self._changes(), are_watched=True)
        batch = self._sending
        assert batch is not None
        try:
            await self._in_thread(partial(self._store.write, batch))
        except errors.HostProblem as error:
            if not self._is_failing:
                _log.error("what clusters use cannot be written down; it is kept in memory", error=str(error))
            self._is_failing = True
            return
        if self._is_failing:
            _log.info("what clusters use is written down again")
        self._is_failing = False
        self._sending = None

    def _changes(self) -> Mapping[str, Meter | None]:
        return {cluster_id: self._meters.get(cluster_id) for cluster_id in self._dirty}

    def _take(self, meters: Mapping[str, Meter | None], *, are_watched: bool) -> Batch:
        """Take what memory has beyond the file into the next batch. None may be on its way."""
        self._number += 1
        self._sending = Batch(
            number=self._number,
            sighting=Sighting(boot_id=self._boot_id, seen_ms=self._seen_ms, offset_ms=self._offset_ms),
            usage=self._usage,
            meters=meters,
            names=self._names,
            are_watched=are_watched,
        )
        self._usage, self._names, self._dirty = {}, {}, set()
        self._changed.clear()
        return self._sending


def _monotonic_ms(clock: Clock) -> int:
    return round(clock.monotonic_s() * 1000)


def _has_jumped(known_ms: int, offset_ms: int) -> bool:
    return abs(offset_ms - known_ms) > _JUMP_MS
