"""The server of a user who is not root: engines run as that user, and everything else is the same."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import zorya
from harness import Server, started

NOT_NEEDED = shutil.ignore_patterns(
    *(
        "__pycache__",
        "mypy*",
        "ruff*",
        "sqlalchemy*",
        "asyncpg*",
        "hypothesis*",
        "pip*",
        "setuptools*",
        "pygments/lexers",
    ),
    *("_pytest*", "pytest*", "grimp*", "librt*", "ast_serialize*", "__editable__*", "_zorya.pth"),
)


# What `setpriv` starts is found with root's rights; what that starts in turn is not.
TRIAL = "import subprocess, sys, zorya.server, zorya.cli.main; subprocess.run([sys.executable, '-c', ''], check=True)"


def can_import(command: list[str], path: str) -> bool:
    """Whether this Python, run as the other user, finds Zorya and all that it needs, and can start itself."""
    environment = {"PYTHONPATH": path, "PATH": os.defpath}
    asked = subprocess.run(
        [*command, "-c", TRIAL],
        capture_output=True,
        env=environment,
        cwd="/",
        check=False,
    )
    return asked.returncode == 0


def find_python(as_user: list[str], folder: Path) -> tuple[list[str], str]:
    """Answer a Python that the other user can run and its PYTHONPATH; copies into `folder` what is out of reach."""
    source = Path(zorya.__file__).parent.parent
    packages = Path(psycopg.__file__).parent.parent
    pythons = [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]
    own = f"{source}:{packages}"
    for python in pythons:
        if can_import([*as_user, python], own):
            return [*as_user, python], own
    copy = folder / "python"
    shutil.copytree(packages, copy, ignore=NOT_NEEDED)
    shutil.copytree(source / "zorya", copy / "zorya", ignore=NOT_NEEDED)
    subprocess.run(["chmod", "-R", "go+rX", str(copy)], check=True)
    for python in pythons:
        if can_import([*as_user, python], str(copy)):
            return [*as_user, python], str(copy)
    pytest.skip(f"an ordinary user of this host can run no Python {sys.version_info.major}.{sys.version_info.minor}")


@pytest.fixture
def server(new_folder: Callable[[], Path]) -> Iterator[Server]:
    """A server, up, that is not run by root."""
    folder = new_folder()
    made = Server(folder / "home")
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("this host has no setpriv to run the server as another user")
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        python, path = find_python(as_user, folder)
        made.command = [*python, "-m", "zorya"]
        made.env |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder), "USER": user.pw_name}
    with started(made):
        yield made


def test_everything_works_when_the_server_is_run_by_an_ordinary_user(server: Server) -> None:
    server.run("create", "shop", "--pause-after", "1", "--copies", "6")
    assert server.query("CREATE TABLE t AS SELECT 7 AS n", "shop") == []
    server.wait_for("stopped", "shop")
    assert len({one["position"] for one in server.api.copies("shop")}) == 1
    assert server.query("SELECT n FROM t", "shop") == [(7,)]
    server.run("resume", "main")
    assert server.process is not None
    for process in (server.process.pid, server.show()["engine_pid"]):
        assert Path(f"/proc/{process}").stat().st_uid != 0
    assert (server.home.stat().st_mode & 0o777) == 0o700
    server.kill()
    server.start()
    assert server.show()["compute"] == "running"
    server.run("delete", "shop", "--yes")
    server.run("down")
    assert server.process.wait(30) == 0


def test_clients_have_no_more_rights_when_the_server_is_run_by_an_ordinary_user(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as session:
        for statement in ("SELECT pg_read_file('/etc/passwd')", "COPY (SELECT 1) TO PROGRAM 'cat'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement)
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
        psycopg.connect(server.url(), user="zorya_admin")
