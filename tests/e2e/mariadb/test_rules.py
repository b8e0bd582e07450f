"""A cluster's rules for its clients hold in every state: addresses, TLS, how many, and what its accounts require."""

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from e2e.mariadb.clients import Load, attempt, one, rows, run, start_with_shop
from harness import Server
from waiting import wait_until

STATES = ("running", "frozen", "stopped")
CIPHER = "SELECT VARIABLE_VALUE FROM information_schema.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'"


@contextlib.contextmanager
def in_state(server: Server, state: str) -> Iterator[None]:
    """Have the cluster "shop" in this state at the beginning of the block."""
    if state == "stopped":
        server.api.pause("shop", force=True)
        server.wait_for("stopped", "shop")
        yield
        return
    server.run("modify", "shop", "--freeze-after", "never" if state == "running" else "0.05")
    with server.mysql():
        server.wait_for(state, "shop")
        yield


def trusting(root: Path, **more: Any) -> dict[str, Any]:
    """Answer the options of a client that wants TLS, of a server whose certificate it believes."""
    return {"ssl_disabled": False, "ssl_ca": str(root), "ssl_verify_cert": True, "ssl_verify_identity": True, **more}


@pytest.mark.parametrize("state", STATES)
def test_tls_is_had_by_who_wants_it_and_is_the_engines_own(shop: Server, root: Path, state: str) -> None:
    with in_state(shop, state), shop.mysql(**trusting(root)) as session:
        assert "AES" in one(session, CIPHER) or "CHACHA" in one(session, CIPHER)
        assert one(session, "SELECT 1") == 1
    with in_state(shop, state), shop.mysql() as session:
        assert one(session, CIPHER) == ""


@pytest.mark.parametrize("state", STATES)
def test_certificate_that_is_not_believed_ends_it(shop: Server, tmp_path: Path, state: str) -> None:
    other = make_authority(tmp_path)
    with in_state(shop, state), pytest.raises(pymysql.err.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        shop.mysql(**trusting(other))


@pytest.mark.parametrize("state", STATES)
def test_clients_without_tls_are_refused_where_it_is_required(shop: Server, root: Path, state: str) -> None:
    shop.api.resume("shop")
    with in_state(shop, state):
        shop.run("modify", "shop", "--require-tls")
        number, text = attempt(shop)
        # MariaDB's own refusal says no more than that.
        assert number in {1045, 3159}, text
        assert state != "stopped" or shop.show("shop")["compute"] == "stopped"
        with shop.mysql(**trusting(root)) as session:
            assert one(session, CIPHER)
        shop.run("modify", "shop", "--no-require-tls")
        assert attempt(shop) == (0, "")


@pytest.mark.parametrize("state", STATES)
def test_clients_of_other_networks_are_refused(shop: Server, state: str) -> None:
    shop.api.resume("shop")
    with in_state(shop, state):
        shop.run("modify", "shop", "--allow", "127.0.0.2", "--allow", "192.0.2.0/24")
        number, text = attempt(shop)
        assert number == 1130
        assert 'cluster "shop" allows no connections from 127.0.0.1' in text
        assert state != "stopped" or shop.show("shop")["compute"] == "stopped"
        assert attempt(shop, bind_address="127.0.0.2") == (0, "")


@pytest.mark.parametrize("state", STATES[:2])
def test_more_clients_than_it_may_have_are_refused(shop: Server, state: str) -> None:
    shop.run("modify", "shop", "--max-clients", "2")
    with in_state(shop, state):
        # The session that wakes may be counted twice for a moment.
        wait_until(lambda: shop.show("shop")["sessions"] == 1, "it is counted once")
        second = shop.mysql()
        wait_until(lambda: shop.show("shop")["sessions"] == 2, "both are counted")
        number, text = attempt(shop)
        assert number == 1040
        assert 'cluster "shop" may have 2' in text
        second.close()
        wait_until(lambda: shop.show("shop")["sessions"] == 1, "the other is counted out")
        # It may be a moment before it is known that the other has left.
        wait_until(lambda: attempt(shop) == (0, ""), "there is room for one again")


def test_rules_change_without_a_restart_and_outlive_the_server(shop: Server) -> None:
    with shop.mysql() as session, Load(shop, "SELECT 1", 1, sessions=2):
        pid = shop.show("shop")["engine_pid"]
        for words in (("--require-tls",), ("--no-require-tls",), ("--max-clients", "50"), ("--pause-after", "77")):
            shop.run("modify", "shop", *words)
            assert one(session, "SELECT 1") == 1
        assert shop.show("shop")["engine_pid"] == pid
    shop.kill()
    shop.start()
    shown = shop.show("shop")
    assert (shown["require_tls"], shown["max_clients"], shown["pause_after_s"]) == (False, 50, 77)
    assert shop.events("shop").count("1010") == 4


def test_engine_sees_the_clients_own_address_however_it_came(stopped_server: Server) -> None:
    server = stopped_server
    for attach in ("handoff", "relay"):
        start_with_shop(server, ZORYA_ATTACH=attach)
        if attach == "handoff":
            server.mysql_query(
                "CREATE USER app@'127.0.3.%' IDENTIFIED BY 'three', app@'127.0.4.%' IDENTIFIED BY 'four'"
            )
        for state in ("stopped", "running"):
            if state == "stopped":
                server.api.pause("shop", force=True)
            for net, password in (("3", "three"), ("4", "four")):
                options: dict[str, Any] = {"user": "app", "bind_address": f"127.0.{net}.7", "database": None}
                wrong = "three" if password == "four" else "four"
                assert attempt(server, password=wrong, **options)[0] == 1045
                with server.mysql(password=password, **options) as session:
                    assert one(session, "SELECT CURRENT_USER()") == f"app@127.0.{net}.%"
                    assert one(session, "SELECT USER()") == f"app@127.0.{net}.7"
                    own = session._sock.getsockname()
                    host = one(session, "SELECT host FROM information_schema.processlist WHERE id = CONNECTION_ID()")
                    assert host == f"{own[0]}:{own[1]}"
        server.stop()


def test_account_that_requires_a_certificate_is_let_in_with_one_of_the_homes_authority(
    shop: Server, root: Path, tmp_path: Path
) -> None:
    key, certificate = make_client(shop, tmp_path)
    with shop.mysql() as session:
        run(
            session,
            "CREATE USER cert IDENTIFIED BY 'good' REQUIRE X509",
            "CREATE USER named IDENTIFIED BY 'good' REQUIRE SUBJECT '/CN=ann'",
            "CREATE USER other IDENTIFIED BY 'good' REQUIRE SUBJECT '/CN=bob'",
        )
        shown = {"ssl_cert": str(certificate), "ssl_key": str(key)}
        for user in ("cert", "named"):
            options = {"user": user, "password": "good", "database": None}
            with shop.mysql(**trusting(root, **shown, **options)) as own:
                assert rows(own, "SELECT CURRENT_USER()") == ((f"{user}@%",),)
            assert attempt(shop, **trusting(root, **options))[0] == 1045
            assert attempt(shop, **options)[0] == 1045
        assert attempt(shop, **trusting(root, user="other", password="good", database=None, **shown))[0] == 1045


def make_authority(folder: Path) -> Path:
    """Make a root that has signed nothing; answer its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "someone else")])
    certificate = sign(name, key, name, key, is_authority=True)
    path = folder / "other.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def make_client(server: Server, folder: Path) -> tuple[Path, Path]:
    """Have the home's authority sign a certificate for `ann`; answer the files of key and certificate."""
    issuer = x509.load_pem_x509_certificate((server.home / "tls" / "ca.pem").read_bytes())
    loaded = serialization.load_pem_private_key((server.home / "tls" / "ca.key").read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ann")])
    certificate = sign(name, key, issuer.subject, loaded, is_authority=False)
    key_file, certificate_file = folder / "ann.key", folder / "ann.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file


def sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuers_key: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    """Answer a certificate that is good for a day."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(issuers_key, hashes.SHA256())
    )
