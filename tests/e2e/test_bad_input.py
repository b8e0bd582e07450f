"""What users and strangers do wrong: each is told so in one line, nothing changes and nothing wakes."""

import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from cli.command import Command
from harness import Server, WaitingClient, running
from waiting import wait_until


def refused(server: Server, *args: str, code: int = 1) -> str:
    """Run a command that has to be refused; answer the one line that it says why."""
    done = Command(home=server.home)(*args)
    assert (done.returncode, done.stdout) == (code, ""), done
    lines = done.stderr.strip().splitlines()
    if code == 1:
        assert len(lines) == 1, lines
        assert lines[0].startswith("zorya: ")
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def test_bad_words_are_refused_in_one_line_and_nothing_is_made(server: Server, taken_port: int) -> None:
    own = server.show()["endpoint"]["port"]
    for name in ("", " ", "a b", "-", "a-", "a--b", "1a", "ü", "a_b", "a.b", "../x", "a/b", "a\nb", 'a"b', "a" * 64):
        assert "cannot be a cluster name" in refused(server, "create", "--", name), name
    for name in ("postgres", "template1"):
        assert "database of that name" in refused(server, "create", name)
    for name in ("main", "MAIN", "Main"):
        assert "There is a cluster named main already." in refused(server, "create", name)
    for capacity in ("0", "0.25", "-1", "1.3", "257", "1e9"):
        assert "is not a capacity" in refused(server, "create", "a", f"--max-capacity={capacity}"), capacity
    for capacity in ("nan", "inf"):
        refused(server, "create", "a", f"--max-capacity={capacity}")
    assert "above the maximum" in refused(server, "create", "a", "--min-capacity=5", "--max-capacity=4")
    for delay in ("0", "-1", "1.5", "soon", ""):
        assert "whole number of seconds" in refused(server, "create", "a", f"--pause-after={delay}"), delay
    for port in ("0", "1023", "65536", "-1", "999999999999"):
        assert "port" in refused(server, "create", "a", f"--port={port}").lower(), port
    assert f"{taken_port} is in use by another program" in refused(server, "create", "a", f"--port={taken_port}")
    assert f"Port {own} belongs to cluster main." in refused(server, "create", "a", f"--port={own}")
    for words in (["create", "a", "--port=x"], ["create", "a", "--max-capacity=x"], ["create"], ["create", "a", "b"]):
        refused(server, *words, code=2)
    assert [cluster["name"] for cluster in server.json("list")] == ["main"]
    assert len(list((server.home / "clusters").iterdir())) == 1
    assert server.events(None) == server.events() == ["0170"]


@pytest.mark.parametrize("command", ["show", "url", "pause", "resume"])
def test_cluster_that_is_not_there_is_told(server: Server, command: str) -> None:
    assert "There is no cluster named 'none'." in refused(server, command, "none")


def test_names_of_the_longest_and_oddest_allowed_form_work(server: Server) -> None:
    for name in ("a" * 63, "x-1-y", "Select"):
        server.run("create", name)
        assert server.query("SELECT current_database()", name) == [(name.lower(),)]


def test_client_gets_postgres_own_error_when_it_asks_for_what_is_not_there(server: Server) -> None:
    for options, error in (
        ({"password": "wrong"}, 'password authentication failed for user "zorya"'),
        ({"user": "nobody"}, 'password authentication failed for user "nobody"'),
        ({"dbname": "none"}, 'database "none" does not exist'),
        ({"options": "-c nonsense=1"}, 'unrecognized configuration parameter "nonsense"'),
    ):
        with pytest.raises(psycopg.OperationalError, match=f"FATAL: +{error}"):
            psycopg.connect(server.url(), **options)  # type: ignore[arg-type]


STRANGERS = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "zeros": bytes(100),
    "noise": bytes(range(256)) * 100,
    "a startup packet that does not end": b"\0\0\x10\0\0\3\0\0user\0",
    "a packet of no length": b"\0\0\0\0",
    "a packet of 2 GB": b"\x7f\xff\xff\xff\0\3\0\0",
    "protocol 2": b"\0\0\0\x08\0\2\0\0",
    "no user": b"\0\0\0\x09\0\3\0\0\0",
    "a request for TLS, then nothing": b"\0\0\0\x08\x04\xd2\x16\x2f",
    "a TLS handshake": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(100),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a cancel request": b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\0\0\0\x09",
}


def test_stranger_is_cut_off_and_wakes_nothing_when_it_speaks_no_postgres(stopped_server: Server) -> None:
    server = stopped_server
    server.start(ZORYA_STARTUP_TIMEOUT_S="0.5")
    port = server.show()["endpoint"]["port"]
    for what, sent in STRANGERS.items():
        with socket.create_connection(("127.0.0.1", port), timeout=30) as stranger:
            stranger.sendall(sent)
            try:
                while stranger.recv(65536):
                    pass
            except ConnectionResetError:
                pass
            except TimeoutError:
                pytest.fail(f"{what}: still connected")
    # A client that sends a byte at a time is not given more time than one that sends nothing.
    with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.settimeout(0.05)
        wait_until(lambda: dribbled_out(slow), "the slow client is cut off")
    shown = server.show()
    assert (shown["compute"], shown["sessions"], server.events()) == ("stopped", 0, ["0170"])
    assert server.query("SELECT 1") == [(1,)]


def dribbled_out(stranger: socket.socket) -> bool:
    """Send one more byte of a packet that never ends; answer whether the other side has closed."""
    try:
        stranger.sendall(b"\0")
        return stranger.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


@pytest.fixture
def homeless(new_folder: Callable[[], Path]) -> Callable[[Path], Server]:
    """Make a server of a home that is not there or not usable."""
    folder = new_folder()

    def make(home: Path) -> Server:
        server = Server(home)
        server.log = folder / "server.log"
        return server

    return make


def up_is_refused(server: Server) -> str:
    """Start a server that has to refuse its home; answer what it says, which is one line."""
    process = server.begin()
    assert process.wait(60) == 1
    lines = server.log.read_text().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("zorya: ")
    return lines[0]


def test_home_is_refused_when_its_parent_is_a_file(
    new_folder: Callable[[], Path], homeless: Callable[[Path], Server]
) -> None:
    file = new_folder() / "file"
    file.write_text("mine\n")
    assert f"The home {file}/home cannot be used: Not a directory." in up_is_refused(homeless(file / "home"))
    assert file.read_text() == "mine\n"


def test_home_is_refused_when_it_is_a_file(new_folder: Callable[[], Path], homeless: Callable[[Path], Server]) -> None:
    file = new_folder() / "file"
    file.write_text("mine\n")
    assert f"The home {file} cannot be used" in up_is_refused(homeless(file))
    assert file.read_text() == "mine\n"


def test_home_is_refused_when_its_path_is_too_long_for_a_socket(
    new_folder: Callable[[], Path], homeless: Callable[[Path], Server]
) -> None:
    home = new_folder() / ("x" * 90)
    assert "too long a path" in up_is_refused(homeless(home))
    assert not home.exists()


def test_home_is_refused_when_the_engines_user_cannot_pass_through_to_it(
    new_folder: Callable[[], Path], homeless: Callable[[Path], Server]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("engines run as another user only when the server runs as root")
    locked = new_folder() / "locked"
    locked.mkdir(mode=0o700)
    assert f"cannot pass through {locked}" in up_is_refused(homeless(locked / "home"))


def test_home_is_refused_when_it_is_read_only(
    new_folder: Callable[[], Path], homeless: Callable[[Path], Server]
) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount a read-only file system, and needs unshare for it")
    home = new_folder() / "home"
    home.mkdir()
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this host does not let root make a mount namespace")
    server = homeless(home)
    # The mount is seen by the server alone, and goes with it.
    mount_then = f'mount -t tmpfs -o ro tmpfs {home} && exec "$@"'
    server.command = ["unshare", "--mount", "sh", "-c", mount_then, "sh", *server.command]
    assert f"The home {home} cannot be used: Read-only file system." in up_is_refused(server)
    assert list(home.iterdir()) == []


def test_home_is_refused_and_left_alone_when_a_newer_version_made_it(stopped_server: Server) -> None:
    server = stopped_server
    server.start()
    server.stop()
    catalog = server.home / "catalog.db"
    with sqlite3.connect(catalog) as database:
        [[version]] = database.execute("PRAGMA user_version").fetchall()
        database.execute("PRAGMA user_version = 999")
    database.close()
    before = catalog.read_bytes()
    server.log.unlink()
    said = up_is_refused(server)
    assert "newer" in said
    assert catalog.read_bytes() == before
    with sqlite3.connect(catalog) as database:
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
    server.log.unlink()
    server.start()
    assert server.query("SELECT 1") == [(1,)]


def test_settings_that_are_wrong_are_all_told_at_once(stopped_server: Server) -> None:
    server = stopped_server
    process = server.begin(ZORYA_PORT_RANGE="9-1", ZORYA_PAUSE_AFTER="0", ZORYA_WAKE_TIMEOUT_S="-1")
    assert process.wait(60) == 1
    said = server.log.read_text()
    assert len(said.splitlines()) == 1
    assert all(name in said for name in ("port_range", "pause_after", "wake_timeout_s"))
    server.log.unlink()
    assert server.begin(ZORYA_COLOUR="red").wait(60) == 1
    assert "No such setting: ZORYA_COLOUR." in server.log.read_text()


def test_second_home_works_beside_the_first(new_home: Callable[[], Path], server: Server) -> None:
    # The same ports for both: the second passes over those that the first has.
    with running(new_home(), ZORYA_PORT_RANGE=server.env["ZORYA_PORT_RANGE"]) as other:
        other.run("create", "more")
        assert server.query("CREATE TABLE t AS SELECT 1 AS n") == []
        assert other.query("CREATE TABLE t AS SELECT 2 AS n") == []
        assert (server.query("SELECT n FROM t"), other.query("SELECT n FROM t")) == ([(1,)], [(2,)])
        assert server.show()["endpoint"]["port"] != other.show()["endpoint"]["port"]
        with WaitingClient(other.url("more")) as client:
            assert client.error() == ""
        assert [cluster["name"] for cluster in server.json("list")] == ["main"]
        assert [cluster["name"] for cluster in other.json("list")] == ["main", "more"]


def test_no_port_is_free_when_the_range_is_used_up(stopped_server: Server) -> None:
    server = stopped_server
    first = server.env["ZORYA_PORT_RANGE"].partition("-")[0]
    server.start(ZORYA_PORT_RANGE=f"{first}-{first}")
    assert f"No port of {first}-{first} is free." in refused(server, "create", "second")
