"""The `zorya` command: to its end, as a process on pipes, or on a terminal."""

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from command_here import run_here

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60


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
        """Run the command to its end, without a process of its own where that can be."""
        done = run_here(words, self.environment)
        if done is None:
            with self.start(*words) as process:
                out, err = process.communicate(timeout=DEADLINE_S)
            done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        return done
