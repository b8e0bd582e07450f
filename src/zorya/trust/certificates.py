"""The server's certificate: where it comes from, and that it is changed in time, with no connection dropped.

It is Zorya's own authority's, or the operator's where `tls_cert_file` is set. Whoever uses it asks for `identity` when
a connection begins, or is told by `run` of another one; what has begun goes on with the certificate it began with.
"""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from zorya.core import errors, logging
from zorya.core.clock import Clock
from zorya.core.findings import Finding, FindingState
from zorya.core.settings import Settings
from zorya.trust import authority, host, names
from zorya.trust.identity import ServerIdentity, fingerprint
from zorya.trust.operator import OperatorCertificate
from zorya.trust.own import OwnCertificate

LOOK_EVERY_S = 5.0
"""How often it is looked whether something is due."""

_NO_HOST = names.Host(name="", addresses=())

_log = logging.get("zorya.trust")

OnChange = Callable[[ServerIdentity], Awaitable[None] | None]


class Source(Protocol):
    """Where the certificate comes from. All methods may block on the disk."""

    def load(self, now: datetime) -> ServerIdentity:
        """Answer the certificate to begin with. Raises InvalidSetting, DiskFull or StorageProblem."""

    def refresh(self, present: ServerIdentity, now: datetime) -> ServerIdentity | None:
        """Answer what takes the place of `present`, if that is due and can be had. What is in the way: `problem`."""

    def renew(self, now: datetime) -> ServerIdentity:
        """Answer a new one though none is due. Raises Conflict where Zorya cannot make one."""

    def problem(self, present: ServerIdentity, now: datetime) -> str:
        """Answer what is wrong, as sentences; empty when nothing is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateView:
    """The server's certificate, and the root where that is Zorya's own."""

    root_pem: str | None
    """What clients need to verify the server; None when the certificate is the operator's."""
    root_fingerprint: str | None
    """SHA-256."""
    root_not_after: datetime | None
    fingerprint: str
    """SHA-256 of the server certificate."""
    not_after: datetime
    names: tuple[str, ...]
    source: str
    problem: str
    """What is wrong, as sentences; empty when nothing is."""


class Certificates:
    """The certificate of one server. Methods that block are for a thread; only one of them works at a time."""

    def __init__(self, source: Source, own: authority.Authority | None, identity: ServerIdentity) -> None:
        """Use `open` instead."""
        self._source = source
        self._own = own
        self._identity = identity
        self._published = identity
        self._problem = ""
        self._working = threading.Lock()
        self._publishing = asyncio.Lock()
        self._on_change: OnChange | None = None

    @classmethod
    def open(cls, folder: Path, settings: Settings, *, now: datetime) -> "Certificates":
        """Load the certificate, or make it and the authority. Blocking. The caller holds the home's lock.

        `folder` is `Home.tls`. Raises InvalidSetting for the operator's files or for names that cannot be, HomeUnusable
        for an authority that cannot be used, DiskFull and StorageProblem.
        """
        _warn_of_old_versions(settings)
        own: authority.Authority | None = None
        source: Source
        certificate, key = settings.tls_cert_file, settings.tls_key_file
        if certificate and key:
            source = OperatorCertificate(certificate, key, min_version=settings.tls_min_version)
        elif certificate or key:
            raise errors.InvalidSetting(
                "tls_cert_file and tls_key_file belong together, and only one of them is set.",
                hint="Give both, or neither to use Zorya's own authority.",
            )
        else:
            own = authority.open_or_make(folder, now=now)
            source = OwnCertificate(
                folder, own, read_names=lambda: _wanted(settings), min_version=settings.tls_min_version
            )
        opened = cls(source, own, source.load(now))
        opened._note_problem(now)
        return opened

    @property
    def identity(self) -> ServerIdentity:
        """The certificate for connections that begin now."""
        return self._identity

    @property
    def root_pem(self) -> str | None:
        """The root of Zorya's own authority; None when it is not in use."""
        return self._own.root_pem if self._own else None

    @property
    def problem(self) -> str:
        """What was wrong when it was last looked, as sentences; empty when nothing was."""
        return self._problem

    def view(self) -> CertificateView:
        """Answer what people may know."""
        root = self._own.root if self._own else None
        return CertificateView(
            root_pem=self.root_pem,
            root_fingerprint=fingerprint(root) if root else None,
            root_not_after=root.not_valid_after_utc if root else None,
            fingerprint=self._identity.fingerprint,
            not_after=self._identity.not_after,
            names=self._identity.names,
            source=self._identity.source,
            problem=self._problem,
        )

    def finding(self) -> Finding:
        """Answer the line of `zorya doctor`."""
        present = self._identity
        return Finding(
            name="certificate",
            state=FindingState.WARNING if self._problem else FindingState.OK,
            found=f"From {present.source}, good until {present.not_after:%Y-%m-%d} and for {', '.join(present.names)}.",
            advice=self._problem,
        )

    def refresh(self, now: datetime) -> bool:
        """Do what is due: load changed files, or renew. Answers whether the certificate is another one. Blocking.

        What fails leaves the present one, is told by `problem` and tried again the next time.
        """
        with self._working:
            found = self._source.refresh(self._identity, now)
            if found is not None:
                self._take(found)
            self._note_problem(now)
            return found is not None

    def renew(self, now: datetime) -> None:
        """Make a new certificate, due or not. Blocking.

        Raises Conflict when it is the operator's, DiskFull and StorageProblem when it cannot be written; the present
        one then stays.
        """
        with self._working:
            self._take(self._source.renew(now))
            self._note_problem(now)

    async def renew_now(self, clock: Clock) -> None:
        """Like `renew`, without blocking; returns once those that `run` tells have it as well."""
        await asyncio.to_thread(self.renew, clock.now())
        await self._publish()

    async def run(self, on_change: OnChange, clock: Clock) -> None:
        """Do what is due every few seconds, and call `on_change` with each new certificate.

        If that raises an error of Zorya's it is called again the next time. Ends when cancelled.
        """
        self._on_change = on_change
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.refresh, clock.now())
            try:
                await self._publish()
            except errors.ZoryaError as error:
                _log.warning("the new server certificate is not everywhere yet", problem=str(error))

    async def _publish(self) -> None:
        async with self._publishing:
            latest = self._identity
            if self._on_change is None or latest is self._published:
                return
            told = self._on_change(latest)
            if inspect.isawaitable(told):
                await told
            self._published = latest

    def _take(self, found: ServerIdentity) -> None:
        self._identity = found
        _log.info("the server has a new certificate", source=found.source, good_until=str(found.not_after))

    def _note_problem(self, now: datetime) -> None:
        problem = self._source.problem(self._identity, now)
        if problem and problem != self._problem:
            _log.warning("something is wrong with the server certificate", problem=problem)
        self._problem = problem


def _wanted(settings: Settings) -> tuple[str, ...]:
    return names.wanted(settings, host.read() if names.listens_everywhere(settings) else _NO_HOST)


def _warn_of_old_versions(settings: Settings) -> None:
    if settings.tls_min_version in {"1.0", "1.1"}:
        _log.warning("clients may use versions of TLS that are broken", tls_min_version=settings.tls_min_version)
