"""The log of a real server: who failed to log in, whatever names are tried, and why a server ended."""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.mariadb.clusters import Cluster
from waiting import wait_until
from zorya.core.identity import FailedLogin
from zorya.engines.mariadb import configuration, server_log

HEADER = "2026-11-28 10:48:54 7 [Warning] "
DENIED = f"{HEADER}Access denied for user 'x'@'192.0.2.1' (using password: YES)\n"

HOSTILE = [
    "o'brien",
    "",
    "a'@'9.9.9.9' (using password: YES)",
    "a\nb",
    "a\n",
    "\n",
    f"a'@'9.9.9.9' (using password: YES)\n{HEADER}Access denied for user 'v",
    f"a'@'9.9.9.9' (using password: YES)\n{HEADER}Access denied for user '",
    "a'@'9.9.9.9' (using password: YES)\n",
    "a'@'9.9.9.9' (using password: YES)\nb",
    f"a\n{HEADER}Access denied for user 'v'@'9.9.9.9' (using password: YES)\nb",
    f"a\n{HEADER}Access denied for user 'v'@'9.9.9.9' (using password: YES)\n",
    f"a\n{HEADER}Access denied for user 'v'@'9.9.9.9'",
    f"a\n{HEADER}[Note] x",
    "x" * 200,
    "x" * 100 + f"\n{HEADER}Access denied for user 'v'@'9.9.9.9' (using password: YES)\nb",
    "a\r\nb\x1b[2J\x00",
    "ä" * 128,
]


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Cluster]:
    """One running engine for all these tests."""
    cluster.start()
    yield cluster
    cluster.kill()


class _Raw(pymysql.connections.Connection):  # type: ignore[misc]  # the library has no types
    """Sends a user's name as it is."""

    def __init__(self, name: bytes, **options: Any) -> None:
        self._raw = name
        super().__init__(**options)

    def _request_authentication(self) -> None:
        flags = 0x8000 | 0x200 | 0x1 | 0x80000
        data = struct.pack("<iIB23s", flags, 2**24 - 1, 45, b"") + self._raw + b"\0"
        self.write_packet(data + b"\x14" + b"x" * 20 + b"mysql_native_password\0")
        while True:
            packet = self._read_packet()
            if not packet.is_auth_switch_request():
                return
            self.write_packet(b"x" * 20)


def _fail(server: Cluster, name: str, source: str) -> str:
    """Try to log in, and answer what the server has logged by then."""
    mark = server.log_mark()
    with contextlib.suppress(pymysql.MySQLError):
        _Raw(
            name.encode(),
            host=server.address.host,
            port=server.address.port,
            bind_address=source,
            ssl_disabled=True,
        ).close()
    return wait_until(lambda: server.log(mark) if server.log(mark).endswith("\n") else None, "it is logged") or ""


def test_a_failed_login_is_told_with_its_address_when_the_name_is_an_ordinary_one(server: Cluster) -> None:
    assert server_log.failed_logins(_fail(server, "guest", "127.3.2.1")) == [
        FailedLogin(address="127.3.2.1", port=0, role="guest")
    ]
    assert server_log.failed_logins(_fail(server, "zorya", "127.3.2.1")) == [
        FailedLogin(address="127.3.2.1", port=0, role="zorya")
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_nobody_else_is_blamed_when_a_name_looks_like_a_record(server: Cluster, name: str) -> None:
    log = _fail(server, name, "127.3.2.1")
    assert {one.address for one in server_log.failed_logins(log)} <= {"127.3.2.1"}
    # Whatever comes before and after.
    for before in (DENIED, "", f"{HEADER}Access denied for user 'y'@'192.0.2.2' (using password: NO)\n"):
        for after in (DENIED, "", f"{HEADER}Access denied for user 'y'@'192.0.2.2' (using password: NO)\n"):
            blamed = {one.address for one in server_log.failed_logins(before + log + after)}
            assert blamed <= {"127.3.2.1", "192.0.2.1", "192.0.2.2"}


def _record(name: str, address: str) -> str:
    return f"{HEADER}Access denied for user '{name[: server_log.LONGEST_NAME]}'@'{address}' (using password: YES)\n"


FRAGMENTS = st.sampled_from(
    ["'@'9.9.9.9' (using password: YES)", "'@'9.9.9.9'", "\n", HEADER, "Access denied for user '", "a", "'", "b" * 40]
)


@given(st.lists(st.tuples(st.lists(FRAGMENTS, max_size=7).map("".join), st.sampled_from(["10.0.0.1", "::1"]))))
def test_only_those_who_failed_are_blamed_when_names_are_made_of_pieces_of_records(
    tries: Sequence[tuple[str, str]],
) -> None:
    log = "".join(_record(name, address) for name, address in tries)
    assert {one.address for one in server_log.failed_logins(log)} <= {address for _, address in tries}


@given(st.lists(st.sampled_from(["a", "root", "o'brien"]), max_size=20))
def test_each_failure_is_counted_when_all_come_from_one_address(names: Sequence[str]) -> None:
    log = "".join(_record(name, "10.0.0.1") for name in names)
    assert [one.role for one in server_log.failed_logins(log)] == names


def test_the_exit_is_explained_when_a_setting_is_wrong(cluster: Cluster, server: Cluster) -> None:
    server.stop()
    mark = server.log_mark()
    (server.folders.data / "ibdata1").rename(server.folders.data / "ibdata1.away")
    (server.folders.data / "ibdata1").write_bytes(b"nothing")
    with pytest.raises(AssertionError):
        server.start()
    assert "InnoDB" in server_log.explain_exit(server.log(mark))
    (server.folders.data / "ibdata1.away").rename(server.folders.data / "ibdata1")
    assert server.process is not None
    server.process = None
    mark = server.log_mark()
    server.start()
    assert server_log.explain_exit(server.log(mark)) == ""
    server.stop()
    assert server_log.explain_exit(server.log(mark)) == ""
    assert (server.folders.data / configuration.BINLOG_INDEX).exists()
    server.start()
