"""`zorya top` on a terminal and without one: what ends it, and that the terminal is then as it was."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from rich.console import Console

from api.fakes import a_busy_cluster
from cli.command import DEADLINE_S, Command
from cli.test_top_view import moment
from zorya.cli import top, top_view
from zorya.core import errors

ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """A pseudo-terminal: `ours` is the person's end."""

    ours: int
    theirs: int

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    @property
    def modes(self) -> list[object]:
        return list(termios.tcgetattr(self.theirs))

    def read_until(self, is_there: Callable[[str], bool]) -> str:
        """Answer what is shown from now on, once it is what is waited for."""
        shown, deadline = "", time.monotonic() + DEADLINE_S
        while not is_there(shown):
            assert time.monotonic() < deadline, shown
            if select.select([self.ours], [], [], 0.5)[0]:
                shown += os.read(self.ours, 65536).decode(errors="replace")
        return shown


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    found = Terminal(ours=ours, theirs=theirs)
    found.resize(120, 30)
    yield found
    os.close(ours)
    os.close(theirs)


@contextmanager
def on(terminal: Terminal) -> Iterator[Console]:
    with os.fdopen(os.dup(terminal.theirs), "w") as file:
        yield Console(file=file, force_terminal=True, width=120, height=30)


def _is_left(shown: str) -> bool:
    return LEAVE in shown and SHOW_CURSOR in shown


def test_q_ends_it_and_errors_are_shown_until_the_server_is_back(terminal: Terminal) -> None:
    before, handlers = terminal.modes, signal.getsignal(signal.SIGTERM)
    seen: list[int] = []

    def look() -> top_view.Snapshot:
        seen.append(int(terminal.modes[3]) & (termios.ICANON | termios.ECHO))  # type: ignore[call-overload]
        if len(seen) == 2:
            raise errors.ServerUnreachable("No Zorya server is up.", hint="Start one.")
        if len(seen) == 3:
            terminal.type(b"xq")
        return moment([a_busy_cluster("busy")])

    with on(terminal) as console:
        top.watch(look, console=console, keyboard=terminal.theirs, interval_s=0.01)
    shown = terminal.read_until(_is_left)
    assert seen == [0, 0, 0]
    assert shown.index(ENTER) < shown.index("busy") < shown.index("Trying again.") < shown.index(LEAVE)
    assert "q quits" in shown
    assert (terminal.modes, signal.getsignal(signal.SIGTERM)) == (before, handlers)


@pytest.mark.parametrize(
    ("fault", "raised"), [(None, RuntimeError), (signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_the_terminal_is_as_it_was_when_it_ends_in_another_way(
    terminal: Terminal, fault: signal.Signals | None, raised: type[BaseException]
) -> None:
    before = terminal.modes

    def look() -> top_view.Snapshot:
        if fault is None:
            raise RuntimeError("a bug")
        os.kill(os.getpid(), fault)
        return moment([])

    with on(terminal) as console, pytest.raises(raised):
        top.watch(look, console=console, keyboard=terminal.theirs, interval_s=60)
    assert terminal.read_until(_is_left).startswith(ENTER)
    assert terminal.modes == before


@contextmanager
def _started(command: Command, terminal: Terminal) -> Iterator[subprocess.Popen[bytes]]:
    """Run `zorya top` with the terminal as its own, so that it is told when the size changes."""
    take_terminal = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(*eval(sys.argv[1]))"
    words = [sys.executable, "-m", "zorya", "top", "--interval", "0.1"]
    environment = {key: value for key, value in command.environment.items() if key not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [sys.executable, "-c", take_terminal, repr((words[0], words))],
        env={**environment, "TERM": "xterm-256color"},
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
        start_new_session=True,
    ) as process:
        yield process
        if process.poll() is None:
            process.kill()


def test_it_follows_the_terminals_size_and_goes_on_after_ctrl_z(
    lonely: Command, server: subprocess.Popen[str], terminal: Terminal
) -> None:
    before = terminal.modes
    with _started(lonely, terminal) as process:
        terminal.read_until(lambda shown: "COST TODAY" in shown and "busy" in shown)
        terminal.resize(60, 20)
        terminal.read_until(lambda shown: "busy" in shown.rpartition("COST TODAY")[2])
        terminal.type(b"\x1a")
        terminal.read_until(_is_left)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert terminal.modes == before
        process.send_signal(signal.SIGCONT)
        terminal.read_until(lambda shown: ENTER in shown and "busy" in shown)
        server.terminate()
        terminal.read_until(lambda shown: "No Zorya server is up" in shown)
        terminal.type(b"q")
        terminal.read_until(_is_left)
        assert process.wait(DEADLINE_S) == 0
    assert terminal.modes == before


def test_it_looks_once_where_there_is_no_terminal(zorya: Command) -> None:
    for words in ([], ["--once"]):
        lines = zorya("top", *words).stdout.splitlines()
        assert re.search(r"1\.5 of 8 ACUs .* 1 running, 1 frozen, 1 stopped .* 0\.360 USD today$", lines[0])
        assert [line.split()[:2] for line in lines[2:]] == [
            ["NAME", "STATE"],
            ["busy", "running"],
            ["cold", "frozen"],
            ["main", "stopped"],
        ]
        assert lines[3].split()[-1] == "0.120"
    now = json.loads(zorya("top", "--json").stdout)
    assert {cluster["name"] for cluster in now["clusters"]} == {"busy", "cold", "main"}
    assert now["server"]["node"]["allotted"] == 1.5
    assert (now["cost_today"]["currency"], now["cost_today"]["clusters"]["busy"]) == ("USD", 0.12)


def test_it_fails_as_other_commands_do_where_it_looks_once_and_no_server_is_up(lonely: Command) -> None:
    result = lonely("top")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("zorya: No Zorya server is up")
