"""The operator's own server certificate: two files, loaded again when they change, refused when they are not sound."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from zorya.core import errors
from zorya.trust import identity
from zorya.trust.identity import ServerIdentity, TlsVersion

_HINT = (
    "tls_cert_file has to hold the server certificate first and then those that lead to its root, and tls_key_file "
    "its unencrypted key, all in PEM."
)


@dataclass(frozen=True, slots=True)
class _Look:
    """What tells one state of a file from another without reading it; links are followed."""

    device: int
    inode: int
    size: int
    modified_ns: int


class OperatorCertificate:
    """Implements `certificates.Source`."""

    def __init__(self, certificate: Path, key: Path, *, min_version: TlsVersion) -> None:
        self._certificate = certificate
        self._key = key
        self._min_version = min_version
        self._seen = self._look()
        self._failure = ""

    def load(self, now: datetime) -> ServerIdentity:
        """See Source.load."""
        # Looked at before they are read: a change in between then counts as one.
        self._seen = self._look()
        chain = self._read_chain()
        leaf = chain[0]
        if now < leaf.not_valid_before_utc:
            raise _refused(self._certificate, f"it is not valid before {leaf.not_valid_before_utc}")
        if leaf.not_valid_after_utc <= now:
            raise _refused(self._certificate, f"it expired on {leaf.not_valid_after_utc}")
        key = self._read_key()
        try:
            return identity.build(chain, key, source=str(self._certificate), min_version=self._min_version)
        except identity.UNREADABLE as error:
            raise _refused(self._certificate, str(error)) from error

    def refresh(self, present: ServerIdentity, now: datetime) -> ServerIdentity | None:
        """See Source.refresh. Files that were refused are tried again: they may only have come before their time."""
        if self._look() == self._seen and not self._failure:
            return None
        try:
            loaded = self.load(now)
        except errors.InvalidSetting as error:
            self._failure = str(error)
            return None
        self._failure = ""
        return None if (loaded.chain, loaded.key) == (present.chain, present.key) else loaded

    def renew(self, now: datetime) -> ServerIdentity:  # noqa: ARG002 - the interface has it
        """See Source.renew. Always raises Conflict."""
        raise errors.Conflict(
            f"The server certificate is the operator's: it comes from {self._certificate}, and Zorya cannot renew it.",
            hint="Replace tls_cert_file and tls_key_file; they are loaded within seconds.",
        )

    def problem(self, present: ServerIdentity, now: datetime) -> str:
        """See Source.problem."""
        if self._failure:
            return f"The certificate loaded before stays in use. {self._failure}"
        if present.not_after <= now:
            return f"The server certificate {self._certificate} expired on {present.not_after}."
        return ""

    def _look(self) -> tuple[_Look | None, _Look | None]:
        return _look(self._certificate), _look(self._key)

    def _read_chain(self) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(_read(self._certificate))
        except identity.UNREADABLE as error:
            raise _refused(self._certificate, "it does not hold certificates in PEM") from error

    def _read_key(self) -> PrivateKeyTypes:
        try:
            return serialization.load_pem_private_key(_read(self._key), password=None)
        except TypeError as error:
            raise _refused(self._key, "the key is encrypted") from error
        except identity.UNREADABLE as error:
            raise _refused(self._key, "it does not hold a key in PEM") from error


def _look(path: Path) -> _Look | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _Look(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error


def _refused(path: Path, why: str) -> errors.InvalidSetting:
    return errors.InvalidSetting(f"The certificate file {path} cannot be used: {why}.", hint=_HINT)
