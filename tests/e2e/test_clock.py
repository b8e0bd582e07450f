"""A wall clock that jumps: only what people read changes."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness import Server
from waiting import wait_until

HOUR = 3600


@pytest.fixture
def offset(stopped_server: Server) -> Path:
    """The file that says by how many seconds the server's wall clock is off; the server is up, with a short pause."""
    server = stopped_server
    file = server.home.parent / "offset"
    file.write_text("0")
    server.env["CLOCK_OFFSET_FILE"] = str(file)
    server.command = [sys.executable, str(Path(__file__).with_name("jumping_clock.py"))]
    server.start(ZORYA_PAUSE_AFTER="1")
    return file


def turn(offset: Path, seconds: int) -> None:
    """Let the wall clock jump; the server reads all of the old offset or all of the new one."""
    new = offset.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(offset)


@pytest.mark.parametrize("jump", [-HOUR, HOUR], ids=["back", "ahead"])
def test_pause_comes_and_events_keep_their_order_when_the_clock_jumps(
    stopped_server: Server, offset: Path, jump: int
) -> None:
    server = stopped_server
    assert server.query("SELECT 1") == [(1,)]
    turn(offset, jump)
    server.wait_for("stopped")
    assert server.query("SELECT 1") == [(1,)]
    server.wait_for("stopped")
    assert server.besides_scaling() == ["0170", *["0147", "0148", "0144", "0145"] * 2]
    events = server.json("events", "main")
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    jumped = datetime.now(UTC) + timedelta(seconds=jump)
    assert abs(datetime.fromisoformat(events[-1]["at"]) - jumped) < timedelta(minutes=10)
    assert 0 <= server.json("status")["uptime_s"] < HOUR


def test_follower_is_shown_new_events_when_the_clock_jumped_back(stopped_server: Server, offset: Path) -> None:
    server = stopped_server
    server.query("SELECT 1")
    server.wait_for("stopped")
    output = server.home.parent / "followed"
    with output.open("wb") as file:
        follower = subprocess.Popen([*server.command, "events", "main", "--follow"], stdout=file, env=server.env)
    try:
        wait_until(lambda: output.read_text().count("\n") == 5, "the follower is shown what there is")
        turn(offset, -HOUR)
        server.query("SELECT 1")
        server.wait_for("stopped")
        wait_until(lambda: output.read_text().count("\n") == 9, "the follower is shown what is new")
    finally:
        follower.kill()
        follower.wait()
    messages = [line.split("  ", 2)[2] for line in output.read_text().splitlines()]
    assert [message.split(".")[0] for message in messages[1:]] == [
        "The cluster is being resumed",
        "The cluster is resumed",
        "The cluster is being paused",
        "The cluster is paused",
    ] * 2


def test_state_is_kept_when_the_clock_is_back_at_the_next_start(stopped_server: Server, offset: Path) -> None:
    server = stopped_server
    server.query("SELECT 1")
    pid = server.show()["engine_pid"]
    server.kill()
    turn(offset, -HOUR)
    server.start(ZORYA_PAUSE_AFTER="1")
    assert "1004" in server.events()
    assert server.json("events", "main")[3]["message"]
    server.wait_for("stopped")
    assert server.show()["engine_pid"] != pid
    assert server.query("SELECT 1") == [(1,)]
