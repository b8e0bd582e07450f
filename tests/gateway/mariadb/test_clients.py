"""Real clients that wake a cluster, and what they can do then: the gateway has logged in for them."""

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.constants import CLIENT

from gateway.fakes import FakeEndpoint, RunningGateway, certificates, eventually
from gateway.mariadb.real_mariadb import RealMariaDb
from zorya.core.model import Entrance

BIG = "x" * (20 * 1024 * 1024)


@pytest.fixture
async def port(gateway: RunningGateway, cluster: FakeEndpoint, relayed: Entrance) -> int:
    """The port of a cluster that is asleep, and stays so for everybody who comes."""
    cluster.starts(relayed, *[relayed] * 50)
    return gateway.open(cluster)


@pytest.fixture
def root(new_folder: Callable[[], Path]) -> str:
    """The file with the root that clients have to trust."""
    path = new_folder() / "root.pem"
    path.write_text(certificates().root_pem or "")
    return str(path)


@contextlib.contextmanager
def session(port: int, **more: Any) -> Iterator[pymysql.Connection]:
    arguments: dict[str, Any] = {"user": "ann", "password": "right", "database": "shop", "autocommit": True, **more}
    with contextlib.closing(pymysql.connect(host="127.0.0.1", port=port, **arguments)) as connection:
        yield connection


def ask(port: int, statement: str, **more: Any) -> Any:
    with session(port, **more) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        return row[0] if row is not None and len(row) == 1 else row


def mariadb(port: int, *options: str, statement: str = "SELECT 1", user: str = "ann") -> str:
    argv = ["mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", str(port), "-u", user, "-pright", "-N", "-B"]
    done = subprocess.run([*argv, *options], input=statement, capture_output=True, text=True, timeout=60, check=False)
    return (done.stdout + done.stderr).strip()


async def test_client_has_its_own_address_at_the_engine(port: int) -> None:
    def where() -> Any:
        with session(port) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT host FROM information_schema.processlist WHERE id = connection_id()")
            return cursor.fetchone(), connection._sock.getsockname()

    (host,), (address, own_port) = await asyncio.to_thread(where)
    assert host == f"{address}:{own_port}"


async def test_engine_sees_tls_when_the_client_comes_with_it(port: int, root: str) -> None:
    question = "SHOW SESSION STATUS LIKE 'Ssl_version'"
    assert await asyncio.to_thread(ask, port, question, ssl={"ca": root}) == ("Ssl_version", "TLSv1.3")
    assert await asyncio.to_thread(ask, port, question, ssl_disabled=True) == ("Ssl_version", "")
    assert await asyncio.to_thread(ask, port, "SELECT 1", user="only_tls", database=None, ssl={"ca": root}) == 1


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
async def test_packets_of_more_than_16_mib_pass(port: int, tls: bool, root: str) -> None:
    more: dict[str, Any] = {"ssl": {"ca": root}} if tls else {"ssl_disabled": True}
    assert await asyncio.to_thread(ask, port, f"SELECT '{BIG}'", max_allowed_packet=1 << 26, **more) == BIG


async def test_several_statements_answer_when_the_client_asked_for_them(port: int) -> None:
    def results() -> list[Any]:
        with session(port, client_flag=CLIENT.MULTI_STATEMENTS) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1; SELECT 2")
            found = [cursor.fetchone()]
            while cursor.nextset():
                found.append(cursor.fetchone())
            return found

    assert await asyncio.to_thread(results) == [(1,), (2,)]


async def test_local_file_is_loaded(port: int, real: RealMariaDb, new_folder: Callable[[], Path]) -> None:
    path = new_folder() / "goods"
    path.write_text("1\tapple\n2\tpear\n")
    real.run("DELETE FROM shop.goods")

    def load() -> Any:
        with session(port, local_infile=True) as connection, connection.cursor() as cursor:
            cursor.execute(f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE goods")
            cursor.execute("SELECT group_concat(name ORDER BY id) FROM goods")
            return cursor.fetchone()

    assert await asyncio.to_thread(load) == ("apple,pear",)


@pytest.mark.parametrize("charset", ["utf8mb4", "latin1", "gbk"])
async def test_character_set_is_the_clients(port: int, charset: str) -> None:
    assert await asyncio.to_thread(ask, port, "SELECT @@character_set_client", charset=charset) == charset


async def test_attributes_reach_the_engine(port: int) -> None:
    question = (
        "SELECT attr_value FROM performance_schema.session_connect_attrs"
        " WHERE processlist_id = connection_id() AND attr_name = 'program_name'"
    )
    assert await asyncio.to_thread(ask, port, question, user="chief", program_name="shopping") == "shopping"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--compress",),
        ("--ssl",),
        ("--ssl", "--compress"),
        ("--ssl", "--ssl-verify-server-cert", "-h", "localhost"),
        ("--skip-ssl",),
    ],
    ids=" ".join,
)
async def test_own_client_wakes_the_cluster(port: int, options: tuple[str, ...], root: str) -> None:
    statement = "SELECT user(); SHOW STATUS LIKE 'Compression'; SHOW STATUS LIKE 'Ssl_version'"
    trusted = (f"--ssl-ca={root}",) if "--ssl" in options else ()
    said = await asyncio.to_thread(mariadb, port, *options, *trusted, "--protocol=tcp", statement=statement)
    # Debian's client asks for TLS wherever it is offered.
    compressed, tls = "ON" if "--compress" in options else "OFF", "" if "--skip-ssl" in options else "TLSv1.3"
    assert said == f"ann@127.0.0.1\nCompression\t{compressed}\nSsl_version\t{tls}".strip()


@pytest.mark.parametrize("user", ["modern", "either", "second"])
@pytest.mark.parametrize("options", [(), ("--ssl",)], ids=["plain", "tls"])
async def test_own_client_proves_itself_to_the_engine_when_only_that_can_tell(
    port: int, cluster: FakeEndpoint, user: str, options: tuple[str, ...]
) -> None:
    said = await asyncio.to_thread(mariadb, port, *options, user=user, statement="SELECT user()")
    assert said == f"{user}@127.0.0.1"
    assert cluster.failures == []


async def test_engine_refuses_who_it_alone_could_know(port: int, cluster: FakeEndpoint) -> None:
    said = await asyncio.to_thread(mariadb, port, "-pwrong", user="modern")
    assert said == "ERROR 1045 (28000): Access denied for user 'modern'@'127.0.0.1' (using password: YES)"
    # The engine notes it itself.
    assert cluster.failures == []


async def test_session_ends_when_the_client_does(port: int, cluster: FakeEndpoint) -> None:
    for _ in range(3):
        assert await asyncio.to_thread(ask, port, "SELECT 1") == 1
    await eventually(lambda: cluster.ended == 3, "the sessions have ended")
