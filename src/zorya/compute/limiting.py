"""Writing limits to control groups: the half of `limits` that does it."""

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from zorya.compute import cgroups, counters, limits
from zorya.compute.limits import Limited, Limits, Write
from zorya.compute.placement import Places


def apply(places: Places, wanted: Limits) -> Limited:
    """Have the kernel hold what of `wanted` the group has a place for, in as far as it says otherwise now.

    What there is is read first, so that others' changes are noticed and nothing is written twice. Raises OSError, and
    then what was written before is taken back, as far as that is possible.
    """
    undo: list[tuple[Path, str]] = []
    limited = Limited(shortfall="")
    try:
        if places.cpu is not None:
            present = _read(places.cpu.folder, limits.FILES["cpu", places.cpu.version])
            cpus = len(os.sched_getaffinity(0))
            _write(places.cpu.folder, limits.plan_cores(places.cpu.version, wanted, present, cpus=cpus), present, undo)
        if places.memory is not None:
            version, folder = places.memory.version, places.memory.folder
            use = counters.read_memory(version, folder)
            present = _read(folder, limits.FILES["memory", version])
            plan = limits.plan_memory(version, wanted, use, present)
            is_done = _write(folder, plan.writes, present, undo)
            limited = plan.limited if is_done else Limited(shortfall=limits.shortfall(wanted, use))
    except OSError:
        for path, text in reversed(undo):
            with contextlib.suppress(OSError):
                path.write_text(text)
        raise
    return limited


def _read(folder: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: cgroups.read(folder, name).strip() for name in names}


def _write(folder: Path, writes: Iterable[Write], present: dict[str, str], undo: list[tuple[Path, str]]) -> bool:
    """Write one after the other, noting how to undo each. Answer whether none of them has to wait."""
    is_done = True
    for one in writes:
        file, text = one.file, one.text
        try:
            try:
                _put(folder / file, text)
            except OSError as error:
                if one.otherwise is None or error.errno != errno.EINVAL:
                    raise
                file, text = one.otherwise
                _put(folder / file, text)
        except OSError as error:
            if not one.can_wait or error.errno != errno.EBUSY:
                raise
            is_done = False
        else:
            undo.append((folder / file, present[file]))
    return is_done


def _put(path: Path, text: str) -> None:
    """Write it at once. Raises OSError with the file's name, which that of a refused write lacks."""
    try:
        path.write_text(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
