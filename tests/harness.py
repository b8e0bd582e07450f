"""A real Zorya server in a process of its own, with the faults that tests need."""

import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
import pymysql

import preloaded
from command_here import run_here
from waiting import wait_until
from zorya.cli.client import Api

_BAD_LINE = re.compile(r"level=(warning|error|critical)|Traceback|ResourceWarning|never awaited|never retrieved")

_COMMAND = [sys.executable, "-m", "zorya"]

ServerProcess = subprocess.Popen[bytes] | preloaded.Process
"""The process of a server."""


class Server:
    """One home and the servers that are started on it, one after the other."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.parent / "server.log"
        self.process: ServerProcess | None = None
        first = random.randrange(20000, 29000)
        self.env = {
            **os.environ,
            "ZORYA_HOME": str(home),
            "ZORYA_PORT_RANGE": f"{first}-{first + 200}",
            "ZORYA_API_PORT": "0",
            # What six copies add is tested where it matters; they take six times as long.
            "ZORYA_COPIES": "1",
            # Tests fail to log in often and from one address.
            "ZORYA_LOGIN_DELAY_MAX_S": "0",
            "PYTHONWARNINGS": "error",
        }
        self.api = Api(home)
        """What the command line itself uses, without its start-up time."""
        self.command = _COMMAND
        self.allowed: list[str] = []
        self.is_as_usual = True
        """Whether it was last started without anything that a test had chosen."""
        self._earlier_event = 0
        self._checked_bytes = 0

    # Its life.

    def start(self, *args: str, **env: str) -> None:
        """Start the server and wait until it is up."""
        self.begin(*args, **env)
        wait_until(self._is_up, f"the server is up; its log: {self.log.read_text()[-2000:]}", 60)

    def begin(self, *args: str, **env: str) -> ServerProcess:
        """Start the server without waiting."""
        assert self.process is None or self.process.poll() is not None
        self.is_as_usual = not args and not env
        whole = {**self.env, **env}
        with self.log.open("ab") as log:
            if self.command == _COMMAND:
                self.process = preloaded.start(["up", *args], env=whole, log=log)
            else:
                self.process = subprocess.Popen(
                    [*self.command, "up", *args],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=whole,
                    start_new_session=True,
                )
        return self.process

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
        try:
            address = json.loads((self.home / "run" / "api.json").read_text())
        except FileNotFoundError:
            return False
        return bool(address["pid"] == self.process.pid)

    def is_running(self) -> bool:
        """Whether the process that was started last is still there."""
        return self.process is not None and self.process.poll() is None

    def keeper_pid(self) -> int:
        """Answer the process that holds the endpoints; 0 when there is none."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            try:
                link.connect(str(self.home / "run" / "keeper.sock"))
            except OSError:
                return 0
            return int(struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])

    def kill(self) -> None:
        """End the server with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait_killed(self) -> None:
        """Wait until the server has ended itself, at a failpoint."""
        assert self.process is not None
        assert self.process.wait(60) == -signal.SIGKILL

    def stop(self) -> None:
        """Stop the server as a supervisor does."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(60) == 0

    def allow(self, *patterns: str) -> None:
        """Say which warnings or errors this test causes, as regular expressions."""
        self.allowed += patterns

    def check_log(self) -> None:
        """Fail on every warning or error line since the last look that the test did not announce."""
        written = self.log.read_bytes()[self._checked_bytes :] if self.log.exists() else b""
        self._checked_bytes += len(written)
        allowed, self.allowed = self.allowed, []
        bad = [
            line
            for line in written.decode().splitlines()
            if _BAD_LINE.search(line) and not any(re.search(pattern, line) for pattern in allowed)
        ]
        assert not bad, "unexpected lines in the server's log:\n" + "\n".join(bad)

    # What a user does.

    def cli(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command line as a process; never raises."""
        return subprocess.run(
            [*self.command, *args],
            capture_output=True,
            text=True,
            env={**self.env, **env},
            timeout=90,
            check=False,
        )

    def run(self, *args: str) -> str:
        """Run the command line and answer what it printed; fails when it failed."""
        done = (run_here(args, self.env) if self.command == _COMMAND else None) or self.cli(*args)
        assert done.returncode == 0, f"zorya {' '.join(args)}: {done.stderr}"
        return done.stdout

    def json(self, *args: str) -> Any:
        """Run a command with --json and answer what it printed."""
        return json.loads(self.run(*args, "--json"))

    def show(self, name: str = "main") -> Any:
        """Answer `zorya show NAME --json`."""
        return self.api.cluster(name)

    def url(self, name: str = "main") -> str:
        """Answer the cluster's URL."""
        return str(self.api.credentials(name)["url"])

    def begin_events(self) -> None:
        """Have `events` answer what happens from now on, for a test that is not the server's first."""
        latest = self.api.events(None, after=0, limit=1, wait_s=0, sleep=True)
        self._earlier_event = latest[-1]["seq"] if latest else 0

    def events(self, name: str | None = "main") -> list[str]:
        """Answer the kinds of the cluster's events, or of all with None, without their common beginning."""
        events = self.api.events(name, after=self._earlier_event, limit=1000, wait_s=0, sleep=True)
        return [event["kind"].removeprefix("ZORYA-EVENT-") for event in events]

    def besides_scaling(self, name: str = "main") -> list[str]:
        """Answer the same without those of capacity: whether it changes, and is had, is up to the machine's load."""
        return [kind for kind in self.events(name) if kind not in {"0141", "0142", "0149", "1012", "1013"}]

    def wait_for(self, compute: str, name: str = "main", within_s: float = 30) -> Any:
        """Wait until the cluster's compute is in this state; answer what `show` says then."""

        def reached() -> Any:
            shown = self.show(name)
            return shown if shown["compute"] == compute else None

        return wait_until(reached, f"{name} is {compute}", within_s)

    def query(self, sql: str, name: str = "main", **options: Any) -> Sequence[Any]:
        """Connect to the endpoint, run one statement, answer its rows, disconnect."""
        with psycopg.connect(self.url(name), autocommit=True, connect_timeout=30, **options) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @property
    def engine_socket(self) -> tuple[Path, int]:
        """The folder and the port of the socket on which the engine of "main" itself listens."""
        folder = self.home / "run" / self.show()["id"]
        (port,) = [one.name.rpartition(".")[2] for one in folder.glob(".s.PGSQL.*") if not one.name.endswith(".lock")]
        return folder, int(port)

    def administrator(self) -> "psycopg.Connection[Any]":
        """Connect to the engine of "main" as its administrator, past the endpoint."""
        folder, port = self.engine_socket
        return psycopg.connect(host=str(folder), port=port, user="zorya_admin", dbname="postgres")

    def mysql(self, name: str = "shop", **options: Any) -> "pymysql.Connection[Any]":
        """Connect to a MariaDB cluster; commits by itself. Close it, or use it as a context."""
        credentials = self.api.credentials(name)
        wanted: dict[str, Any] = {
            "host": credentials["endpoint"]["host"],
            "port": credentials["endpoint"]["port"],
            "user": credentials["username"],
            "password": credentials["password"],
            "database": credentials["database"],
            "autocommit": True,
            "connect_timeout": 30,
            # Its own default is to try TLS where the server offers it, and to believe any certificate.
            "ssl_disabled": True,
        }
        return pymysql.connect(**{**wanted, **options})

    def mysql_query(self, sql: str, name: str = "shop", **options: Any) -> Sequence[Any]:
        """Connect to a MariaDB cluster, run one statement, answer its rows, disconnect."""
        with self.mysql(name, **options) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            rows: Sequence[Any] = cursor.fetchall()
            return rows

    def psql(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run psql; never raises."""
        return subprocess.run(
            ["psql", "--no-psqlrc", *args],
            capture_output=True,
            text=True,
            env={**self.env, **env},
            timeout=90,
            check=False,
        )


@contextmanager
def running(home: Path, *args: str, **env: str) -> Iterator[Server]:
    """Run a server on `home` for the block, then stop it and look at its log."""
    with started(Server(home), *args, **env) as server:
        yield server


@contextmanager
def started(server: Server, *args: str, **env: str) -> Iterator[Server]:
    """Do the same with a server that was prepared."""
    try:
        server.start(*args, **env)
        yield server
        server.stop()
        server.check_log()
    finally:
        end(server)


def end(server: Server) -> None:
    """End whatever is left of a server and its engines, for a test that failed in the middle.

    The keeper goes last but for the engines: it thaws those that are frozen.
    """
    if server.process is not None and server.process.poll() is None:
        server.process.kill()
        server.process.wait()
    keeper = server.keeper_pid()
    if keeper:
        os.kill(keeper, signal.SIGCONT)
        os.kill(keeper, signal.SIGTERM)
        wait_until(lambda: is_gone(keeper), "the keeper is gone")
    for pid_file in [
        *server.home.glob("clusters/*/data*/*.pid"),
        *server.home.glob("zones/*/*/data*/*.pid"),
    ]:
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
            if Path(f"/proc/{pid}/cwd").readlink() == pid_file.parent:
                # PostgreSQL stops at once and ends its other processes; MariaDB has none.
                os.kill(pid, signal.SIGQUIT if pid_file.name == "postmaster.pid" else signal.SIGKILL)
        except (OSError, ValueError):
            continue


def kill_engine(pid: int) -> None:
    """End an engine's first process with SIGKILL and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), "the engine is gone")


def is_gone(pid: int) -> bool:
    """Whether no process has this number, or only its remains are there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def processes_below(folder: Path) -> set[int]:
    """Answer the processes that work in a folder or have it in their command line."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                cwd = str((entry / "cwd").readlink())
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if cwd.startswith(str(folder)) or os.fsencode(str(folder)) in command:
                found.add(int(entry.name))
    return found


def remove_when_left(folder: Path) -> None:
    """Remove a folder of tests; fails when a process stays in it."""
    try:
        wait_until(lambda: not processes_below(folder), "no process is left in the home", 15)
    finally:
        shutil.rmtree(folder)


class WaitingClient:
    """A client that connects in a thread of its own, since it is held until its cluster runs."""

    def __init__(self, url: str, sql: str = "SELECT 1") -> None:
        self._url = url
        self._sql = sql
        self._error = ""
        self._thread = threading.Thread(target=self._connect)

    def _connect(self) -> None:
        try:
            with psycopg.connect(self._url, connect_timeout=60) as connection:
                connection.execute(self._sql)
        except psycopg.Error as error:
            self._error = str(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def error(self) -> str:
        """Wait until the client is done and answer its error, empty when it was served."""
        self._thread.join(90)
        assert not self._thread.is_alive()
        return self._error

    def __exit__(self, *_: object) -> None:
        self._thread.join(90)
