"""`python -m bench [--quick] [NAME ...]`: the named benchmarks, or all of them."""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import creation, gap, hammer, handshakes, memory, rest, results, resume, throughput, tls, wake
from bench.load import SCALE
from bench.report import Comparison
from bench.stage import stage

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
}

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
}
"""To see that everything works; the figures say little."""


def main() -> None:
    """Run the named benchmarks on one stage."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*_BENCHMARKS, []], metavar="|".join(_BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="only see that they work")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder for what was measured")
    given = parser.parse_args()
    names = given.names or list(_BENCHMARKS)
    host = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(host)
    # Ended from outside, it takes its servers with it all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    done: list[Comparison] = []
    with stage(scale=SCALE if _WITH_TABLES.intersection(names) else 0) as made:
        try:
            for name in names:
                began = time.monotonic()
                done += _BENCHMARKS[name](made, **(_QUICK[name] if given.quick else {}))
                print(f"\n{name} took {time.monotonic() - began:.0f} s.", flush=True)
        finally:
            if done:
                results.write(done, host, given.results)


if __name__ == "__main__":
    main()
