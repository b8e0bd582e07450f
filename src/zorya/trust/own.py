"""The server certificate that Zorya's own authority signs: kept in one file, and made anew before it is too old."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from zorya.core import errors, files
from zorya.trust import authority, identity
from zorya.trust.authority import Authority
from zorya.trust.identity import ServerIdentity, TlsVersion

SOURCE = "Zorya's own authority"
ROOT_NOTICE = timedelta(days=180)
"""How long before its end the root becomes a problem that is told: clients have to be given the next one."""

_FILE = "server.pem"


class OwnCertificate:
    """Implements `certificates.Source`."""

    def __init__(
        self, folder: Path, own: Authority, *, read_names: Callable[[], tuple[str, ...]], min_version: TlsVersion
    ) -> None:
        self.authority = own
        self._path = folder / _FILE
        self._read_names = read_names
        self._min_version = min_version
        self._failure = ""

    def load(self, now: datetime) -> ServerIdentity:
        """See Source.load. A file that cannot be used is replaced: nobody trusts this certificate by itself."""
        authority.remove_unfinished(self._path)
        wanted = self._read_names()
        kept = self._read()
        if kept is not None and set(kept.names) == set(wanted) and not why_renew(kept, wanted, now):
            return kept
        try:
            return self._issue(wanted, now)
        except errors.StorageProblem as error:
            if kept is None or kept.not_after <= now:
                raise
            self._failure = str(error)
            return kept

    def refresh(self, present: ServerIdentity, now: datetime) -> ServerIdentity | None:
        """See Source.refresh."""
        wanted = self._read_names()
        if not why_renew(present, wanted, now):
            self._failure = ""
            return None
        try:
            return self._issue(wanted, now)
        except errors.StorageProblem as error:
            self._failure = str(error)
            return None

    def renew(self, now: datetime) -> ServerIdentity:
        """See Source.renew. Raises DiskFull and StorageProblem; the present certificate then stays."""
        return self._issue(self._read_names(), now)

    def problem(self, present: ServerIdentity, now: datetime) -> str:
        """See Source.problem."""
        end = self.authority.root.not_valid_after_utc
        if end - now <= ROOT_NOTICE:
            ends = f"ended on {end:%Y-%m-%d}" if end <= now else f"ends on {end:%Y-%m-%d}"
            return (
                f"The root of Zorya's own authority {ends}. To have a new one, remove tls/ca.pem and tls/ca.key from "
                "the home and start the server again; clients then need the new root."
            )
        if self._failure:
            return f"The server certificate, good until {present.not_after:%Y-%m-%d}, was not renewed: {self._failure}"
        return ""

    def _issue(self, wanted: tuple[str, ...], now: datetime) -> ServerIdentity:
        certificate, key = self.authority.issue(wanted, now=now)
        made = identity.build([certificate], key, source=SOURCE, min_version=self._min_version)
        with files.disk_errors("Writing the server certificate", self._path.parent):
            files.write_atomically(self._path, made.chain + made.key.value, mode=0o600)
        self._failure = ""
        return made

    def _read(self) -> ServerIdentity | None:
        try:
            content = self._path.read_bytes()
            certificate = x509.load_pem_x509_certificate(content)
            key = serialization.load_pem_private_key(content, password=None)
            if not self.authority.has_issued(certificate):
                return None
            return identity.build([certificate], key, source=SOURCE, min_version=self._min_version)
        except (OSError, *identity.UNREADABLE):
            return None


def why_renew(present: ServerIdentity, wanted: tuple[str, ...], now: datetime) -> str:
    """Answer why the certificate has to be made anew, as a sentence; empty when it has not.

    Names that it has and no longer needs are no reason, so that addresses that come and go do not change it each time.
    """
    if now < present.not_before:
        return "It is not yet valid: the clock was set back."
    if 3 * (present.not_after - now) <= present.not_after - present.not_before:
        return "A third of its life is left."
    missing = sorted(set(wanted) - set(present.names))
    if missing:
        return f"It is not good for {', '.join(missing)}."
    return ""
