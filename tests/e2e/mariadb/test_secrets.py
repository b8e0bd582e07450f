"""No secret of a MariaDB cluster stands where others read: logs, events, lists of processes, what the API answers."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pymysql
import pytest

from e2e.mariadb.clients import attempt, rows, start_with_shop
from harness import Server
from waiting import wait_until
from zorya.engines.mariadb import administrator

ROUTES = ("/v1/status", "/v1/doctor", "/v1/clusters", "/v1/clusters/shop", "/v1/events", "/v1/ca")
COMMANDS = (["show", "shop"], ["list"], ["status"], ["doctor"], ["events", "--all"])


def said(server: Server) -> Iterator[tuple[str, str]]:
    """Answer where something can be read, and what."""
    for path in (server.log, *server.home.glob("log/*"), *server.home.glob("clusters/*/log/*")):
        yield str(path), path.read_text(errors="replace")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield f"{process}/cmdline", (process / "cmdline").read_text(errors="replace")
    environment = Path(f"/proc/{server.show('shop')['engine_pid']}/environ")
    yield str(environment), environment.read_text(errors="replace")
    transport = httpx.HTTPTransport(uds=str(server.home / "run" / "zorya.sock"))
    with httpx.Client(transport=transport, base_url="http://zorya", trust_env=False) as api:
        for route in ROUTES:
            answer = api.get(route)
            assert answer.status_code == 200, route
            yield route, answer.text
    for command in COMMANDS:
        done = server.cli(*command)
        yield " ".join(command), done.stdout + done.stderr


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
        for where, text in said(server):
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
    for where, text in said(server):
        assert not [one for one in passwords | verifiers if one in text], f"{where} tells a secret"
