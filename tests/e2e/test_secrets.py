"""No secret stands where others read: logs, events, lists of processes, answers of the API, what commands print."""

import json
import re

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from e2e.readable import said
from harness import Server


def secrets_of(server: Server, passwords: set[str]) -> set[str]:
    """Answer everything that is secret, in pieces that would not be found by chance."""
    home = server.home
    token = (home / "api-token").read_text().strip()
    verifiers = {
        piece
        for path in home.glob("clusters/*/identities.json")
        for role in json.loads(path.read_text())["roles"].values()
        if role["verifier"]
        for piece in re.split(r"[$:]", role["verifier"])[2:]
    }
    keys = {
        line
        for path in (home / "tls" / "ca.key", home / "tls" / "server.pem", *home.glob("clusters/*/conf/server.key"))
        for block in re.findall(r"PRIVATE KEY-----\n(.*?)-----END", path.read_text(), re.DOTALL)
        # The lines behind these hold the public key alone.
        for line in block.split()[:2]
    }
    assert verifiers
    assert keys
    return {token, *passwords, *verifiers, *keys}


@pytest.mark.parametrize("tls", ["disable", "require"])
def test_no_secret_is_told(stopped_server: Server, tls: str) -> None:
    server = stopped_server
    server.start(ZORYA_LOG_LEVEL="debug", ZORYA_SHARED_PORT="0")
    credentials = server.api.credentials("main")
    passwords = {credentials["password"], "letmein-wrong-password"}

    def connect(password: str) -> None:
        conninfo = make_conninfo(
            host="127.0.0.1",
            port=credentials["endpoint"]["port"],
            user="zorya",
            dbname="main",
            password=password,
            sslmode=tls,
        )
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("SELECT no_such_column")

    for state in ("stopped", "running"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            connect("letmein-wrong-password")
        with pytest.raises(psycopg.errors.UndefinedColumn):
            connect(credentials["password"])
        assert server.show()["compute"] in {"running", "frozen"}, state
    rotated = server.cli("password", "main", "--json")
    assert rotated.returncode == 0
    passwords.add(json.loads(rotated.stdout)["password"])
    server.run("ca", "--renew")
    server.run("pause", "main", "--force")
    # A file that cannot be read makes for an error with a traceback's worth of context.
    (identities,) = server.home.glob("clusters/*/identities.json")
    secret = secrets_of(server, passwords)
    whole = identities.read_text()
    server.kill()
    identities.write_text(whole[:-3])
    server.allow("who may log in is not known")
    server.start(ZORYA_LOG_LEVEL="debug")
    server.run("resume", "main")
    for where, text in said(server, "main"):
        found = [one for one in secret if one in text]
        assert not found, f"{where} tells a secret"
