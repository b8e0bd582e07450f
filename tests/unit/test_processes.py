"""Engine processes with stand-ins that are real processes: what matters here is the process, not what it serves."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from zorya.compute import leftovers, logfile, procfs
from zorya.compute.processes import EngineProcess, Launch
from zorya.core.account import Account

CAP_SYS_RESOURCE = 24


@pytest.fixture
def folder(new_folder: Callable[[], Path], engine_account: Account) -> Path:
    made = new_folder() / "data"
    made.mkdir()
    os.chown(made, engine_account.uid, engine_account.gid)
    return made


def plan(folder: Path, account: Account, program: str) -> Launch:
    # The account may not reach this interpreter; /usr/bin is everybody's.
    return Launch(
        argv=["/bin/sh", "-c", program],
        env={"PATH": "/usr/bin:/bin"},
        folder=folder,
        log=folder.parent / "engine.log",
        account=account,
    )


@pytest.fixture
def sleeper(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"], cwd=folder) as process:
        yield process
        process.kill()


async def test_engine_runs_as_its_user_in_a_session_of_its_own_and_logs(folder: Path, engine_account: Account) -> None:
    process = await EngineProcess.launch(plan(folder, engine_account, "id -u; id -G; umask; pwd; exec sleep 1000"))
    try:
        assert os.getsid(process.pid) == process.pid
        async with asyncio.timeout(10):
            while logfile.read_from(folder.parent / "engine.log", 0).count("\n") < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        expected = f"{engine_account.uid}\n{engine_account.gid}\n0077\n{folder}\n"
        assert logfile.read_from(folder.parent / "engine.log", 0) == expected
        may_protect = procfs.effective_capabilities() & 1 << CAP_SYS_RESOURCE
        inherited = Path("/proc/self/oom_score_adj").read_text()
        protection = Path(f"/proc/{process.pid}/oom_score_adj").read_text()
        assert protection == (f"{procfs.PROTECTED}\n" if may_protect else inherited)
    finally:
        process.signal(signal.SIGTERM)
    assert await process.wait() == "signal 15 (SIGTERM)"


async def test_exit_is_noticed_and_described(folder: Path, engine_account: Account) -> None:
    heard: list[str] = []
    process = await EngineProcess.launch(plan(folder, engine_account, "exit 3"))
    process.on_exit(heard.append)
    assert await process.wait() == "exit code 3"
    assert not process.alive
    process.on_exit(heard.append)
    process.signal(signal.SIGKILL)
    await asyncio.sleep(0)
    assert heard == ["exit code 3"] * 2


async def test_program_that_is_not_there_is_an_os_error(folder: Path, engine_account: Account) -> None:
    with pytest.raises(OSError, match="No such file"):
        await EngineProcess.launch(replace(plan(folder, engine_account, ""), argv=["/nowhere/postgres"]))


async def test_running_engine_is_taken_over(folder: Path, sleeper: subprocess.Popen[bytes]) -> None:
    process = EngineProcess.take_over(sleeper.pid, folder=folder, known=None)
    assert process is not None
    again = EngineProcess.take_over(sleeper.pid, folder=folder, known=process.identity)
    assert again is not None
    again.release()
    process.signal(signal.SIGKILL)
    await process.wait()


async def test_process_with_another_start_time_is_not_taken_over(
    folder: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    identity = procfs.read_identity(sleeper.pid)
    assert identity is not None
    earlier = replace(identity, start_ticks=identity.start_ticks - 1)
    assert EngineProcess.take_over(sleeper.pid, folder=folder, known=earlier) is None
    other_boot = replace(identity, boot_id="another")
    assert EngineProcess.take_over(sleeper.pid, folder=folder, known=other_boot) is None


async def test_process_that_works_elsewhere_is_not_taken_over(folder: Path, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"], cwd=tmp_path) as stranger:
        try:
            assert EngineProcess.take_over(stranger.pid, folder=folder, known=None) is None
        finally:
            stranger.kill()


async def test_number_of_no_process_is_not_taken_over(folder: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    assert EngineProcess.take_over(gone.pid, folder=folder, known=None) is None


def test_zombie_is_no_process() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.read_identity(child.pid) is None
    child.wait()


def test_identity_is_read_when_the_command_has_an_odd_name(tmp_path: Path) -> None:
    program = tmp_path / "a) (b Z 1"
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as odd:
        found = procfs.read_identity(odd.pid)
        own = procfs.read_identity(os.getpid())
        assert found is not None
        assert own is not None
        assert found.start_ticks >= own.start_ticks
        assert odd.stdin is not None
        odd.stdin.close()
        odd.kill()


async def test_leftovers_are_ended_before_the_folder_is_used_again(
    folder: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "GRACE_S", 0.2)
    clearing = asyncio.create_task(leftovers.clear(folder))
    assert await asyncio.to_thread(sleeper.wait) == -signal.SIGKILL
    assert await clearing == 1
    assert await leftovers.clear(folder) == 0


def test_large_log_is_rotated_under_the_writer(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        assert not logfile.rotate(log, max_bytes=100)
        writer.write(b"y")
        assert logfile.rotate(log, max_bytes=100)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "engine.log.1").read_bytes() == b"x" * 100 + b"y"


def test_log_is_read_from_a_mark_also_after_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert logfile.read_from(log, logfile.size(log)) == ""
    log.write_text("old\n")
    mark = logfile.size(log)
    log.write_text("old\nnew\n")
    assert logfile.read_from(log, mark) == "new\n"
    log.write_text("n\n")
    assert logfile.read_from(log, mark) == ""
    log.write_text("a" * 10 + "\nend")
    assert logfile.read_from(log, 0, limit=3) == ""
    assert logfile.read_from(log, 0, limit=5) == "end"
