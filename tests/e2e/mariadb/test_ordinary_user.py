"""MariaDB clusters of a server that is not run by root: engines run as that user, and everything else is the same."""

from pathlib import Path

from e2e.mariadb.clients import attempt, one, run, wait_frozen
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
