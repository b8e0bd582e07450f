"""Hosts that withhold something: Zorya says so, and does what it can without."""

import os
import shutil
import subprocess

import psycopg
import pytest

from harness import Server


def test_clients_are_relayed_when_the_library_is_gone_at_the_engines_start(fresh_server: Server) -> None:
    server = fresh_server
    for library in (server.home / "engines").glob("handoff-*.so"):
        library.unlink()
    assert server.query("SELECT 1") == [(1,)]
    shown = server.show()
    assert (shown["attach"], shown["attach_reason"]) == (
        "relay",
        "The engine was started without the handoff library.",
    )
    server.run("pause", "main")
    server.stop()
    server.start()
    assert server.query("SELECT 1") == [(1,)]
    assert server.show()["attach"] == "handoff"


def test_clients_of_a_running_engine_are_handed_over_when_the_library_is_gone(fresh_server: Server) -> None:
    server = fresh_server
    with psycopg.connect(server.url()) as before:
        for library in (server.home / "engines").glob("handoff-*.so"):
            library.unlink()
        with psycopg.connect(server.url()) as after:
            assert before.execute("SELECT 1").fetchone() == after.execute("SELECT 1").fetchone()
        assert server.show()["attach"] == "handoff"


def test_server_does_not_start_when_root_may_not_see_the_engines(stopped_server: Server) -> None:
    server = stopped_server
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("this needs root and setpriv")
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_ptrace", *server.command, "up"],
        capture_output=True,
        text=True,
        env=server.env,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "without the capability CAP_SYS_PTRACE" in done.stderr
    assert "docker run --cap-add SYS_PTRACE" in done.stderr
    assert server.keeper_pid() == 0
