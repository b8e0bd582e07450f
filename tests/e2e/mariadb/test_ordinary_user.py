"""MariaDB clusters of a server that is not run by root: engines run as that user, and everything else is the same."""

from pathlib import Path

import pymysql
import pytest

from e2e.mariadb.clients import attempt, one, rows, run, wait_frozen
from e2e.test_ordinary_user import server
from harness import Server

__all__ = ["server"]


def test_everything_works_when_the_server_is_run_by_an_ordinary_user(server: Server) -> None:
    server.run("create", "shop", "--engine", "mariadb", "--pause-after", "1", "--freeze-after", "0.05")
    with server.mysql() as session:
        run(session, "CREATE TABLE t AS SELECT 7 AS n", "CREATE USER app IDENTIFIED BY 'x'", "GRANT SELECT ON t TO app")
        shown = wait_frozen(server)
        assert shown["attach"] == "handoff"
        assert one(session, "SELECT n FROM t") == 7
        assert server.process is not None
        for process in (server.process.pid, shown["engine_pid"]):
            assert Path(f"/proc/{process}").stat().st_uid != 0
    server.wait_for("stopped", "shop")
    assert attempt(server, password="wrong")[0] == 1045
    assert server.show("shop")["compute"] == "stopped"
    assert server.mysql_query("SELECT n FROM t", user="app", password="x") == ((7,),)
    server.run("password", "shop")
    server.kill()
    server.start()
    assert server.mysql_query("SELECT n FROM t") == ((7,),)
    server.run("delete", "shop", "--yes")


def test_clients_have_no_more_rights_when_the_server_is_run_by_an_ordinary_user(server: Server) -> None:
    server.api.create({"name": "shop", "engine": "mariadb"})
    with server.mysql() as session:
        assert one(session, "SELECT LOAD_FILE('/etc/passwd')") is None
        for statement in ("SELECT 1 INTO OUTFILE '/tmp/x'", "SHUTDOWN", "SELECT * FROM mysql.global_priv"):
            with pytest.raises(pymysql.err.MySQLError):
                rows(session, statement)
    for user in ("root", "nobody", "mysql"):
        assert attempt(server, user=user, password="", database=None)[0] == 1045
