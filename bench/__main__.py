"""`python -m bench [resume|throughput|creation ...]`: all of them where none is named."""

import argparse
import os
import platform

from bench import creation, resume, throughput
from bench.stage import stage

_BENCHMARKS = {"resume": resume.measure, "throughput": throughput.measure, "creation": creation.measure}


def main() -> None:
    """Run the named benchmarks on one stage."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*_BENCHMARKS, []], metavar="|".join(_BENCHMARKS))
    names = parser.parse_args().names or list(_BENCHMARKS)
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with stage(scale=10 if "throughput" in names else 0) as made:
        for name in names:
            _BENCHMARKS[name](made)


if __name__ == "__main__":
    main()
