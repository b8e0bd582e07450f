"""How much capacity a cluster should have. Pure: a situation in, a capacity and its reason out.

`control.autoscaler` is the half that reads counters and acts. The rules:

1. Each part of the work (`needs`: CPU, memory, sessions) needs so many ACUs. The target is the most that any needs, in
   steps, within the cluster's bounds.
2. Up at once, and to the whole target: as soon as the capacity is less than the bare need of any part.
3. Down to the most that was needed within the last half a minute (NEED_LASTS_S; for CPU without burst somewhat more,
   CAPPED_LASTS_S), at most every SETTLE_S. Time without decisions, as while frozen, is time without needs.
4. What lies between the bare and the comfortable need changes nothing, so that a load that varies a little does not
   have the capacity follow it.
5. With burst a cluster has more cores than its own at once, so that its capacity follows the mean of the last seconds
   (MEAN_S); but a use of JUMP times its cores is answered at once. Without burst each second counts, and one that runs
   into the cap at least doubles the capacity.
6. Page cache is a need as far as it was read within the last READS_LAST_S; more of it is nobody's loss. What had to be
   read again since it had been taken away counts with it.
7. Sessions at work need memory before they use it; idle ones only what they really use.
8. A process that the kernel ended for want of memory at least doubles the capacity, for KILL_LASTS_S.
9. A capacity that was set by hand stays as long as it was said to, unless the memory in use no longer fits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import exp, inf

from zorya.core.capacity import STEP, Acu, Bounds, round_up
from zorya.scaling import needs
from zorya.scaling.demand import Demand

SETTLE_S = 10.0
"""How long the capacity is not reduced again after it was: a slow fall takes fewer and larger steps."""
READS_LAST_S = 300.0
"""How long what was read keeps its page cache: Gray and Putzolu's five-minute rule (SIGMOD 1987), by which a page that
is wanted less often costs less on the disk than in memory. In the simulations in `bench` twice as long takes up to a
quarter more ACU-hours, and half as long up to four times the seconds in which the cache is colder than it should be."""
MISSES_LAST_S = 30.0
"""How long what had to be read again counts besides; by then it is warm itself, or was not needed once more."""
SLICE_S = 10.0
"""In what slices of time reads are remembered."""
PAUSE_S = 5.0
"""Between two decisions that are further apart the cluster was frozen, or nobody looked."""
LOOK_S = 0.1
"""Of how long a demand is then taken to be: the shortest that there is."""


class Part(StrEnum):
    """What asks for a capacity. The target is the most that any of them asks for."""

    CPU = "cpu"
    MEMORY = "memory"
    SESSIONS = "sessions"
    BOUNDS = "bounds"
    """The cluster's least or most capacity, or its fixed one."""
    HAND = "hand"
    """Somebody has set it, and it is not yet for the policy to go on."""
    NODE = "node"
    """There is no more on this host."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """All that a decision depends on, but for what went before."""

    now_s: float
    """By the monotonic clock."""
    capacity: float
    """What it has, in ACUs."""
    demand: Demand
    """Since the last decision, or the last whole second if that is longer."""
    tick_cores: float
    """Cores used in the last tenth of a second or so, where it is looked at because of that; else 0."""
    bounds: Bounds
    acu: Acu
    burst: bool
    """Whether it may use more cores than its capacity's, up to those of its most, while they are free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What it should have."""

    capacity: float
    """In ACUs, a step within the bounds."""
    part: Part
    """What asked for it."""
    reason: str
    """Why, as a sentence for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """What was needed at one time, as long as it counts."""

    capacity: float
    """In ACUs, in steps."""
    part: Part
    sentence: str
    at_s: float
    until_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reads:
    """What was read in one slice of time."""

    since_s: float
    read_bytes: float
    missed_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What went before, as far as it matters. Made by `begin`; a caller passes on what it was given last."""

    held_until_s: float
    """Until when a capacity that was set by hand stays."""
    began_s: float | None
    """When the first decision was; None before it."""
    decided_s: float
    """When the last one was."""
    lowered_s: float
    """When the capacity was last reduced."""
    mean_cores: float
    """Those that were wanted, on average over the last seconds."""
    kept: tuple[_Kept, ...]
    """From the least to the most; the more, the shorter it still counts."""
    reads: tuple[_Reads, ...]
    """From the newest on."""


def begin() -> History:
    """Answer the history of a cluster that has none: it starts, or was just found."""
    return History(held_until_s=-inf, began_s=None, decided_s=-inf, lowered_s=-inf, mean_cores=0.0, kept=(), reads=())


def set_by_hand(history: History, until_s: float) -> History:
    """Answer the history after somebody has set the capacity, which is to stay until then."""
    return replace(history, held_until_s=until_s)


def decide(now: Situation, history: History) -> tuple[Decision, History]:
    """Answer what the cluster should have now. Total; to be asked again every second at least, and at any time."""
    since_s = max(now.now_s - history.decided_s, 0.0)
    span_s = since_s if since_s <= PAUSE_S else LOOK_S
    history = replace(
        history,
        began_s=now.now_s if history.began_s is None else history.began_s,
        decided_s=now.now_s,
        mean_cores=_mean(history.mean_cores, since_s, needs.wanted_cores(now.demand), span_s),
        reads=_with_reads(now, history, span_s),
    )
    wanted = _needs(now, history, span_s)
    history = replace(history, kept=_with_needs(now.now_s, history.kept, wanted))
    decision = _decide(now, wanted, history)
    if decision.capacity < now.capacity:
        history = replace(history, lowered_s=now.now_s)
    return decision, history


def _mean(before: float, since_s: float, last: float, span_s: float) -> float:
    """Answer the mean use, what is longer ago counting less: `last` for `span_s`, and `before` until `since_s` ago."""
    return before * exp(-since_s / needs.MEAN_S) + last * (1 - exp(-span_s / needs.MEAN_S))


def _needs(now: Situation, history: History, span_s: float) -> Sequence[tuple[Part, needs.Need]]:
    demand, acu = now.demand, now.acu
    memory = needs.of_memory(
        demand,
        capacity=max(now.capacity, STEP),
        acu=acu,
        read_bytes=sum(each.read_bytes for each in history.reads),
        missed_bytes=sum(each.missed_bytes for each in history.reads if now.now_s - each.since_s < MISSES_LAST_S),
    )
    return [
        *((Part.CPU, need) for need in _needs_of_cpu(now, history, span_s)),
        (Part.MEMORY, memory),
        (Part.SESSIONS, needs.of_sessions(demand, acu=acu)),
    ]


def _needs_of_cpu(now: Situation, history: History, span_s: float) -> Iterator[needs.Need]:
    """Yield what its processor time asks for, as a whole and of the last tick.

    What a tick showed counts at once, and not for long: by then it has been seen whether it goes on.
    """
    has, mean = max(now.capacity, STEP), history.mean_cores
    yield needs.of_cpu(now.demand, capacity=has, acu=now.acu, burst=now.burst, mean_cores=mean, span_s=span_s)
    sudden = replace(now.demand, cores=max(now.demand.cores, now.tick_cores))
    if sudden != now.demand:
        need = needs.of_cpu(
            sudden, capacity=has, acu=now.acu, burst=now.burst, mean_cores=mean, span_s=min(span_s, needs.TICK_S)
        )
        yield replace(need, lasts_s=needs.GUESS_LASTS_S)
    beyond = None if now.burst else needs.of_cpu_beyond_cap(sudden, capacity=has, acu=now.acu)
    if beyond is not None:
        yield beyond


def _with_reads(now: Situation, history: History, span_s: float) -> tuple[_Reads, ...]:
    """Answer what was read lately, in slices, what the demand says of the last `span_s` included."""
    if history.began_s is None:
        # Nothing is known of what was read before. What is warm then has been of use to somebody.
        return (_Reads(since_s=now.now_s, read_bytes=now.demand.warm_bytes, missed_bytes=0.0),)
    lately = [each for each in history.reads if now.now_s - each.since_s < READS_LAST_S]
    read, missed = now.demand.read_bytes_s * span_s, now.demand.refault_bytes_s * span_s
    if lately and now.now_s - lately[0].since_s < SLICE_S:
        newest = lately.pop(0)
        read, missed, since_s = newest.read_bytes + read, newest.missed_bytes + missed, newest.since_s
    else:
        since_s = now.now_s
    return (_Reads(since_s=since_s, read_bytes=read, missed_bytes=missed), *lately)


def _with_needs(now_s: float, kept: Sequence[_Kept], wanted: Sequence[tuple[Part, needs.Need]]) -> tuple[_Kept, ...]:
    """Answer what counts, from the least to the most. What another outdoes in capacity and in time is left out."""
    found = [
        _Kept(
            capacity=round_up(need.comfortable),
            part=part,
            sentence=need.sentence,
            at_s=now_s,
            until_s=now_s + need.lasts_s,
        )
        for part, need in wanted
    ]
    found += [each for each in kept if each.until_s > now_s]
    answer: list[_Kept] = []
    for each in sorted(found, key=lambda one: (one.capacity, one.until_s), reverse=True):
        if not answer or each.until_s > answer[-1].until_s:
            answer.append(each)
    return tuple(reversed(answer))


def _decide(now: Situation, wanted: Sequence[tuple[Part, needs.Need]], history: History) -> Decision:
    least, most = now.bounds.least, now.bounds.most
    if least == most:
        return Decision(capacity=least, part=Part.BOUNDS, reason=f"Its capacity is fixed at {least:g} ACUs.")
    has = now.bounds.clamp(now.capacity)
    if now.now_s < history.held_until_s:
        return _while_held(now, has, history.held_until_s)
    if any(need.bare > has for _, need in wanted):
        part, need = max(wanted, key=lambda item: item[1].comfortable)
        return _raise(now, part, round_up(need.comfortable), need.sentence)
    if has != now.capacity:
        return Decision(capacity=has, part=Part.BOUNDS, reason=f"Its capacity is to be {least:g} to {most:g} ACUs.")
    top = history.kept[-1]
    aim = max(top.capacity, least)
    part = top.part if top.capacity > least else Part.BOUNDS
    if aim < has and _may_lower(now, history):
        reason = f"Nothing has needed more than {aim:g} ACUs for {_lasts_s(now):.0f} s."
        return Decision(capacity=aim, part=part, reason=reason)
    if aim == has == least:
        return Decision(capacity=has, part=part, reason=f"Nothing needs more than {least:g} ACUs.")
    return Decision(capacity=has, part=part, reason=_say(top, now.now_s))


def _raise(now: Situation, part: Part, capacity: float, reason: str) -> Decision:
    most = now.bounds.most
    if capacity > most:
        reason = f"It needs {capacity:g} ACUs and may have {most:g}. {reason}"
        return Decision(capacity=most, part=part, reason=reason)
    return Decision(capacity=max(capacity, now.bounds.least), part=part, reason=reason)


def _may_lower(now: Situation, history: History) -> bool:
    known_s = now.now_s - (now.now_s if history.began_s is None else history.began_s)
    return known_s >= _lasts_s(now) and now.now_s - history.lowered_s >= SETTLE_S


def _lasts_s(now: Situation) -> float:
    return needs.NEED_LASTS_S if now.burst else needs.CAPPED_LASTS_S


def _while_held(now: Situation, has: float, until_s: float) -> Decision:
    in_use = needs.of_memory(now.demand, capacity=has, acu=now.acu, read_bytes=0.0, missed_bytes=0.0)
    if in_use.bare > has:
        capacity = now.bounds.clamp(round_up(in_use.comfortable))
        return Decision(capacity=capacity, part=Part.MEMORY, reason=in_use.sentence)
    reason = f"It was set by hand and stays for another {until_s - now.now_s:.0f} s."
    return Decision(capacity=has, part=Part.HAND, reason=reason)


def _say(top: _Kept, now_s: float) -> str:
    if top.at_s == now_s:
        return top.sentence
    return f"It needed {top.capacity:g} ACUs {now_s - top.at_s:.0f} s ago."
