"""The simulation of a volume of six copies, for many seeds: what happened in it, and each seed that fails.

The simulation itself is tests/storage/simulation.py. It needs no server and no database.
"""

import importlib
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.report import Comparison

TESTS = Path(__file__).parents[1] / "tests"
"""Where the simulation is imported from."""

CHUNK = 50
"""How many seeds a process plays before it tells of them."""


def run(_: Path, *, seeds: int = 5000) -> list[Comparison]:
    """Play the seeds from 0 on and print what was done. There is nothing to compare.

    Raises RuntimeError if a seed failed, when all were played.
    """
    total: Counter[str] = Counter()
    failed: list[int] = []
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        for seed, (failure, counts) in enumerate(pool.map(_play, range(seeds), chunksize=CHUNK)):
            total += counts
            if failure:
                failed.append(seed)
                print(f"  seed {seed}: {failure}", flush=True)
    print(f"\nA volume of six copies, simulated: {seeds:,} seeds, {len(failed)} failed")
    for what, number in total.most_common():
        print(f"  {number:11,} {what}", flush=True)
    if failed:
        again = f"PYTHONPATH=tests python -m storage.simulation --first {failed[0]} --trace"
        raise RuntimeError(f"{len(failed)} of {seeds} seeds failed; to see the first: {again}")
    return []


def _play(seed: int) -> tuple[str, Counter[str]]:
    """Answer what must not have happened under this seed, empty if nothing did, and how often what happened."""
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))
    played = importlib.import_module("storage.simulation").run(seed)
    return played.failure, played.counts
