"""The TLS that a server identity's context speaks, checked by handshakes over real sockets."""

import shutil
import ssl
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from trust.making import NOW, client_context, make, shake_hands
from zorya.core.settings import Settings
from zorya.trust import identity
from zorya.trust.certificates import Certificates

ORDER = ["1.0", "1.1", "1.2", "1.3"]
VERSIONS = {
    "1.0": (ssl.TLSVersion.TLSv1, "TLSv1"),
    "1.1": (ssl.TLSVersion.TLSv1_1, "TLSv1.1"),
    "1.2": (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
    "1.3": (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
}


def opened(folder: Path, **given: Any) -> Certificates:
    return Certificates.open(folder, Settings(**given), now=NOW)


@pytest.mark.parametrize("spoken", ORDER)
@pytest.mark.parametrize("least", ORDER)
def test_a_client_gets_in_when_its_version_is_not_too_old(tmp_path: Path, least: str, spoken: str) -> None:
    version, name = VERSIONS[spoken]
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        server = opened(tmp_path, tls_min_version=least).identity.context
    assert leaked == []
    client = client_context(None, only=version)
    if ORDER.index(spoken) < ORDER.index(least):
        with pytest.raises(ssl.SSLError):
            shake_hands(server, client, None)
    else:
        assert shake_hands(server, client, None).version == name


@pytest.mark.parametrize("least", ORDER)
def test_the_newest_version_is_spoken_when_both_can(tmp_path: Path, least: str) -> None:
    shaken = shake_hands(opened(tmp_path, tls_min_version=least).identity.context, client_context(None), None)
    assert shaken.version == "TLSv1.3"
    assert shaken.compression is None


@pytest.mark.parametrize("offered", [["postgresql"], ["http/1.1", "postgresql"]])
def test_postgresql_is_agreed_on_when_the_client_offers_it(tmp_path: Path, offered: list[str]) -> None:
    client = client_context(None)
    client.set_alpn_protocols(offered)
    assert shake_hands(opened(tmp_path).identity.context, client, None).alpn == "postgresql"


def test_no_protocol_is_agreed_on_when_the_client_offers_another(tmp_path: Path) -> None:
    client = client_context(None)
    client.set_alpn_protocols(["http/1.1"])
    assert shake_hands(opened(tmp_path).identity.context, client, None).alpn is None


def test_no_session_is_resumed_in_tls_1_3(tmp_path: Path) -> None:
    server, client = opened(tmp_path).identity.context, client_context(None, only=ssl.TLSVersion.TLSv1_3)
    first = shake_hands(server, client, None)
    assert first.session is None or not first.session.has_ticket
    assert not shake_hands(server, client, None, session=first.session).is_resumed


def test_no_ticket_is_given_in_tls_1_2(tmp_path: Path) -> None:
    shaken = shake_hands(opened(tmp_path).identity.context, client_context(None, only=ssl.TLSVersion.TLSv1_2), None)
    assert shaken.session is not None
    assert not shaken.session.has_ticket


def test_the_context_does_not_renegotiate_compress_or_give_tickets(tmp_path: Path) -> None:
    context = opened(tmp_path).identity.context
    wanted = ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_SINGLE_ECDH_USE
    assert context.options & wanted == wanted
    assert context.num_tickets == 0


def test_another_context_has_the_same_certificate(tmp_path: Path) -> None:
    shown = opened(tmp_path, tls_min_version="1.0").identity
    other = shown.new_context(min_version="1.2", alpn=["http/1.1"])
    client = client_context(None)
    client.set_alpn_protocols(["http/1.1"])
    shaken = shake_hands(other, client, None)
    assert shaken.alpn == "http/1.1"
    assert shaken.certificate == ssl.PEM_cert_to_DER_cert(shown.chain)
    with pytest.raises(ssl.SSLError):
        shake_hands(other, client_context(None, only=ssl.TLSVersion.TLSv1_1), None)


@pytest.mark.parametrize(
    ("signed_with", "bound_with"),
    [(hashes.SHA256(), hashes.SHA256()), (hashes.SHA384(), hashes.SHA384())],
)
def test_the_end_point_hash_is_made_with_the_signatures_hash(
    signed_with: Any, bound_with: hashes.HashAlgorithm
) -> None:
    """RFC 5929, section 4.1."""
    made = make(hash_=signed_with)
    shown = identity.build([made.certificate], made.key, source="x", min_version="1.0")
    assert shown.end_point_hash == made.certificate.fingerprint(bound_with)


@pytest.mark.parametrize("old", ["sha1", "md5"])
def test_the_end_point_hash_is_made_with_sha_256_when_the_signatures_hash_is_broken(tmp_path: Path, old: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl, and nothing else here signs with such a hash")
    certificate, key = tmp_path / "old.crt", tmp_path / "old.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", f"-{old}", "-subj", "/CN=old"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    shown = identity.build([leaf], loaded, source="x", min_version="1.0")
    assert shown.end_point_hash == leaf.fingerprint(hashes.SHA256())


def test_a_certificate_without_an_end_point_hash_is_refused() -> None:
    made = make(key=ed25519.Ed25519PrivateKey.generate(), hash_=None)
    with pytest.raises(ValueError, match="channel binding"):
        identity.build([made.certificate], made.key, source="x", min_version="1.2")


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_the_key_stays_secret(kind: str) -> None:
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    made = make(key=key)
    shown = identity.build([made.certificate], made.key, source="x", min_version="1.2")
    assert shown.key.value.encode() == made.key_pem()
    assert "PRIVATE" not in repr(shown)
    shake_hands(shown.context, client_context(None), None)
