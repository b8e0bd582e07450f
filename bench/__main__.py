"""`python -m bench [resume|throughput|creation|wake|hammer|rest|memory|gap ...]`: all of them where none is named."""

import argparse
import os
import platform
import signal
import sys
from collections.abc import Callable

from bench import creation, gap, hammer, memory, rest, results, resume, throughput, wake
from bench.report import Comparison
from bench.stage import stage

_BENCHMARKS: dict[str, Callable[..., list[Comparison]]] = {
    "resume": resume.measure,
    "throughput": throughput.measure,
    "creation": creation.measure,
    "wake": wake.measure,
    "hammer": hammer.measure,
    "rest": rest.measure,
    "memory": memory.measure,
    "gap": gap.measure,
}

_QUICK = {
    "resume": {"rounds": 3},
    "throughput": {"turns": 1},
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
    given = parser.parse_args()
    names = given.names or list(_BENCHMARKS)
    host = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(host)
    # Ended from outside, it takes its servers with it all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    done: list[Comparison] = []
    with stage(scale=throughput.SCALE if "throughput" in names else 0) as made:
        try:
            for name in names:
                done += _BENCHMARKS[name](made, **(_QUICK[name] if given.quick else {}))
        finally:
            if done:
                results.write(done, host)


if __name__ == "__main__":
    main()
