"""What benchmarks do with MariaDB otherwise than with PostgreSQL: start it bare, load it, see how one came to it."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bench.sessions import Session
from zorya.core import commands
from zorya.core.account import Account
from zorya.core.model import EngineKind
from zorya.engines.base import Installation
from zorya.engines.mariadb import configuration, installations

TITLE = f"{EngineKind.MARIADB.product}: "
"""What the titles of its comparisons begin with."""

ROWS_A_SCALE = 60_000
"""Of sysbench's table, so that as many bytes come of a scale as of pgbench's."""

SELECTS = "oltp_point_select"
READ_WRITE = "oltp_read_write"
CONNECTIONS = str(Path(__file__).with_name("connect.lua"))

_PROC = Path("/proc")
_ESTABLISHED = "01"


def bare_command(installation: Installation, root: Path, port: int) -> Sequence[str]:
    """Answer what starts the server on a copy of a cluster, which was adopted, with no library."""
    return [
        str(installations.program(installation, installations.SERVER)),
        f"--defaults-file={root / 'conf' / configuration.SETTINGS_FILE}",
        f"--basedir={installation.folder}",
        f"--datadir={root / 'data'}",
        f"--port={port}",
    ]


def adopt(root: Path, places: Mapping[Path, Path], user: Account) -> None:
    """Have the copy of a cluster in `root` name its own places and not the original's, and make those that it lacks.

    `places` says for each folder of the original which one stands for it.
    """
    for path in (root / "conf" / configuration.SETTINGS_FILE, root / "data" / configuration.BINLOG_INDEX):
        if path.exists():
            text = path.read_text()
            for original, own in places.items():
                text = text.replace(str(original), str(own))
            path.write_text(text)
    for name in ("tmp", "files"):
        folder = root / name
        if not folder.exists():
            folder.mkdir(mode=0o700)
            os.chown(folder, user.uid, user.gid)


def engine_port(pid: int) -> int:
    """Answer the port at which Zorya's server with this process number listens itself."""
    words = (_PROC / str(pid) / "cmdline").read_text().split("\0")
    told = dict(word.split("=", 1) for word in words if "=" in word)
    return int(told.get("--extra-port", told["--port"]))


def look(url: str) -> tuple[int, bool]:
    """Answer at which port a session came to its engine, and whether the engine does TLS with whoever is there.

    The engine cannot tell: it is looked for among its sockets. One that is not there came by a relay.
    """
    with Session(url) as session:
        first = int(Path(session.value("SELECT @@pid_file")).read_text())
        own = int(session.value("SELECT IF(@@extra_port, @@extra_port, @@port)"))
        is_tls = bool(
            session.value(
                "SELECT VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME='Ssl_cipher'"
            )
        )
        return _port_of_socket(first, session.port) or own, is_tls


def _port_of_socket(pid: int, remote: int) -> int | None:
    """Answer the local port of the process's TCP socket whose other end has the port `remote` (proc_net_tcp(5))."""
    inodes = set()
    for entry in (_PROC / str(pid) / "fd").iterdir():
        target = str(entry.readlink())
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    for line in (_PROC / str(pid) / "net" / "tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _ESTABLISHED and fields[9] in inodes and int(fields[2].partition(":")[2], 16) == remote:
            return int(fields[1].partition(":")[2], 16)
    return None


def make_tables(scale: int, url: str) -> None:
    """Make sysbench's table."""
    sysbench(SELECTS, "prepare", f"--table-size={scale * ROWS_A_SCALE}", url=url)


def read_all(url: str) -> None:
    """Read every row of sysbench's table, and so into the buffer pool."""
    with Session(url) as session:
        session.value("SELECT SUM(LENGTH(c)) FROM sbtest1 FORCE INDEX (PRIMARY)")
        session.value("SELECT SUM(k) FROM sbtest1 FORCE INDEX (k_1)")


def sysbench(test: str, command: str, *options: str, url: str) -> str:
    """Run sysbench and answer its report."""
    parts = urlsplit(url)
    where = (
        f"--mysql-host={parts.hostname}",
        f"--mysql-port={parts.port}",
        f"--mysql-user={unquote(parts.username or '')}",
        f"--mysql-password={unquote(parts.password or '')}",
        f"--mysql-db={parts.path.removeprefix('/')}",
    )
    done = subprocess.run(
        ["sysbench", test, *where, *options, command], capture_output=True, text=True, check=False, cwd="/"
    )
    if done.returncode:
        raise RuntimeError(f"sysbench {test} {' '.join(options)}: {done.stdout}{done.stderr}")
    return done.stdout


def histogram(output: str) -> tuple[float, list[tuple[float, int]]]:
    """Answer, of a run with --histogram, transactions a second and how many took how many milliseconds, least first."""
    rate = re.search(r"transactions: +\d+ +\(([\d.]+) per sec", output)
    if rate is None:
        raise RuntimeError(f"sysbench said something else: {output}")
    counted = re.findall(r"^ *([\d.]+) \|[* ]*?(\d+)$", output, re.MULTILINE)
    return float(rate[1]), [(float(value), int(count)) for value, count in counted]


def start_new(installation: Installation, folder: Path, user: Account) -> tuple["subprocess.Popen[bytes]", str]:
    """Initialise a data folder in `folder` as MariaDB's own program does, and start a server on it; answer its URL."""
    data, socket = folder / "data", folder / "mariadb.sock"
    subprocess.run(
        [
            str(installations.program(installation, "mariadb-install-db")),
            "--no-defaults",
            f"--basedir={installation.folder}",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ],
        check=True,
        capture_output=True,
        cwd="/",
        env=dict(commands.ENVIRONMENT),
        **user.switch(),
    )
    process = subprocess.Popen(
        [
            str(installations.program(installation, installations.SERVER)),
            "--no-defaults",
            f"--basedir={installation.folder}",
            f"--datadir={data}",
            f"--socket={socket}",
            "--skip-networking",
        ],
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=dict(commands.ENVIRONMENT),
        **user.switch(),
    )
    return process, f"mysql://root@localhost/mysql?unix_socket={socket}"
