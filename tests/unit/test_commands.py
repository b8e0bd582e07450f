"""Programs that are run to their end, some of them slowly."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import is_gone
from waiting import wait_until
from zorya.core import commands
from zorya.core.account import Account

ME = Account(name="", uid=os.getuid(), gid=os.getgid())
MEBIBYTE = 1024**2


async def slowly(*argv: str, max_bytes_s: float = MEBIBYTE, timeout_s: float = 60) -> str:
    return await commands.run_slowly(argv, account=ME, max_bytes_s=max_bytes_s, timeout_s=timeout_s)


async def test_a_program_that_is_stopped_in_between_does_all_that_it_has_to() -> None:
    said = await slowly("dd", "if=/dev/zero", "of=/dev/null", "bs=512", "count=100000", max_bytes_s=64 * MEBIBYTE)
    assert "100000+0 records in" in said


async def test_a_program_that_reads_less_is_not_held_up() -> None:
    assert await slowly("sh", "-c", "echo done; echo told >&2") == "done\ntold\n"


async def test_more_output_than_a_pipe_takes_is_answered() -> None:
    assert len(await slowly("seq", "100000", max_bytes_s=1e9)) == 588895


async def test_a_program_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(commands.CommandFailed) as failed:
        await slowly("sh", "-c", "echo why; exit 3")
    assert (failed.value.code, failed.value.output) == (3, "why\n")
    with pytest.raises(commands.CommandFailed, match="FileNotFoundError"):
        await slowly("/nonexistent")


async def test_a_program_that_takes_too_long_is_ended() -> None:
    with pytest.raises(commands.CommandFailed, match=r"more than 0\.2 s"):
        await slowly("sleep", "1000", timeout_s=0.2)


def test_a_stopped_program_does_not_outlive_this_process(tmp_path: Path) -> None:
    code = (
        "import asyncio, os\n"
        "from zorya.core import commands\n"
        "from zorya.core.account import Account\n"
        "me = Account(name='', uid=os.getuid(), gid=os.getgid())\n"
        f"program = ['sh', '-c', 'echo $$ > {tmp_path}/pid; exec dd if=/dev/zero of=/dev/null bs=64k']\n"
        "asyncio.run(commands.run_slowly(program, account=me, max_bytes_s=1, timeout_s=1000))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    told = tmp_path / "pid"
    wait_until(lambda: told.exists() and told.read_text(), "the program runs")
    pid = int(told.read_text())
    wait_until(lambda: state(pid) == "T", "it is stopped, since it is ahead")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: is_gone(pid), "it has ended")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
