"""A new certificate reaches every engine without a restart; see Fleet.renew_tls."""

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import struct
import subprocess
from typing import Any

import psycopg

from harness import Server
from held import Held
from waiting import wait_until


def renew(server: Server) -> str:
    """Have a new certificate made; answer its fingerprint."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(server.home / "run" / "zorya.sock"))
    connection.request("POST", "/v1/ca/renew")
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["fingerprint"])


def shown_by_engine(server: Server) -> str:
    """Answer the fingerprint of the certificate that the engine itself shows, asked past the endpoint."""
    _, port = server.engine_socket
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        # SSLRequest, and its answer: PostgreSQL manual, "Message Formats".
        plain.sendall(struct.pack("!ii", 8, 80877103))
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain) as client:
            certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(certificate).digest())


def test_an_engine_that_runs_has_it_and_keeps_its_sessions(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as session:
        pid = server.show()["engine_pid"]
        before = shown_by_engine(server)
        fingerprint = renew(server)
        assert fingerprint != before
        wait_until(lambda: shown_by_engine(server) == fingerprint, "the engine shows the new certificate")
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert server.show()["engine_pid"] == pid


def await_shown(server: Server, fingerprint: str) -> None:
    wait_until(lambda: shown_by_engine(server) == fingerprint, "the engine shows the new certificate")


def test_hundred_live_sessions_go_on_when_it_is_renewed(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        # The first wakes the cluster and has its TLS from Zorya, the others theirs from PostgreSQL.
        sessions = [
            stack.enter_context(psycopg.connect(server.url(), autocommit=True, sslmode="require")) for _ in range(100)
        ]
        backends = [session.info.backend_pid for session in sessions]
        assert sessions[-1].execute("SELECT count(*) FROM pg_stat_ssl WHERE ssl").fetchone() == (99,)
        for _ in range(3):
            await_shown(server, renew(server))
            answers = [session.execute("SELECT pg_backend_pid()").fetchone() for session in sessions]
            assert answers == [(pid,) for pid in backends]


def test_a_frozen_engine_thaws_for_it(server: Server) -> None:
    server.run("modify", "main", "--freeze-after", "0.05")
    with psycopg.connect(server.url(), autocommit=True) as session:
        server.wait_for("frozen")
        frozen = server.events().count("1008")
        fingerprint = renew(server)
        wait_until(lambda: server.events().count("1008") > frozen, "it was thawed, and is frozen again")
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert shown_by_engine(server) == fingerprint


def test_an_engine_that_was_starting_has_it_once_it_is_ready(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "resume.started")
    server.start(**held.env)
    asked = subprocess.Popen([*server.command, "resume", "main"], env=server.env, stdout=subprocess.DEVNULL)
    held.wait()
    fingerprint = renew(server)
    held.release()
    assert asked.wait(60) == 0
    wait_until(lambda: shown_by_engine(server) == fingerprint, "the engine shows the new certificate")


def test_an_engine_that_did_not_run_has_it_when_it_starts(server: Server) -> None:
    server.query("SELECT 1")
    before = shown_by_engine(server)
    server.run("pause", "main")
    fingerprint = renew(server)
    server.query("SELECT 1")
    assert shown_by_engine(server) == fingerprint != before
