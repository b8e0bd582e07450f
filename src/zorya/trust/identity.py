"""What the server shows to clients that ask for TLS: a certificate, its key, and all that follows from the two."""

import os
import ssl
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from zorya.core.model import Secret

TlsVersion = Literal["1.0", "1.1", "1.2", "1.3"]

POSTGRESQL_ALPN = "postgresql"
"""The protocol's name in ALPN, which clients that begin with the handshake insist on (PostgreSQL 17, protocol.sgml)."""

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion, ssl.SSLError)
"""What `cryptography` and `ssl` raise for certificates and keys that they do not take."""

_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_OUTDATED = {"1.0", "1.1"}
# Below this level OpenSSL 3 refuses the SHA-1 that the handshakes of these versions are signed with.
_OUTDATED_CIPHERS = "DEFAULT:@SECLEVEL=0"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServerIdentity:
    """One server certificate with its key. Two are the same only if they are the same object."""

    chain: str
    """PEM: the server's certificate first, then those that lead to its root, if any."""
    key: Secret
    """PEM (PKCS #8), unencrypted."""
    context: ssl.SSLContext
    """For clients of PostgreSQL. Connections that it has begun keep this certificate when another takes its place."""
    end_point_hash: bytes
    """The certificate as SCRAM's channel binding `tls-server-end-point` names it (RFC 5929, section 4.1)."""
    fingerprint: str
    """SHA-256 of the certificate as `openssl x509 -fingerprint -sha256` prints it."""
    not_before: datetime
    not_after: datetime
    root: str
    """PEM: the last certificate of the chain, its root or what leads to that."""
    names: tuple[str, ...]
    """DNS names and IP addresses for which the certificate is good."""
    source: str
    """Who made it: Zorya's own authority, or the path of the operator's file."""

    def new_context(self, *, min_version: TlsVersion, alpn: Sequence[str]) -> ssl.SSLContext:
        """Answer one more context with this certificate."""
        return _new_context(self.chain, self.key, min_version=min_version, alpn=alpn)


def build(
    chain: Sequence[x509.Certificate], key: PrivateKeyTypes, *, source: str, min_version: TlsVersion
) -> ServerIdentity:
    """Answer the identity of a server whose certificate is the first of `chain`.

    Raises ValueError when `key` is not that certificate's, or channel binding is not defined for it, and other errors
    of UNREADABLE for what the libraries do not take.
    """
    leaf = chain[0]
    if not fits(leaf, key):
        raise ValueError("the key is not that of the first certificate")
    pem = "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in chain)
    secret = Secret(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
    )
    return ServerIdentity(
        chain=pem,
        key=secret,
        context=_new_context(pem, secret, min_version=min_version, alpn=[POSTGRESQL_ALPN]),
        end_point_hash=_end_point_hash(leaf),
        fingerprint=fingerprint(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        root=chain[-1].public_bytes(serialization.Encoding.PEM).decode(),
        names=names_of(leaf),
        source=source,
    )


def fits(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Whether `key` is the private half of the certificate's."""
    return _public(certificate.public_key()) == _public(key.public_key())


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(certificate: x509.Certificate) -> str:
    """Answer a certificate's SHA-256 as pairs of capital hexadecimal digits with colons between them."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Answer the DNS names and the addresses in the certificate, as `trust.names` writes them."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    dns = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
    return (*dns, *map(str, found.get_values_for_type(x509.IPAddress)))


def _end_point_hash(certificate: x509.Certificate) -> bytes:
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        raise ValueError(
            f"its signature ({certificate.signature_algorithm_oid._name}) has no hash, which PostgreSQL's clients need "
            "for channel binding"
        )
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


def _new_context(chain: str, key: Secret, *, min_version: TlsVersion, alpn: Sequence[str]) -> ssl.SSLContext:
    """Answer a server's context without compression, renegotiation or tickets.

    Sessions cannot be resumed in TLS 1.3. Python offers no way to turn off OpenSSL's own cache for TLS 1.2.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= (
        ssl.OP_NO_COMPRESSION
        | ssl.OP_NO_RENEGOTIATION
        | ssl.OP_NO_TICKET
        | ssl.OP_SINGLE_ECDH_USE
        | ssl.OP_SINGLE_DH_USE
    )
    context.num_tickets = 0
    with warnings.catch_warnings():
        # Python warns of outdated versions; the operator has been warned when the setting was read.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = _VERSIONS[min_version]
    if min_version in _OUTDATED:
        context.set_ciphers(_OUTDATED_CIPHERS)
    context.set_alpn_protocols(alpn)
    _load(context, chain, key)
    return context


def _load(context: ssl.SSLContext, chain: str, key: Secret) -> None:
    """Give the context its certificate. `ssl` reads files alone, so they are files in memory that nobody else sees."""
    with _in_memory(chain) as certificate_path, _in_memory(key.value) as key_path:
        context.load_cert_chain(certificate_path, key_path)


@contextmanager
def _in_memory(text: str) -> Iterator[Path]:
    with os.fdopen(os.memfd_create("pem", os.MFD_CLOEXEC), "w") as file:
        file.write(text)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")
