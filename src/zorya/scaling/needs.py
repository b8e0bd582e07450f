"""What each part of a cluster's work needs, in ACUs, with the sentence that says so. Pure.

A need has two marks. Below the bare one the work suffers, so that the capacity rises at once when it is less; at the
comfortable one there is headroom, and that is what the capacity becomes when it changes. What varies between the two
changes nothing.
"""

from dataclasses import dataclass

from zorya.core.capacity import Acu
from zorya.scaling.demand import Demand

CPU_FULL = 0.9
"""The use of its cores at which a cluster has too few: above, queries begin to wait for one another."""
CPU_CHOSEN = 0.8
"""The use of its cores for which a capacity is chosen; the rest is for what comes within the next second."""
CAP_REACHED = 0.95
"""The use of the cap at which there is no telling how much more would be used: the kernel gives it out in slices."""
CAP_THROTTLED = 0.25
"""The part of the time for which the cap stopped something, that says the same. Less is a burst of a few ms."""
JUMP = 3.0
"""So many times the cores that it has is another load, and not one that varies."""
MEAN_S = 10.0
"""Over about what time the use of cores is averaged where more of them than its own are there at once anyway.

In the simulations in `bench` that takes 15 to 44 % off the ACU-hours, and nothing waits for it there.
"""
SHORT_S = 0.5
"""A stretch of time so short that a single login or checkpoint could fill it."""
TICK_S = 0.1
"""About how long a tick is, in which a sudden use is seen first."""
NOISE_CPU_S = 0.02
"""Processor time beyond its cores in a short stretch that is no reason to grow: about what a login takes."""
MEMORY_FULL = 0.9
"""The part of its memory that may be in use; above, the kernel has little left to give back in a hurry."""
MEMORY_CHOSEN = 0.8
"""The part of its memory in use for which a capacity is chosen."""
CACHE_CHOSEN = 0.95
"""The same for page cache, which does no harm when it is a little too small."""
SESSION_BYTES = 32 * 1024**2
"""What a session at work is given beforehand: its process, caches of the catalog, and a sort or two (`work_mem`).

That is 64 of them for one ACU of 2 GiB. What they really use shows in the memory.
"""
SESSIONS_FULL = 0.75
"""The part of that with which a session still gets by."""

NEED_LASTS_S = 30.0
"""How long what was needed counts: rest between the statements of a batch, or between two users, changes nothing."""
CAPPED_LASTS_S = 45.0
"""The same for cores where the present capacity is the cap, since what comes again has to wait for them."""
GUESS_LASTS_S = 5.0
"""The same for a need that could only be guessed; by then it has been seen what it really is."""
KILL_LASTS_S = 300.0
"""The same where the kernel has ended a process for want of memory."""

_GIB = 1024**3


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What one part needs now."""

    bare: float
    """ACUs below which it is too little."""
    comfortable: float
    """ACUs with which there is headroom. Not less than `bare`."""
    sentence: str
    lasts_s: float
    """How long it counts."""


def wanted_cores(demand: Demand) -> float:
    """Answer the cores that it used and those that it waited for, as far as that is to be believed.

    A process that waited long for its turn need not have much to do. So it is no more than a core for each session
    that has something to do or, where it is not sessions that work, as much again as was used.
    """
    return demand.cores + min(demand.waiting_cores, max(_runnable(demand) - demand.cores, demand.cores))


def of_cpu(demand: Demand, *, capacity: float, acu: Acu, burst: bool, mean_cores: float, span_s: float) -> Need:
    """Answer what its processor time asks for. `span_s` is about how long a time `demand` is of.

    With `burst` nothing waits for the capacity, so that it is the mean of the last seconds that counts, `mean_cores`,
    until that is too much for its cores or the use has jumped. Without, each second counts.
    """
    cap = acu.cores_of(capacity)
    cores = wanted_cores(demand)
    is_noise = span_s < SHORT_S and (cores - cap) * span_s < NOISE_CPU_S
    is_covered = cores <= JUMP * cap and mean_cores <= CPU_FULL * cap
    if is_noise or (burst and is_covered):
        cores = mean_cores
    elif burst:
        cores = max(cores, mean_cores)
    waiting = f" and waits for {demand.waiting_cores:.2f} more" if demand.waiting_cores >= 0.1 else ""
    return Need(
        bare=cores / CPU_FULL / acu.cores,
        comfortable=cores / CPU_CHOSEN / acu.cores,
        sentence=f"It uses {demand.cores:.2f}{waiting} of {cap:.2f} cores.",
        lasts_s=NEED_LASTS_S if burst else CAPPED_LASTS_S,
    )


def of_cpu_beyond_cap(demand: Demand, *, capacity: float, acu: Acu) -> Need | None:
    """Answer what its processor time may ask for besides, where the present capacity is the cap; None within it.

    Use that reaches the cap says only that it wants more: as much as its sessions at work could use, each a core, and
    at least twice what it has.
    """
    cap = acu.cores_of(capacity)
    if demand.cores < CAP_REACHED * cap and demand.throttled < CAP_THROTTLED:
        return None
    runnable = _runnable(demand)
    guess = max(2 * capacity, runnable / acu.cores / CPU_CHOSEN)
    sentence = f"It uses all of its {cap:.2f} cores, with {runnable} sessions at work."
    return Need(bare=guess, comfortable=guess, sentence=sentence, lasts_s=GUESS_LASTS_S)


def of_memory(demand: Demand, *, capacity: float, acu: Acu, read_bytes: float, missed_bytes: float) -> Need:
    """Answer what its memory asks for: what is in use, and the page cache that earns its place.

    `read_bytes` is what it has read in the last minutes: no more cache than that can have been of use in them. Of this,
    what is warm counts, and `missed_bytes`, what was taken away and has just been read again.
    """
    cache = min(demand.warm_bytes + missed_bytes, read_bytes)
    bare = (demand.unreclaimable_bytes / MEMORY_FULL + cache) / acu.memory_bytes
    comfortable = (demand.unreclaimable_bytes / MEMORY_CHOSEN + cache / CACHE_CHOSEN) / acu.memory_bytes
    if demand.oom_kills:
        enough = max(2 * capacity, comfortable)
        sentence = f"Processes that the kernel ended for want of memory: {demand.oom_kills}."
        return Need(bare=enough, comfortable=enough, sentence=sentence, lasts_s=KILL_LASTS_S)
    sentence = f"Its memory in use is {demand.unreclaimable_bytes / _GIB:.1f} GiB"
    sentence += f", and its warm cache {cache / _GIB:.1f} GiB." if cache > demand.unreclaimable_bytes / 10 else "."
    return Need(bare=bare, comfortable=comfortable, sentence=sentence, lasts_s=NEED_LASTS_S)


def of_sessions(demand: Demand, *, acu: Acu) -> Need:
    """Answer what its sessions at work ask for before they use it. Idle ones ask for nothing."""
    comfortable = demand.at_work * SESSION_BYTES / acu.memory_bytes
    return Need(
        bare=comfortable * SESSIONS_FULL,
        comfortable=comfortable,
        sentence=f"Its sessions at work are {demand.at_work}.",
        lasts_s=NEED_LASTS_S,
    )


def _runnable(demand: Demand) -> int:
    return max(demand.at_work - demand.waiting, 0)
