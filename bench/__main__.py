"""`python -m bench [--quick] [NAME ...]`: the named benchmarks, or all of them.

Those of clusters of one copy are there for MariaDB as well: `mariadb` stands for all of them, `mariadb.wake` for one.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from bench import (
    copies,
    creation,
    gap,
    hammer,
    handshakes,
    mariadb,
    memory,
    replay,
    rest,
    results,
    resume,
    sampling,
    scaling,
    simulate,
    simulate_volume,
    throughput,
    tls,
    wake,
)
from bench.load import SCALE
from bench.report import Comparison
from bench.stage import Stage, stage
from zorya.core.model import EngineKind

_BENCHMARKS: dict[str, Callable[..., list[Comparison]]] = {
    "resume": resume.measure,
    "throughput": throughput.measure,
    "tls": tls.measure,
    "handshakes": handshakes.measure,
    "creation": creation.measure,
    "wake": wake.measure,
    "hammer": hammer.measure,
    "rest": rest.measure,
    "memory": memory.measure,
    "gap": gap.measure,
    "scaling": scaling.measure,
    "sampling": sampling.measure,
    "replay": replay.measure,
    "copies": copies.measure,
}

_WITHOUT_STAGE: dict[str, Callable[..., list[Comparison]]] = {
    "simulate": simulate.run,
    "simulate_volume": simulate_volume.run,
}
"""Those that need no server and no client, but the folder for what was measured."""

_MARIADB = "mariadb"
_FOR_MARIADB = ("resume", "throughput", "creation", "wake", "hammer", "rest", "memory", "gap")

_WITH_TABLES = {"throughput", "tls", "handshakes"}

_QUICK = {
    "resume": {"rounds": 3},
    "throughput": {"turns": 1},
    "tls": {"turns": 1},
    "handshakes": {"turns": 1},
    "creation": {"rounds": 2},
    "wake": {"rounds": 100, "connections": 20},
    "hammer": {"seconds": 10},
    "rest": {"seconds": 6},
    "memory": {"rounds": 1},
    "gap": {"rounds": 3},
    "scaling": {"rounds": 2, "changes_made": 100, "paced_turns": 2},
    "sampling": {"clusters": 20, "seconds": 1},
    "replay": {"seconds": 20},
    "copies": {"turns": 1, "rounds": 3, "failures": 1, "rebuilt_mib": 128},
    "simulate": {"days": 1},
    "simulate_volume": {"seeds": 200},
}
"""To see that everything works; the figures say little."""


def main() -> None:
    """Run the named benchmarks, those that need it on one stage."""
    of_mariadb = [f"{_MARIADB}.{name}" for name in _FOR_MARIADB]
    every = [*_WITHOUT_STAGE, *_BENCHMARKS, _MARIADB, *of_mariadb]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*every, []], metavar="|".join(every))
    parser.add_argument("--quick", action="store_true", help="only see that they work")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder for what was measured")
    given = parser.parse_args()
    names = given.names or every
    host = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(host)
    # Ended from outside, it takes its servers with it all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    done: list[Comparison] = []
    try:
        for name in _WITHOUT_STAGE.keys() & names:
            done += _measure(name, _WITHOUT_STAGE[name], given.results, quick=given.quick)
        _on_stage(EngineKind.POSTGRES, [name for name in _BENCHMARKS if name in names], done, quick=given.quick)
        for_mariadb = [name for name in _FOR_MARIADB if {_MARIADB, f"{_MARIADB}.{name}"}.intersection(names)]
        _on_stage(EngineKind.MARIADB, for_mariadb, done, quick=given.quick)
    finally:
        if done:
            results.write(done, host, given.results)


def _on_stage(engine: EngineKind, names: Collection[str], done: list[Comparison], *, quick: bool) -> None:
    """Measure on one stage, and add to `done` what was measured as soon as it is."""
    if not names:
        return
    with stage(engine=engine, scale=SCALE if _WITH_TABLES.intersection(names) else 0) as made:
        for name in names:
            measured = _measure(name, _BENCHMARKS[name], made, quick=quick)
            done += measured if engine is EngineKind.POSTGRES else map(_of_mariadb, measured)


def _of_mariadb(one: Comparison) -> Comparison:
    return replace(one, title=mariadb.TITLE + one.title, figure=f"{_MARIADB}-{one.figure}")


def _measure(
    name: str, benchmark: Callable[..., list[Comparison]], given: Stage | Path, *, quick: bool
) -> list[Comparison]:
    began = time.monotonic()
    measured = benchmark(given, **(_QUICK[name] if quick else {}))
    print(f"\n{name} took {time.monotonic() - began:.0f} s.", flush=True)
    return measured


if __name__ == "__main__":
    main()
