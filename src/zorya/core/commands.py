"""Short-lived programs: run one as an account and answer what it printed."""

import asyncio
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from zorya.core.account import Account

ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
"""All that a program gets: nothing of Zorya's own environment, which may hold secrets or PG* variables."""

_STOPPED_S = 1.0
"""How long a program that is ahead is stopped before it is looked at again."""
_LET_GO_S = 0.01
"""How long it is let go before that."""


class CommandFailed(Exception):
    """A program ended with another code than 0, or could not be run. `output` is what it printed to both streams."""

    def __init__(self, argv: Sequence[str | Path], code: int | str, output: str) -> None:
        super().__init__(f"{Path(argv[0]).name} ended with {code}: {output.strip()[-500:]}")
        self.code = code
        self.output = output


async def run(argv: Sequence[str | Path], *, account: Account, stdin: str = "", timeout_s: float = 300) -> str:
    """Run a program as `account` and answer its output. Does not block the event loop.

    The program's input ends when this process dies, so that a program that reads it does not outlive Zorya for long.
    If the caller is cancelled the program still runs to its end.

    Raises CommandFailed.
    """
    return await asyncio.to_thread(run_blocking, argv, account=account, stdin=stdin, timeout_s=timeout_s)


def run_blocking(
    argv: Sequence[str | Path],
    *,
    account: Account | None,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    timeout_s: float = 300,
) -> str:
    """Do what `run` does, blocking the caller. No account is the present user; `env` adds to ENVIRONMENT."""
    try:
        done = subprocess.run(
            [str(part) for part in argv],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            cwd="/",
            env={**ENVIRONMENT, **(env or {})},
            start_new_session=True,
            umask=0o077,
            **(account.switch() if account is not None else {}),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandFailed(argv, type(error).__name__, str(error)) from error
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stdout)
    return done.stdout


async def run_slowly(argv: Sequence[str | Path], *, account: Account, max_bytes_s: float, timeout_s: float) -> str:
    """Do what `run` does with a program that reads no input, and have it read files no faster than this on average.

    It is stopped when it is ahead. It ends when this process does: left alone, a stopped one of a process group without
    a parent in its session gets SIGHUP and SIGCONT from the kernel (POSIX, _exit). Raises CommandFailed.
    """
    return await asyncio.to_thread(_run_slowly, argv, account, max_bytes_s, timeout_s)


def _run_slowly(argv: Sequence[str | Path], account: Account, max_bytes_s: float, timeout_s: float) -> str:
    with tempfile.TemporaryFile() as output:
        try:
            program = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=dict(ENVIRONMENT),
                process_group=0,
                umask=0o077,
                **account.switch(),
            )
        except OSError as error:
            raise CommandFailed(argv, type(error).__name__, str(error)) from error
        began_s = time.monotonic()
        with program:
            while program.poll() is None:
                passed_s = time.monotonic() - began_s
                if passed_s > timeout_s:
                    program.kill()
                    raise CommandFailed(argv, "timeout", f"It took more than {timeout_s:g} s.")
                ahead_s = _read_bytes(program.pid) / max_bytes_s - passed_s
                if ahead_s > 0:
                    program.send_signal(signal.SIGSTOP)
                    time.sleep(min(ahead_s, _STOPPED_S))
                    program.send_signal(signal.SIGCONT)
                time.sleep(_LET_GO_S)
        output.seek(0)
        said = output.read().decode(errors="replace")
    if program.returncode != 0:
        raise CommandFailed(argv, program.returncode, said)
    return said


def _read_bytes(pid: int) -> int:
    """Answer what a process has read so far, from the page cache too (proc(5), /proc/pid/io)."""
    try:
        found = re.search(r"^rchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
