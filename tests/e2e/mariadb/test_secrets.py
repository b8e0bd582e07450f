"""No secret of a MariaDB cluster stands where others read: logs, events, lists of processes, what the API answers."""

import json
import subprocess

import pymysql
import pytest

from e2e.mariadb.clients import attempt, rows, start_with_shop
from e2e.readable import said
from harness import Server
from waiting import wait_until
from zorya.engines.mariadb import administrator


def test_no_secret_is_told(stopped_server: Server) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_LOG_LEVEL="debug")
    passwords = {server.api.credentials("shop")["password"], "letmein-wrong-password"}
    for _ in ("stopped", "running"):
        assert attempt(server, password="letmein-wrong-password")[0] == 1045
        with server.mysql() as session, pytest.raises(pymysql.err.MySQLError):
            rows(session, "SELECT no_such_column")
    passwords.add(server.json("password", "shop")["password"])
    server.mysql_query("CREATE USER app IDENTIFIED BY 'secret-of-a-tenant'")
    passwords.add("secret-of-a-tenant")
    passwords.add(administrator.read(server.home / "clusters" / server.show("shop")["id"] / "conf").password.value)
    # While `zorya connect` has its session, its arguments are there for everybody to see.
    connecting = subprocess.Popen(
        [*server.command, "connect", "shop", "--", "-e", "SELECT SLEEP(3)"],
        env=server.env,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    try:
        sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'"
        wait_until(lambda: server.mysql_query(sql) == ((1,),), "it has its session")
        for where, text in said(server, "shop"):
            assert not [one for one in passwords if one in text], f"{where} tells a secret"
    finally:
        assert connecting.wait(30) == 0
    server.run("pause", "shop", "--force")
    (identities,) = [path for path in server.home.glob("clusters/*/identities.json") if "mariadb" in path.read_text()]
    whole = identities.read_text()
    verifiers = {
        method["verifier"].lstrip("*")
        for account in json.loads(whole)["accounts"]
        for method in account["methods"]
        if method["verifier"]
    }
    assert len(verifiers) == 2
    server.kill()
    # A file that cannot be read makes for an error with a traceback's worth of context.
    identities.write_text(whole[:-3])
    server.allow("who may log in is not known")
    server.start(ZORYA_LOG_LEVEL="debug")
    server.run("resume", "shop")
    for where, text in said(server, "shop"):
        assert not [one for one in passwords | verifiers if one in text], f"{where} tells a secret"
