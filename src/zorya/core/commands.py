"""Short-lived programs: run one as an account and answer what it printed."""

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from zorya.core.account import Account

ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
"""All that a program gets: nothing of Zorya's own environment, which may hold secrets or PG* variables."""


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
