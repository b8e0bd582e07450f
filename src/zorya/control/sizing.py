"""One cluster's capacity while its engine runs: what it uses, what it should have, and giving it that.

`scaling.policy` decides; `autoscaler.Autoscaler` says when to look, and how much there is for everybody. A change is
made in an order in which the engine is never told to use more than it may have: a larger capacity is first allowed by
the kernel and then made known to the engine, a smaller one the other way round.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from zorya.compute.limits import Limited, Limits
from zorya.control.events import EventKind
from zorya.control.live import LiveEngine
from zorya.control.seat import Seat
from zorya.control.standing import Standing
from zorya.control.surroundings import Surroundings
from zorya.control.view import LoadView, ScalingView
from zorya.core import errors, failpoints, logging
from zorya.core.capacity import Bounds
from zorya.core.model import Compute, Status
from zorya.scaling import demand, policy
from zorya.scaling.demand import Demand, Reading
from zorya.scaling.policy import Decision, Part, Situation
from zorya.scaling.shares import Claim

LOOK_EVERY_S = 1.0
"""How often a running engine's counters are read and its capacity is decided."""

FIRST_LOOK_S = 0.2
"""How soon that is after it was let run, since what it had before it slept may be far too much, and after it has
suddenly used more."""

WAITING = 0.1
"""The cores that are waited for, from which on the engine is asked how many sessions are at work."""

IDLE_CORES = 0.02
IDLE_LOOK_S = 5.0
"""Where it has the least and uses no more cores than that, it is looked at only so often."""

UNACCOUNTED_TICK_S = 0.5
"""How often its processor time is read where no control group counts it: a file of each of its processes."""

STIR = 0.9
"""The part of its capacity's cores whose use between two ticks has it looked at before it is due."""

DRIFT_BYTES = 32 * 1024**2
"""By how much the memory that it cannot do without may change until the kernel is told."""

RETRY_S = 5.0
"""How long the kernel is left alone that has refused a change."""

END_SEEN_WITHIN_S = 0.5
"""How long a process that was killed may have lost its connections already and not be seen to have ended."""

_log = logging.get("zorya.control")


class Sizing:
    """The capacity of one cluster."""

    def __init__(
        self, surroundings: Surroundings, *, standing: Standing, seat: Seat, changed: Callable[[], None]
    ) -> None:
        """Nothing is known of its load yet. `changed` is called when the engine is to be looked at."""
        self._changed = changed
        self._around = surroundings
        self._clock = surroundings.clock
        self._acu = surroundings.acu
        self._standing = standing
        self._seat = seat
        self._history = policy.begin()
        self._decision = Decision(capacity=standing.capacity, part=Part.BOUNDS, reason="It was just started.")
        self._before: Reading | None = None
        self._tick: tuple[float, float] | None = None
        self._tick_cores = 0.0
        self._tick_at_s = 0.0
        self._look_at_s = 0.0
        self._limits: Limits | None = None
        self._in_use_bytes = self._limited_bytes = 0
        self._shortfall = ""
        self._log_mark = 0
        self._killed = 0
        """Processes that the kernel has ended for want of memory and that were not told of yet."""
        self._wished = 0.0
        """What was set by hand last."""
        self._blocked_until_s = 0.0
        self._unconfigured = False
        self._is_short = False
        self.refusal: errors.LimitFailed | None = None
        """Why the kernel did not take what it was told last; None when it did."""
        self.load: LoadView | None = None
        """What it used last; None while it does not run."""
        self.last: ScalingView | None = None
        """The last change since the engine started, or was found; None where there was none."""

    # Its beginning and end.

    def choose_first(self) -> None:
        """Choose what the engine that is about to start has at first."""
        self._standing.set_capacity(self._bounds.least)

    def begin(self, live: LiveEngine) -> None:
        """Limit an engine that was just started, or found, before it is let work. What the kernel refuses is told."""
        self._history = policy.begin()
        self._limits, self.last = None, None
        self._shortfall, self.refusal = "", None
        self._is_short = False
        self._standing.set_capacity(self._bounds.clamp(self._standing.capacity))
        self._decision = Decision(capacity=self._standing.capacity, part=Part.BOUNDS, reason="It was just started.")
        self._log_mark = self._around.runner.log_mark(self._standing.record)
        limits = self._limits_of(self._standing.capacity)
        try:
            self._note_limits(limits, live.group.limit(limits))
        except errors.LimitFailed as error:
            self._note_refusal(error, "")

    def awake(self) -> None:
        """The engine runs from now on, after its start or its sleep."""
        self._before = self._tick = None
        self._look_at_s = self._clock.monotonic_s()
        self._standing.set_capacity(self._bounds.clamp(self._standing.capacity))
        self._decision = replace(self._decision, capacity=self._standing.capacity)

    def asleep(self) -> None:
        """The engine does not run, or is frozen."""
        self.load = None

    @property
    def capacity(self) -> float:
        """What it has while it runs, in ACUs."""
        return self._standing.capacity

    @property
    def _bounds(self) -> Bounds:
        return self._standing.record.bounds

    # What it should have.

    def is_due(self, now_s: float) -> bool:
        """Whether it is to be looked at: since it is time, or since it suddenly uses what it has. Reads one counter."""
        if now_s >= self._look_at_s:
            return not self._is_idle(now_s)
        if self._standing.capacity >= self._bounds.most or now_s < self._tick_at_s:
            return False
        self._note_tick(now_s)
        return self._tick_cores > STIR * self._acu.cores_of(self._standing.capacity)

    def _is_idle(self, now_s: float) -> bool:
        """Whether it has the least and has done next to nothing since it was looked at: what it needs is known."""
        before = self._before
        if before is None or self._standing.capacity > self._bounds.least or self.needs(self._standing.capacity):
            return False
        passed_s, cpu_s = now_s - before.at_s, self._read_cpu()
        if cpu_s is None or passed_s >= IDLE_LOOK_S or cpu_s - before.cpu_s > IDLE_CORES * passed_s:
            return False
        self._look_at_s = now_s + LOOK_EVERY_S
        return True

    def _read_cpu(self) -> float | None:
        try:
            return self._seat.live.group.cpu_s() if self._seat.live is not None else None
        except OSError:
            return None

    def _note_tick(self, now_s: float) -> None:
        live, before = self._seat.live, self._tick
        cpu_s = self._read_cpu()
        if live is not None and not live.group.is_accounted:
            self._tick_at_s = now_s + UNACCOUNTED_TICK_S
        self._tick = (now_s, cpu_s) if cpu_s is not None else None
        passed_s = now_s - before[0] if before is not None else 0.0
        if before is None or cpu_s is None or passed_s <= 0:
            self._tick_cores = 0.0
        else:
            self._tick_cores = max(0.0, (cpu_s - before[1]) / passed_s)

    def look(self, now_s: float) -> None:
        """Read its counters and decide what it should have. Where they cannot be read, it keeps what it has."""
        live = self._seat.live
        if live is None or self._standing.record.compute is not Compute.RUNNING:
            self._tell_of_kills(())
            return
        before, is_sudden = self._before, now_s < self._look_at_s
        self._look_at_s = now_s + (FIRST_LOOK_S if before is None or is_sudden else LOOK_EVERY_S)
        try:
            after = self._read(live, now_s)
        except OSError as error:
            # Its group has gone, which giving it its limits again mends, or it has just ended.
            _log.debug("the load cannot be read", cluster=self._standing.name, error=str(error))
            self._limits = self._before = None
            return
        self._before = after
        self._in_use_bytes = after.unreclaimable_bytes
        if before is None or after.at_s <= before.at_s:
            return
        seen = demand.between(before, after)
        if is_sudden or seen.waiting_cores > WAITING:
            # How many of its sessions are at work says how much it can want.
            live.ask_soon()
            self._changed()
        self.load = _load(seen, after)
        situation = Situation(
            now_s=now_s,
            capacity=self._standing.capacity,
            demand=seen,
            tick_cores=self._tick_cores if is_sudden else 0.0,
            bounds=self._bounds,
            acu=self._acu,
            burst=self._around.burst,
        )
        self._decision, self._history = policy.decide(situation, self._history)
        self._keep_wish()
        self._note_kills(live, seen.oom_kills)
        if not self._killed:
            self._log_mark = self._around.runner.log_mark(self._standing.record)

    def _note_kills(self, live: LiveEngine, number: int) -> None:
        """Tell of processes that the kernel has ended: at the next look, if the engine has not said by now which."""
        is_late = self._killed > 0
        self._killed += number
        if self._killed:
            kinds = self._around.runner.killed_since(self._standing.record, live.process.pid, self._log_mark)
            if kinds or is_late:
                self._tell_of_kills(kinds)

    def _tell_of_kills(self, kinds: Sequence[str]) -> None:
        number, self._killed = self._killed, 0
        if number:
            which = f" ({', '.join(sorted(set(kinds)))})" if kinds else ""
            self._standing.tell_later(
                EventKind.OUT_OF_MEMORY, f"It ended {number}{which}. The engine ends all sessions then, and recovers."
            )

    def _read(self, live: LiveEngine, now_s: float) -> Reading:
        usage, activity = live.group.usage(), live.activity
        return Reading(
            at_s=now_s,
            cpu_s=usage.cpu_s,
            throttled_s=usage.throttled_s,
            waited_s=usage.waited_s,
            memory_bytes=usage.memory_bytes,
            unreclaimable_bytes=usage.unreclaimable_bytes,
            warm_bytes=usage.warm_bytes,
            refaults=usage.refaults,
            oom_kills=usage.oom_kills,
            sessions=live.counted,
            at_work=activity.at_work if activity else 0,
            waiting=activity.waiting if activity else 0,
            blocks_hit=activity.blocks_hit if activity else None,
            blocks_read=activity.blocks_read if activity else None,
            cache_bytes=activity.cache_bytes if activity else 0,
            blocks_missed=activity.blocks_missed if activity else 0,
        )

    def _keep_wish(self) -> None:
        """Have what was set by hand stay wanted, also while it cannot be had, or what memory in use has made of it."""
        if self._decision.part is Part.HAND:
            self._decision = replace(self._decision, capacity=self._bounds.clamp(self._wished))
        else:
            self._wished = max(self._wished, self._decision.capacity)

    def choose_by_hand(self, capacity: float) -> None:
        """Have it get this capacity with the next round; the policy goes on from it after a while."""
        now_s = self._clock.monotonic_s()
        # Whoever asks is to know whether it can be had now.
        self._blocked_until_s = now_s
        self._wished = capacity
        self._history = policy.set_by_hand(self._history, now_s + self._around.capacity_hold_s)
        self._decision = Decision(capacity=capacity, part=Part.HAND, reason="It was set by hand.")

    def claim(self) -> Claim:
        """Answer what it wants of the node."""
        bounds = self._bounds
        return Claim(
            name=self._standing.record.id,
            wanted=bounds.clamp(self._decision.capacity),
            least=bounds.least,
            weight=bounds.most,
        )

    # Giving it that.

    def needs(self, capacity: float) -> bool:
        """Whether anything is to be done for it to have this capacity."""
        if self._clock.monotonic_s() < self._blocked_until_s:
            return False
        is_so = capacity == self._standing.capacity and self._limits == self._limits_of(capacity)
        # The kernel is told what it may not take away, which is other memory by and by.
        has_drifted = abs(self._in_use_bytes - self._limited_bytes) >= DRIFT_BYTES
        return not is_so or has_drifted or bool(self._shortfall) or self._unconfigured

    async def give(self, capacity: float) -> None:
        """Give it this capacity, and tell of it if it is another. What fails is told, and tried again later."""
        live = self._seat.live
        if live is None or self._standing.record.compute is not Compute.RUNNING:
            return
        if capacity == self._standing.capacity:
            if await self._limit(live, capacity):
                await self._configure(live, capacity)
        else:
            await self._change(live, capacity)

    async def _change(self, live: LiveEngine, capacity: float) -> None:
        before, began_s = self._standing.capacity, self._clock.monotonic_s()
        # As long as the kernel refuses, it is tried again and again: that is neither told nor has the engine follow.
        is_tried_again = self.refusal is not None
        if not is_tried_again:
            self._standing.tell_later(EventKind.SCALING, f"{_step(before, capacity)}: {self._why(capacity)}")
        await failpoints.reached("scale.begun")
        settings_first = capacity < before and not is_tried_again
        if settings_first:
            await self._configure(live, capacity)
        if not await self._limit(live, capacity):
            if settings_first:
                await self._configure(live, before)
            return
        self._standing.set_capacity(capacity)
        await failpoints.reached("scale.limited")
        if not settings_first:
            await self._configure(live, capacity)
        await failpoints.reached("scale.done")
        self._note_change(before, capacity, self._clock.monotonic_s() - began_s)

    def note_share(self, share: float, node_acu: float) -> None:
        """Tell once when the node has less for it than it wants, and once when that is over."""
        wanted = self._bounds.clamp(self._decision.capacity)
        is_short = share < wanted
        if is_short and not self._is_short:
            said = f"It wants {wanted:g} ACUs and gets {share:g} of the {node_acu:g} that there are for all clusters."
            self._standing.tell_later(EventKind.NODE_FULL, said)
        elif self._is_short and not is_short:
            self._standing.tell_later(EventKind.NODE_HAS_ROOM, f"It has {share:g} ACUs.")
        self._is_short = is_short

    def _limits_of(self, capacity: float) -> Limits:
        most = self._bounds.most
        return Limits(
            cap_cores=self._acu.cores_of(most if self._around.burst else capacity),
            weight_acu=capacity,
            soft_bytes=self._acu.memory_of(capacity),
            hard_bytes=self._acu.memory_of(most),
        )

    async def _limit(self, live: LiveEngine, capacity: float) -> bool:
        """Have the kernel limit it; answer whether it does."""
        limits, before = self._limits_of(capacity), self._standing.capacity
        try:
            if capacity > before:
                limited = live.group.limit(limits)
            else:
                # The kernel may look for memory to take back before it returns.
                limited = await asyncio.to_thread(live.group.limit, limits)
        except errors.LimitFailed as error:
            self._note_refusal(error, f"{_step(before, capacity)}: " if capacity != before else "")
            return False
        self._note_limits(limits, limited)
        return True

    def _note_limits(self, limits: Limits, limited: Limited) -> None:
        self._limits = limits
        self._shortfall = limited.shortfall
        self._limited_bytes = self._in_use_bytes
        if self.refusal is not None:
            _log.info("capacity can be applied again", cluster=self._standing.name)
        self.refusal = None

    def _note_refusal(self, error: errors.LimitFailed, step: str) -> None:
        self._limits = None
        self._blocked_until_s = self._clock.monotonic_s() + RETRY_S
        if self.refusal is None or error.message != self.refusal.message:
            _log.warning("capacity cannot be applied", cluster=self._standing.name, error=str(error))
            self._standing.tell_later(EventKind.SCALE_FAILED, f"{step}{error}")
        self.refusal = error

    async def _configure(self, live: LiveEngine, capacity: float) -> None:
        """Have the engine's settings follow. Where they cannot, it goes on with those that it has."""
        try:
            is_new = await self._around.runner.write_capacity(self._standing.record, capacity)
            if is_new or self._unconfigured:
                await self._reload(live, capacity)
        except errors.ZoryaError as error:
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SEEN_WITHIN_S):
                    await live.process.wait()
            if not self._unconfigured and self._is_to_be_told(live):
                _log.warning("the engine's settings do not follow", cluster=self._standing.name, error=str(error))
            self._unconfigured = True
            self._blocked_until_s = self._clock.monotonic_s() + RETRY_S

    async def _reload(self, live: LiveEngine, capacity: float) -> None:
        async with live.telling:
            is_fit = self._is_to_be_told(live)
            if is_fit:
                await failpoints.reached("capacity.telling")
                await self._around.runner.reload(self._standing.record, live.process, capacity)
            self._unconfigured = not is_fit

    def _is_to_be_told(self, live: LiveEngine) -> bool:
        """Whether the engine runs and is to go on.

        A signal to a frozen one would thaw it, a question would wait for it; nor is the stop of one to be disturbed.
        """
        record = self._standing.record
        is_wanted = record.status is Status.AVAILABLE and record.compute is Compute.RUNNING
        return is_wanted and self._seat.live is live and live.process.alive

    def _note_change(self, before: float, after: float, took_s: float) -> None:
        part = Part.NODE if after < self._bounds.clamp(self._decision.capacity) else self._decision.part
        reason = self._why(after)
        self.last = ScalingView(
            at=self._clock.now(), from_acu=before, to_acu=after, part=part.value, reason=reason, took_s=took_s
        )
        told = f"{_step(before, after)} in {took_s * 1000:.0f} ms: {reason}"
        _log.info("scaled", cluster=self._standing.name, before=before, after=after, part=part.value, reason=reason)
        if self._shortfall:
            self._standing.tell_later(EventKind.SCALED_UNEVENLY, f"{told} {self._shortfall}")
        else:
            self._standing.tell_later(EventKind.SCALED, told)

    def _why(self, capacity: float) -> str:
        wanted = self._bounds.clamp(self._decision.capacity)
        if capacity < wanted:
            return f"{self._decision.reason} It wants {wanted:g} ACUs, and there are not enough for all clusters."
        return self._decision.reason


def _step(before: float, after: float) -> str:
    return f"From {before:g} to {after:g} ACUs"


def _load(seen: Demand, after: Reading) -> LoadView:
    return LoadView(
        cores=seen.cores,
        cores_wanted=seen.cores + seen.waiting_cores,
        memory_bytes=seen.memory_bytes,
        in_use_bytes=seen.unreclaimable_bytes,
        at_work=seen.at_work,
        waiting=seen.waiting,
        hit_ratio=seen.hit_ratio,
        cpu_s=after.cpu_s,
        throttled_s=after.throttled_s,
        oom_kills=after.oom_kills,
    )
