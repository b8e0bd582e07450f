"""Zorya's own certificate authority: a root that clients are given once, and that signs the server's certificates.

The root is made when there is none, and never again: clients trust it. Its key is written before it, so a crash
between the two leaves a key that nobody relies on, and the next start makes both anew.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from zorya.core import errors, files, logging
from zorya.trust import identity, names

ROOT_LIFE = timedelta(days=3652)
"""Ten years."""
LEAF_LIFE = timedelta(days=90)
CLOCK_SKEW = timedelta(hours=1)
"""How far a client's clock may be behind. Certificates are good from so long before they are made."""

_CERTIFICATE = "ca.pem"
_KEY = "ca.key"
_START_OVER = (
    "Restore both files from a backup. To start over, remove both; clients then need the new root, which `zorya ca` "
    "prints."
)

_log = logging.get("zorya.trust")


@dataclass(frozen=True, kw_only=True, slots=True)
class Authority:
    """A root and its key."""

    root: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def root_pem(self) -> str:
        """The root as clients get it."""
        return self.root.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, wanted: Sequence[str], *, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Answer a new certificate for a server of these names, with a new key."""
        key = _new_key()
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = (
            _builder(_name("Zorya server"), key, now=now, life=LEAF_LIFE)
            .issuer_name(self.root.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(for_authority=False), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(x509.SubjectAlternativeName(list(_general_names(wanted))), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256()), key

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Whether this root has signed the certificate."""
        try:
            certificate.verify_directly_issued_by(self.root)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def open_or_make(folder: Path, *, now: datetime) -> Authority:
    """Answer the authority kept in `folder`, made if there is none. Blocking. The caller holds the home's lock.

    Raises HomeUnusable when there is a root that cannot be used, and DiskFull or StorageProblem when none can be
    written.
    """
    certificate_path, key_path = folder / _CERTIFICATE, folder / _KEY
    try:
        remove_unfinished(certificate_path)
        remove_unfinished(key_path)
        certificate_pem = certificate_path.read_bytes()
    except FileNotFoundError:
        return _make(certificate_path, key_path, now=now)
    except OSError as error:
        raise _unusable(certificate_path, error.strerror or str(error)) from error
    try:
        root = x509.load_pem_x509_certificate(certificate_pem)
    except identity.UNREADABLE as error:
        raise _unusable(certificate_path, "it holds no certificate") from error
    return Authority(root=root, key=_load_key(key_path, root))


def _make(certificate_path: Path, key_path: Path, *, now: datetime) -> Authority:
    key = _new_key()
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    # Each root has a name of its own, so that a client that trusts several can tell them apart.
    name = _name(f"Zorya root {digest[:4].hex()}")
    root = (
        _builder(name, key, now=now, life=ROOT_LIFE)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(for_authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Authority(root=root, key=key)
    with files.disk_errors("Making a certificate authority", certificate_path.parent):
        files.write_atomically(key_path, key_pem(key), mode=0o600)
        files.write_atomically(certificate_path, made.root_pem, mode=0o644)
    _log.info("made a certificate authority", root=str(certificate_path), good_until=str(root.not_valid_after_utc))
    return made


def _load_key(path: Path, root: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        path.chmod(0o600)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except identity.UNREADABLE as error:
        raise _unusable(path, "it holds no unencrypted key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not identity.fits(root, key):
        raise _unusable(path, f"it is not the key of {_CERTIFICATE} beside it")
    return key


def _unusable(path: Path, why: str) -> errors.HomeUnusable:
    return errors.HomeUnusable(f"The certificate authority's file {path} cannot be used: {why}.", hint=_START_OVER)


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Answer the key unencrypted, for a file that nobody else may read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def remove_unfinished(path: Path) -> None:
    """Remove what a crash left of `files.write_atomically`, since it may be a key."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, *, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    moment = now.replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - CLOCK_SKEW)
        .not_valid_after(moment + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, for_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not for_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=for_authority,
        crl_sign=for_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(wanted: Iterable[str]) -> Iterable[x509.GeneralName]:
    for name in wanted:
        address = names.parse_address(name)
        yield x509.DNSName(name) if address is None else x509.IPAddress(address)
