"""The `zorya` command: to its end, as a process on pipes, or on a terminal."""

import io
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from zorya.cli import main

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60

_OF_ITS_OWN = {"up", "connect"}
"""What starts a server, or becomes another program."""

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Command:
    """Runs `zorya` with one home."""

    home: Path
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "ZORYA_HOME": str(self.home), "TZ": "UTC", **self.more}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start the command; its output goes to pipes."""
        return subprocess.Popen(
            [sys.executable, "-m", "zorya", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def on_terminal(self, *words: str, typed: bytes = b"") -> tuple[int, str]:
        """Run the command with a terminal on which `typed` was typed; answer its exit code and what was shown."""
        ours, theirs = pty.openpty()
        os.write(ours, typed)
        with subprocess.Popen(
            [sys.executable, "-m", "zorya", *words],
            env={**self.environment, "TERM": "xterm-256color", "COLUMNS": "120"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            code = process.wait(DEADLINE_S)
        shown = os.read(ours, 65536).decode()
        os.close(theirs)
        os.close(ours)
        return code, shown

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end.

        It runs in this process, without a start of Python, unless it would do to this process what a test must not.
        """
        if _OF_ITS_OWN & set(words):
            with self.start(*words) as process:
                out, err = process.communicate(timeout=DEADLINE_S)
            return subprocess.CompletedProcess(process.args, process.returncode, out, err)
        with _ONE_AT_A_TIME:
            return self._run_here(words)

    def _run_here(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        argv = [str(ROOT / "src" / "zorya" / "__main__.py"), *words]
        said, complained = io.StringIO(), io.StringIO()
        with (
            Path(os.devnull).open() as nothing,
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.multiple(sys, argv=argv, stdin=nothing, stdout=said, stderr=complained),
        ):
            time.tzset()
            try:
                main.main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        time.tzset()
        return subprocess.CompletedProcess(argv, code, said.getvalue(), complained.getvalue())
