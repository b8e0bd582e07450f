"""Create to first row, against initdb, or mariadb-install-db, start and first row by hand."""

import re
import subprocess
import time
from pathlib import Path

from bench import mariadb, report
from bench.sessions import first_row
from bench.stage import Stage, with_parameters
from zorya.core.model import EngineKind

_PROGRAMS = {EngineKind.POSTGRES: "initdb", EngineKind.MARIADB: "mariadb-install-db"}


def measure(stage: Stage, *, rounds: int = 7) -> list[report.Comparison]:
    """Make a cluster and connect to it, by hand and by Zorya in turn, and print the ratio."""
    bare, zorya = [], []
    for number in range(rounds):
        name = f"b{number}"
        began = time.perf_counter()
        shown = stage.server.create(name)
        first_row(_url(shown))
        zorya.append((time.perf_counter() - began) * 1000)
        stage.server.cli("delete", name, "--yes")
        bare.append(_by_hand(stage))
    compared = report.show(
        "Create to first row",
        report.Series(name=f"{_PROGRAMS[stage.engine]} and start, by hand", unit="ms", values=bare),
        [report.Series(name="zorya create, then connect", unit="ms", values=zorya)],
        figure="start",
        shape=report.Shape.VALUES,
        aim="at most 500 ms",
    )
    return [compared]


def _url(shown: str) -> str:
    found = re.search(r"\w+://\S+", shown)
    if found is None:
        raise RuntimeError(f"no URL in: {shown}")
    return with_parameters(found[0])


def _by_hand(stage: Stage) -> float:
    folder = stage.folder / "by-hand"
    folder.mkdir(mode=0o711)
    folder.chmod(0o777)
    began = time.perf_counter()
    if stage.engine is EngineKind.MARIADB:
        process, url = mariadb.start_new(stage.installation, folder, stage.user)
    else:
        process, url = _start_postgres(stage, folder)
    first_row(url)
    took = (time.perf_counter() - began) * 1000
    process.terminate()
    process.wait()
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return took


def _start_postgres(stage: Stage, folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
    data, program = folder / "data", stage.program_folder
    subprocess.run(
        [str(program / "initdb"), f"--pgdata={data}", "--auth=trust", "--username=zorya", "--data-checksums"],
        check=True,
        capture_output=True,
        cwd="/",
        **stage.user.switch(),
    )
    process = subprocess.Popen(
        [str(program / "postgres"), "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-p", "5432"],
        stderr=subprocess.DEVNULL,
        cwd="/",
        **stage.user.switch(),
    )
    return process, f"postgresql://zorya@/postgres?host={folder}"
