"""A new certificate reaches every MariaDB engine without a restart, and no session notices."""

import contextlib
import hashlib
import ssl
import subprocess
from functools import partial
from typing import Any

from e2e.mariadb.clients import Load, number_of, one, start_with_shop, wait_frozen
from e2e.mariadb.raw_client import RawClient
from e2e.test_certificate_renewal import renew
from harness import Server
from held import Held
from waiting import wait_until


def shown(server: Server) -> str:
    """Answer the fingerprint of the certificate that a newcomer at the endpoint is shown: the engine's, if it runs."""
    with RawClient(server.show("shop")["endpoint"]["port"]) as client:
        client.greeting()
        client.secure()
        assert isinstance(client.socket, ssl.SSLSocket)
        certificate = client.socket.getpeercert(binary_form=True)
    assert certificate is not None
    return ":".join(f"{byte:02X}" for byte in hashlib.sha256(certificate).digest())


def shows(server: Server, fingerprint: str) -> bool:
    return shown(server) == fingerprint


def with_tls(server: Server, **more: Any) -> Any:
    return server.mysql(ssl_disabled=False, ssl_ca=str(server.home / "tls" / "ca.pem"), ssl_verify_cert=True, **more)


def test_an_engine_that_runs_has_it_and_keeps_its_sessions(shop: Server) -> None:
    shop.run("modify", "shop", "--freeze-after", "never")
    with contextlib.ExitStack() as stack:
        # The first wakes the cluster and has its TLS from Zorya, the others theirs from MariaDB.
        sessions = [stack.enter_context(with_tls(shop)) for _ in range(20)]
        pid = shop.show("shop")["engine_pid"]
        before = shown(shop)
        with Load(shop, "SELECT 1", 1, sessions=2):
            for _ in range(2):
                fingerprint = renew(shop)
                assert fingerprint != before
                wait_until(partial(shows, shop, fingerprint), "the engine shows the new one")
                assert [one(session, "SELECT CONNECTION_ID()") for session in sessions] == [
                    number_of(session) for session in sessions
                ]
                with with_tls(shop) as newcomer:
                    assert one(newcomer, "SELECT 1") == 1
        assert shop.show("shop")["engine_pid"] == pid


def test_a_frozen_engine_has_it_when_it_is_thawed(quick_shop: Server) -> None:
    shop = quick_shop
    with shop.mysql() as session:
        wait_frozen(shop)
        fingerprint = renew(shop)
        wait_until(lambda: shown(shop) == fingerprint, "the engine shows the new certificate")
        assert one(session, "SELECT 1") == 1
        wait_frozen(shop)
        with with_tls(shop) as newcomer:
            assert one(newcomer, "SELECT 1") == 1


def test_an_engine_that_was_starting_has_it_once_it_is_ready(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "resume.started")
    start_with_shop(server, **held.env)
    asked = subprocess.Popen([*server.command, "resume", "shop"], env=server.env, stdout=subprocess.DEVNULL)
    held.wait()
    fingerprint = renew(server)
    held.release()
    assert asked.wait(60) == 0
    wait_until(lambda: shown(server) == fingerprint, "the engine shows the new certificate")


def test_an_engine_that_did_not_run_has_it_when_it_starts(shop: Server) -> None:
    shop.mysql_query("SELECT 1")
    before = shown(shop)
    shop.run("pause", "shop", "--force")
    fingerprint = renew(shop)
    # The gateway itself shows it now.
    assert shown(shop) == fingerprint != before
    shop.mysql_query("SELECT 1")
    assert shown(shop) == fingerprint
