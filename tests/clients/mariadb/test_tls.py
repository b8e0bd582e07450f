"""What each client gets in each of its modes and each state of the cluster, and what a session that wakes it gets."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mysql.connector
import pymysql
import pytest
import sqlalchemy

from clients.mariadb import tls
from clients.mariadb.conftest import place
from clients.mariadb.shop import ODD_PASSWORD, PROCEDURE
from clients.mariadb.tls import Connect, Refused, Target
from fix_home import running_for_a_file
from harness import Server
from zorya.engines.mariadb import installations

PLAIN, TLS, NO_TRUST, NO_NAME = "plain", "TLS", "TLS where it trusts the root", "TLS where the name is right too"
"""What a mode gives: what it refuses is the wrong root, and the wrong name."""

WRONG_NAME = "127.1"
"""Another way to write 127.0.0.1, which no certificate has."""
OTHER_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")

CONNECTOR: dict[str, tuple[Connect, str]] = {
    "DISABLED": (tls.with_connector(ssl_disabled=True), PLAIN),
    "PREFERRED": (tls.with_connector(), TLS),
    "REQUIRED": (tls.with_connector(ssl_disabled=False, ssl_ca=True), TLS),
    "VERIFY_CA": (tls.with_connector(ssl_ca=True, ssl_verify_cert=True), NO_TRUST),
    "VERIFY_IDENTITY": (tls.with_connector(ssl_ca=True, ssl_verify_cert=True, ssl_verify_identity=True), NO_NAME),
}
"""MySQL's own connector, with MySQL's names for the modes."""

OTHERS: dict[str, tuple[Connect, str]] = {
    "PyMySQL, ssl_disabled": (tls.with_pymysql(ssl_disabled=True), PLAIN),
    "PyMySQL": (tls.with_pymysql(), TLS),
    "PyMySQL, ssl_verify_identity": (
        tls.with_pymysql(ssl_ca=True, ssl_verify_cert=True, ssl_verify_identity=True),
        NO_NAME,
    ),
    "mysqlclient": (tls.with_mysqlclient(), PLAIN),
    "mysqlclient, REQUIRED": (tls.with_mysqlclient(ssl_mode="REQUIRED"), TLS),
    "mysqlclient, VERIFY_IDENTITY": (tls.with_mysqlclient(ssl_mode="VERIFY_IDENTITY", ssl=True), NO_NAME),
    "asyncmy": (tls.with_asyncio("asyncmy", verifies=True), NO_NAME),
    "aiomysql": (tls.with_asyncio("aiomysql", verifies=True), NO_NAME),
    "mariadb --skip-ssl": (tls.with_program("--skip-ssl"), PLAIN),
    "mariadb --ssl": (tls.with_program("--ssl"), TLS),
    "mariadb --ssl-ca": (tls.with_program("--ssl", "--ssl-ca"), NO_TRUST),
    "mariadb --ssl-verify-server-cert": (tls.with_program("--ssl", "--ssl-ca", "--ssl-verify-server-cert"), NO_NAME),
}
NODE = [(driver, mode) for driver in ("mysql2", "mariadb") for mode in tls.NODE_MODES]
NODE_GETS = {"none": PLAIN, "unverified": TLS, "verified": NO_NAME}


@pytest.fixture(scope="module", params=["handoff", "relay"])
def server(request: pytest.FixtureRequest, templates: Path) -> Iterator[Server]:
    """A server with cluster "shop", which freezes soon."""
    if not installations.find(None):
        pytest.skip("this host has no MariaDB 10.6 or newer (Debian: mariadb-server)")
    with running_for_a_file(templates, ZORYA_ATTACH=request.param, ZORYA_FREEZE_AFTER="0.05") as started:
        started.api.create({"name": "shop", "engine": "mariadb"})
        yield started


@pytest.fixture(scope="module")
def target(server: Server) -> Target:
    """Where the cluster is, with the home's own root."""
    root = server.home.parent / "root.pem"
    root.write_text(server.run("ca"))
    return Target(shop=place(server, "shop"), root=root)


@contextlib.contextmanager
def in_state(server: Server, state: str) -> Iterator[None]:
    """Have the cluster in this state at the beginning of the block."""
    with contextlib.ExitStack() as stack:
        if state == "stopped":
            server.api.pause("shop", force=True)
            server.wait_for("stopped", "shop")
        else:
            other = stack.enter_context(server.mysql())
            if state == "running":
                done = threading.Event()
                worker = threading.Thread(target=_work, args=(other, done))
                worker.start()
                stack.callback(worker.join)
                stack.callback(done.set)
            server.wait_for(state, "shop")
        yield


def _work(connection: "pymysql.Connection[Any]", done: threading.Event) -> None:
    with connection.cursor() as cursor:
        while not done.is_set():
            cursor.execute("SELECT SLEEP(0.02)")


def check(server: Server, target: Target, state: str, connect: Connect, gets: str) -> None:
    """Fail unless the client gets what its mode asks for, and nothing from whom it should not trust."""
    with in_state(server, state):
        for wrong, refuses in (
            (Target(shop=target.shop, root=OTHER_ROOTS), gets in {NO_TRUST, NO_NAME} and OTHER_ROOTS.exists()),
            (target.named(WRONG_NAME), gets == NO_NAME),
        ):
            if refuses:
                with pytest.raises(Refused):
                    connect(wrong)
        if state == "stopped":
            assert server.show("shop")["compute"] == "stopped"
        assert connect(target) == (gets != PLAIN)


@pytest.mark.parametrize("state", ["running", "frozen", "stopped"])
@pytest.mark.parametrize("mode", CONNECTOR)
def test_mysqls_connector_gets_what_its_mode_asks_for(server: Server, target: Target, mode: str, state: str) -> None:
    check(server, target, state, *CONNECTOR[mode])


@pytest.mark.parametrize("state", ["running", "frozen", "stopped"])
@pytest.mark.parametrize("client", OTHERS)
def test_client_gets_what_its_mode_asks_for(server: Server, target: Target, client: str, state: str) -> None:
    check(server, target, state, *OTHERS[client])


@pytest.mark.parametrize("state", ["running", "frozen", "stopped"])
@pytest.mark.parametrize(("driver", "mode"), NODE)
def test_node_gets_what_its_mode_asks_for(
    server: Server, target: Target, node_package: Path, driver: str, mode: str, state: str
) -> None:
    check(server, target, state, tls.with_node(node_package, driver, mode), NODE_GETS[mode])


@pytest.fixture
def owner(server: Server) -> Callable[..., Any]:
    """Run one statement as the cluster's user and answer its rows."""

    def ask(sql: str, *values: Any) -> Any:
        with server.mysql() as connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall()

    return ask


@pytest.mark.parametrize("encrypts", [False, True])
def test_session_that_wakes_has_all_that_the_client_asked_for(
    server: Server, target: Target, encrypts: bool, tmp_path: Path
) -> None:
    file = tmp_path / "rows"
    file.write_text("1\n2\n")
    with in_state(server, "stopped"):
        connection = mysql.connector.connect(
            use_pure=True,
            **target.shop.told(
                ssl_disabled=not encrypts,
                compress=True,
                allow_local_infile=True,
                charset="latin1",
                collation="latin1_german1_ci",
                client_flags=[mysql.connector.ClientFlag.FOUND_ROWS],
                conn_attrs={"program": "bookkeeping"},
            ),
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute("SHOW STATUS LIKE 'Compression'")
                assert cursor.fetchall() == [("Compression", "ON")]
                cursor.execute("SELECT @@character_set_client, @@collation_connection, 'é', DATABASE()")
                assert cursor.fetchall() == [("latin1", "latin1_german1_ci", "é", "shop")]
                cursor.execute("CREATE TEMPORARY TABLE loaded (n INT)")
                cursor.execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE loaded")
                assert cursor.rowcount == 2
                # With FOUND_ROWS also those count that an UPDATE finds as they should be.
                cursor.execute("UPDATE loaded SET n = 1")
                assert cursor.rowcount == 2
        finally:
            connection.close()


def test_user_with_letters_of_latin1_wakes(server: Server, target: Target, owner: Callable[..., Any]) -> None:
    owner("CREATE OR REPLACE USER 'jérôme'@'%%' IDENTIFIED BY %s", ODD_PASSWORD)
    owner("GRANT SELECT ON shop.* TO 'jérôme'@'%'")
    with in_state(server, "stopped"):
        told = target.shop.told(user="jérôme", password=ODD_PASSWORD, charset="latin1", ssl_disabled=True)
        with pymysql.connect(**told) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT USER()")
            [[user]] = cursor.fetchall()
            assert user.startswith("jérôme@")
    owner("DROP USER 'jérôme'@'%'")


def test_pool_goes_on_when_the_cluster_was_paused(server: Server, target: Target) -> None:
    shop = target.shop
    engine = sqlalchemy.create_engine(
        sqlalchemy.URL.create("mysql+pymysql", shop.user, shop.password, shop.host, shop.port, shop.database),
        pool_pre_ping=True,
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    with in_state(server, "stopped"), engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


def test_connector_reconnects_by_a_ping_when_the_cluster_was_paused(server: Server, target: Target) -> None:
    connection = mysql.connector.connect(use_pure=True, **target.shop.told())
    with in_state(server, "stopped"):
        connection.ping(reconnect=True)
        with connection.cursor() as cursor:
            cursor.execute(PROCEDURE.format(name="of_pause"))
            cursor.callproc("of_pause", (1, 0, 0))
    connection.close()
