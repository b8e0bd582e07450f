"""What each client gets when it wakes a stopped cluster: in each of its modes of TLS, and with all it may ask for."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mysql.connector
import pymysql
import pytest
import sqlalchemy

from clients.mariadb import tls
from clients.mariadb.conftest import place
from clients.mariadb.shop import ODD_PASSWORD, PROCEDURE
from clients.mariadb.tls import (
    CONNECTOR,
    NO_NAME,
    NO_TRUST,
    NODE,
    NODE_GETS,
    OTHER_ROOTS,
    OTHERS,
    PLAIN,
    WRONG_NAME,
    Connect,
    Refused,
    Target,
)
from harness import Server

# A session that wakes is relayed whatever is set.
pytestmark = pytest.mark.parametrize("way", ["handoff"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def server(started: Server) -> Iterator[Server]:
    """A server with a cluster that tests pause."""
    started.api.create({"name": "sleepy", "engine": "mariadb"})
    yield started
    started.api.delete("sleepy")
    started.check_log()


@pytest.fixture(scope="module")
def target(server: Server, root: Path) -> Target:
    """Where that cluster is."""
    return Target(shop=place(server, "sleepy"), root=root)


def pause(server: Server) -> None:
    """Have the cluster stopped."""
    if server.show("sleepy")["compute"] != "stopped":
        server.api.pause("sleepy", force=True)
        server.wait_for("stopped", "sleepy")


def check(server: Server, target: Target, connect: Connect, gets: str) -> None:
    """Fail unless the client gets what its mode asks for, and wakes nothing where it does not trust the certificate."""
    pause(server)
    if gets in {NO_TRUST, NO_NAME} and OTHER_ROOTS.exists():
        with pytest.raises(Refused):
            connect(Target(shop=target.shop, root=OTHER_ROOTS))
    if gets == NO_NAME:
        with pytest.raises(Refused):
            connect(target.named(WRONG_NAME))
    assert server.show("sleepy")["compute"] == "stopped"
    assert connect(target) == (gets != PLAIN)


@pytest.mark.parametrize("client", [*CONNECTOR, *OTHERS])
def test_client_wakes_the_cluster_when_it_gets_what_its_mode_asks_for(
    server: Server, target: Target, client: str
) -> None:
    check(server, target, *(CONNECTOR | OTHERS)[client])


@pytest.mark.parametrize(("driver", "mode"), NODE)
def test_node_wakes_the_cluster_when_it_gets_what_it_asks_for(
    server: Server, target: Target, node_package: Path, driver: str, mode: str
) -> None:
    check(server, target, tls.with_node(node_package, driver, mode), NODE_GETS[mode])


@pytest.mark.parametrize("encrypts", [False, True])
def test_session_that_wakes_has_all_that_the_client_asked_for(
    server: Server, target: Target, encrypts: bool, tmp_path: Path
) -> None:
    file = tmp_path / "rows"
    file.write_text("1\n2\n")
    pause(server)
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
            assert cursor.fetchall() == [("latin1", "latin1_german1_ci", "é", "sleepy")]
            cursor.execute("CREATE TEMPORARY TABLE loaded (n INT)")
            cursor.execute(f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE loaded")
            assert cursor.rowcount == 2
            # With FOUND_ROWS also those count that an UPDATE finds as they should be.
            cursor.execute("UPDATE loaded SET n = 1")
            assert cursor.rowcount == 2
    finally:
        connection.close()


@pytest.mark.parametrize("driver", ["mysql2", "mariadb"])
def test_client_with_many_attributes_wakes(server: Server, target: Target, node_package: Path, driver: str) -> None:
    pause(server)
    done = subprocess.run(
        ["node", "checks.mjs", driver, "attributes"],
        cwd=node_package,
        input=json.dumps(target.shop.told()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "attributes: ok\n"), done.stderr


def test_user_with_letters_of_latin1_wakes(server: Server, target: Target) -> None:
    with server.mysql("sleepy") as owner, owner.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE USER 'jérôme'@'%%' IDENTIFIED BY %s", [ODD_PASSWORD])
        cursor.execute("GRANT SELECT ON sleepy.* TO 'jérôme'@'%'")
    pause(server)
    told = target.shop.told(user="jérôme", password=ODD_PASSWORD, charset="latin1", ssl_disabled=True)
    with pymysql.connect(**told) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT USER()")
        [[user]] = cursor.fetchall()
        assert user.startswith("jérôme@")
    server.mysql_query("DROP USER 'jérôme'@'%'", "sleepy")


def test_pool_goes_on_when_the_cluster_was_paused(server: Server, target: Target) -> None:
    shop = target.shop
    engine = sqlalchemy.create_engine(
        sqlalchemy.URL.create("mysql+pymysql", shop.user, shop.password, shop.host, shop.port, shop.database),
        pool_pre_ping=True,
    )
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    pause(server)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


def test_connector_reconnects_by_a_ping_when_the_cluster_was_paused(server: Server, target: Target) -> None:
    connection = mysql.connector.connect(use_pure=True, **target.shop.told())
    pause(server)
    connection.ping(reconnect=True)
    with connection.cursor() as cursor:
        cursor.execute(PROCEDURE.format(name="of_pause"))
        cursor.callproc("of_pause", (1, 0, 0))
    connection.close()
