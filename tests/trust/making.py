"""Operator's certificates of every kind, and handshakes with a context."""

import socket
import ssl
import threading
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

NOW = datetime(2026, 2, 3, 9, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PEM = serialization.Encoding.PEM
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Hash = hashes.SHA256 | hashes.SHA384


@dataclass(frozen=True, kw_only=True)
class Made:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(PEM)

    def key_pem(self, password: bytes | None = None) -> bytes:
        hidden: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        )
        return self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, hidden)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Answer the paths of the certificate and the key."""
        certificate, key = folder / "server.crt", folder / "server.key"
        certificate.write_bytes(self.certificate_pem)
        key.write_bytes(self.key_pem())
        return certificate, key


def make(
    *,
    start: datetime = NOW - DAY,
    end: datetime = NOW + 365 * DAY,
    key: Key | None = None,
    hash_: Hash | None = hashes.SHA256(),  # noqa: B008 - it has no state
    signer: Made | None = None,
    name: str = "db.example.com",
) -> Made:
    """Answer a certificate, signed by itself unless there is a signer."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer.certificate.subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
        .sign(signer.key if signer else key, hash_)
    )
    return Made(certificate=certificate, key=key)


def client_context(root_pem: str | None, *, only: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """Answer a client's context that verifies with `root_pem`, or not at all, and speaks one version if told so."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if root_pem is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=root_pem)
    if only is not None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = only
    return context


@dataclass(frozen=True, kw_only=True)
class Shaken:
    """What a client knows after a handshake and one exchange of bytes."""

    version: str
    alpn: str | None
    certificate: bytes
    session: ssl.SSLSession | None
    is_resumed: bool
    compression: str | None


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None, *, session: ssl.SSLSession | None = None
) -> Shaken:
    """Do a handshake over a real socket. Raises the client's error."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as wrapped:
                wrapped.sendall(wrapped.recv(1))
                wrapped.recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name, session=session) as wrapped:
            wrapped.sendall(b"x")
            assert wrapped.recv(1) == b"x"
            return Shaken(
                version=str(wrapped.version()),
                alpn=wrapped.selected_alpn_protocol(),
                certificate=wrapped.getpeercert(binary_form=True) or b"",
                session=wrapped.session,
                is_resumed=bool(wrapped.session_reused),
                compression=wrapped.compression(),
            )
    finally:
        ours.close()
        thread.join()
