"""Zorya's own authority: what it makes, what clients and openssl say to it, when it renews, and what crashes leave."""

import asyncio
import errno
import os
import shutil
import ssl
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from trust.making import DAY, NOW, client_context, make, shake_hands
from zorya.core import errors, files
from zorya.core.settings import Settings
from zorya.trust import authority, certificates, host, names
from zorya.trust.certificates import Certificates
from zorya.trust.identity import ServerIdentity

FILES = ("ca.pem", "ca.key", "server.pem")


def opened(folder: Path, *, now: datetime = NOW, **given: Any) -> Certificates:
    return Certificates.open(folder, Settings(**given), now=now)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def root_of(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, _text: str, *, mode: int, group: object = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "write_atomically", refuse)


def test_keys_are_private_and_the_root_is_not(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        opened(tmp_path)
    finally:
        os.umask(old)
    assert {name: (tmp_path / name).stat().st_mode & 0o777 for name in FILES} == {
        "ca.pem": 0o644,
        "ca.key": 0o600,
        "server.pem": 0o600,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_nothing_changes_when_a_server_starts_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    before = content(tmp_path)
    again = opened(tmp_path, now=NOW + 30 * DAY)
    assert content(tmp_path) == before
    assert again.root_pem == first.root_pem
    assert again.identity.fingerprint == first.identity.fingerprint
    assert again.problem == ""


@pytest.mark.parametrize(
    "name", ["main.zorya.localhost", "zorya.localhost", "localhost", "127.0.0.1", "::1", "10.0.0.5", "db.example.com"]
)
def test_a_client_with_the_root_verifies_every_name(tmp_path: Path, name: str) -> None:
    """At the present time, since OpenSSL asks the clock."""
    opened_now = Certificates.open(
        tmp_path, Settings(bind=["10.0.0.5"], tls_names=["db.example.com"]), now=datetime.now(NOW.tzinfo)
    )
    shaken = shake_hands(opened_now.identity.context, client_context(opened_now.root_pem), name)
    assert shaken.version == "TLSv1.3"


@pytest.mark.parametrize("name", ["a.main.zorya.localhost", "evil.example", "127.0.0.2"])
def test_a_client_with_the_root_refuses_other_names(tmp_path: Path, name: str) -> None:
    opened_now = Certificates.open(tmp_path, Settings(), now=datetime.now(NOW.tzinfo))
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake_hands(opened_now.identity.context, client_context(opened_now.root_pem), name)


def test_a_client_with_another_root_refuses(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    now = datetime.now(NOW.tzinfo)
    one, other = (Certificates.open(tmp_path / name, Settings(), now=now) for name in "ab")
    assert root_of(tmp_path / "a").subject != root_of(tmp_path / "b").subject
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(one.identity.context, client_context(other.root_pem), "localhost")


def test_openssl_agrees(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    made = Certificates.open(tmp_path, Settings(), now=datetime.now(NOW.tzinfo))

    def openssl(*words: str) -> str:
        return subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    verify = ("verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem")
    assert openssl(*verify, "-verify_hostname", "main.zorya.localhost", "server.pem") == "server.pem: OK\n"
    assert openssl(*verify, "-verify_ip", "::1", "server.pem") == "server.pem: OK\n"
    root = openssl("x509", "-in", "ca.pem", "-noout", "-text")
    leaf = openssl("x509", "-in", "server.pem", "-noout", "-text")
    for text, expected in [
        (root, "CA:TRUE, pathlen:0"),
        (root, "Certificate Sign, CRL Sign"),
        (root, "ASN1 OID: prime256v1"),
        (leaf, "CA:FALSE"),
        (leaf, "Digital Signature"),
        (leaf, "TLS Web Server Authentication"),
        (leaf, "DNS:*.zorya.localhost, DNS:zorya.localhost, DNS:localhost, IP Address:127.0.0.1"),
        (leaf, "X509v3 Authority Key Identifier"),
        (leaf, "ASN1 OID: prime256v1"),
    ]:
        assert expected in text
    shown = openssl("x509", "-in", "server.pem", "-noout", "-fingerprint", "-sha256").strip()
    assert shown == f"sha256 Fingerprint={made.identity.fingerprint}"
    shown = openssl("x509", "-in", "ca.pem", "-noout", "-fingerprint", "-sha256").strip()
    assert shown == f"sha256 Fingerprint={made.view().root_fingerprint}"


def test_the_root_is_good_for_ten_years_and_the_certificate_for_ninety_days(tmp_path: Path) -> None:
    view = opened(tmp_path).view()
    assert view.root_not_after == NOW + timedelta(days=3652)
    assert view.not_after == NOW + 90 * DAY
    shown = opened(tmp_path).identity
    assert shown.not_before < NOW
    assert shown.source == view.source == "Zorya's own authority"


@pytest.mark.parametrize(("after", "is_due"), [(59, False), (61, True), (89, True), (400, True)])
def test_the_certificate_is_renewed_when_a_third_of_its_life_is_left(tmp_path: Path, after: int, is_due: bool) -> None:
    certificate = opened(tmp_path)
    before, root = certificate.identity, certificate.root_pem
    now = NOW + after * DAY
    assert certificate.refresh(now) is is_due
    assert (certificate.identity is not before) is is_due
    assert certificate.root_pem == root
    assert not certificate.refresh(now)
    if is_due:
        assert certificate.identity.not_after == now + 90 * DAY
        assert opened(tmp_path, now=now).identity.fingerprint == certificate.identity.fingerprint


def test_a_start_renews_what_is_due(tmp_path: Path) -> None:
    first = opened(tmp_path)
    later = opened(tmp_path, now=NOW + 100 * DAY)
    assert later.root_pem == first.root_pem
    assert later.identity.not_after == NOW + 190 * DAY


def test_a_clock_that_was_set_back_has_the_certificate_made_anew_once(tmp_path: Path) -> None:
    certificate = opened(tmp_path)
    assert not certificate.refresh(NOW - timedelta(minutes=30))
    back = NOW - 1000 * DAY
    assert certificate.refresh(back)
    assert certificate.identity.not_before < back
    assert not certificate.refresh(back)
    assert certificate.refresh(NOW)
    assert not certificate.refresh(NOW)


def test_a_renewal_when_asked_for_keeps_the_root(tmp_path: Path) -> None:
    certificate = opened(tmp_path)
    before, root = certificate.identity, certificate.root_pem
    certificate.renew(NOW)
    assert certificate.identity.fingerprint != before.fingerprint
    assert certificate.identity.key != before.key
    assert certificate.root_pem == root
    assert opened(tmp_path).identity.fingerprint == certificate.identity.fingerprint


def test_other_names_have_the_certificate_made_anew_at_a_start(tmp_path: Path) -> None:
    root = opened(tmp_path).root_pem
    more = opened(tmp_path, tls_names=["db.example.com"])
    assert "db.example.com" in more.identity.names
    fewer = opened(tmp_path)
    assert "db.example.com" not in fewer.identity.names
    assert root == more.root_pem == fewer.root_pem


def test_a_new_address_of_the_host_has_the_certificate_made_anew_and_a_lost_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = ["192.0.2.7"]

    def read() -> names.Host:
        found = [names.parse_address(text) for text in addresses]
        return names.Host(name="db1", addresses=tuple(one for one in found if one))

    monkeypatch.setattr(host, "read", read)
    certificate = opened(tmp_path, bind=["0.0.0.0"])
    assert {"db1", "192.0.2.7"} <= set(certificate.identity.names)
    addresses.append("192.0.2.8")
    assert certificate.refresh(NOW)
    assert "192.0.2.8" in certificate.identity.names
    addresses.remove("192.0.2.8")
    assert not certificate.refresh(NOW)


@pytest.mark.usefixtures("full_disk")
def test_a_first_start_says_so_when_the_disk_is_full(tmp_path: Path) -> None:
    with pytest.raises(errors.DiskFull):
        opened(tmp_path)


def test_a_renewal_that_fails_keeps_the_old_certificate_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    certificate = opened(tmp_path)
    before = certificate.identity
    now = NOW + 80 * DAY
    request.getfixturevalue("full_disk")
    with capture_logs() as logs:
        assert not certificate.refresh(now)
        assert not certificate.refresh(now)
        again = opened(tmp_path, now=now)
    assert [entry["log_level"] for entry in logs] == ["warning"] * 2
    assert again.identity.fingerprint == before.fingerprint
    assert "no space left" in again.problem
    assert certificate.identity is before
    assert "no space left" in certificate.problem
    with pytest.raises(errors.DiskFull):
        certificate.renew(now)
    assert certificate.identity is before
    monkeypatch.undo()
    assert certificate.refresh(now)
    assert certificate.problem == ""


def test_the_end_of_the_root_is_told_in_time_and_ends_nothing(tmp_path: Path) -> None:
    certificate = opened(tmp_path)
    near = NOW + timedelta(days=3652 - 100)
    assert certificate.refresh(near)
    assert "ends on 2036-02-03" in certificate.problem
    past = NOW + timedelta(days=3652 + 100)
    assert certificate.refresh(past)
    assert "ended on 2036-02-03" in certificate.problem
    assert certificate.finding().state == "warning"
    assert opened(tmp_path, now=past).root_pem == certificate.root_pem


@pytest.mark.parametrize("broken", ["missing", "empty", "garbage", "another", "cut", "encrypted"])
def test_a_root_is_never_replaced_when_its_key_cannot_be_used(tmp_path: Path, broken: str) -> None:
    opened(tmp_path)
    root, path = (tmp_path / "ca.pem").read_bytes(), tmp_path / "ca.key"
    match broken:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(b"\x00\xff" * 100)
        case "another":
            path.write_bytes(make().key_pem())
        case "cut":
            path.write_bytes(path.read_bytes()[:100])
        case "encrypted":
            path.write_bytes(make().key_pem(b"password"))
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(errors.HomeUnusable, match=r"ca\.key") as raised:
        opened(tmp_path)
    assert "backup" in raised.value.hint
    assert (tmp_path / "ca.pem").read_bytes() == root
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("text", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nMIIB"])
def test_a_root_that_cannot_be_read_is_not_replaced(tmp_path: Path, text: bytes) -> None:
    opened(tmp_path)
    (tmp_path / "ca.pem").write_bytes(text)
    before = content(tmp_path)
    with pytest.raises(errors.HomeUnusable, match=r"ca\.pem"):
        opened(tmp_path)
    assert content(tmp_path) == before


def test_a_root_that_is_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").mkdir()
    with pytest.raises(errors.HomeUnusable, match=r"ca\.pem"):
        opened(tmp_path)


@pytest.mark.parametrize("broken", ["missing", "empty", "cut", "not ours", "another's key"])
def test_a_certificate_that_cannot_be_used_is_made_anew(tmp_path: Path, broken: str) -> None:
    first = opened(tmp_path)
    path, stranger = tmp_path / "server.pem", make()
    match broken:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:-200])
        case "not ours":
            path.write_bytes(stranger.certificate_pem + stranger.key_pem())
        case "another's key":
            path.write_bytes(first.identity.chain.encode() + stranger.key_pem())
    again = opened(tmp_path)
    assert again.root_pem == first.root_pem
    assert again.identity.fingerprint != first.identity.fingerprint
    shake_hands(again.identity.context, client_context(None), None)


def test_a_crash_at_any_write_of_the_first_start_leaves_what_the_next_start_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    write, leftover = files.write_atomically, ".ca.key.tmp1"
    roots: set[str | None] = set()
    for survives in range(3):
        folder = tmp_path / str(survives)
        folder.mkdir()
        done = 0

        def crash_later(path: Path, text: str, *, mode: int, group: None = None, survives: int = survives) -> None:
            nonlocal done
            if done == survives:
                raise Crash
            done += 1
            write(path, text, mode=mode, group=group)

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_atomically", crash_later)
            with pytest.raises(Crash):
                opened(folder)
        (folder / leftover).write_text("half a key")
        shown = (folder / "ca.pem").read_text() if (folder / "ca.pem").exists() else None
        again = opened(folder)
        assert shown in {None, again.root_pem}
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        assert Certificates.open(folder, Settings(), now=NOW).root_pem == again.root_pem
        roots.add(again.root_pem)
    assert len(roots) == 3


def test_a_key_that_others_may_read_is_made_private(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "ca.key").chmod(0o644)
    opened(tmp_path)
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("least", "warned"), [("1.0", True), ("1.1", True), ("1.2", False), ("1.3", False)])
def test_a_start_warns_of_broken_versions(tmp_path: Path, least: str, warned: bool) -> None:
    with capture_logs() as logs:
        opened(tmp_path, tls_min_version=least)
    assert [entry["tls_min_version"] for entry in logs if entry["log_level"] == "warning"] == (
        [least] if warned else []
    )


class Times:
    """A clock whose wall time the test sets."""

    def __init__(self) -> None:
        self.wall = NOW

    def now(self) -> datetime:
        return self.wall

    def monotonic_s(self) -> float:
        raise AssertionError("nobody asks for it")


async def test_whoever_runs_it_is_told_of_each_new_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "LOOK_EVERY_S", 0.01)
    certificate, clock = opened(tmp_path), Times()
    told: asyncio.Queue[ServerIdentity] = asyncio.Queue()
    running = asyncio.create_task(certificate.run(told.put, clock))
    clock.wall += 70 * DAY
    assert await asyncio.wait_for(told.get(), 10) is certificate.identity
    await certificate.renew_now(clock)
    assert told.get_nowait() is certificate.identity
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert told.empty()


async def test_whoever_fails_to_take_a_new_certificate_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_EVERY_S", 0.01)
    certificate, clock = opened(tmp_path), Times()
    calls: list[ServerIdentity] = []
    taken = asyncio.Event()

    def take(shown: ServerIdentity) -> None:
        calls.append(shown)
        if len(calls) == 1:
            raise errors.DiskFull("No space left.")
        taken.set()

    running = asyncio.create_task(certificate.run(take, clock))
    clock.wall += 70 * DAY
    await asyncio.wait_for(taken.wait(), 10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert calls == [certificate.identity] * 2


def test_sessions_go_on_when_the_certificate_is_renewed(tmp_path: Path) -> None:
    """A hundred of them, begun with the certificate before."""
    certificate = opened(tmp_path)
    client = client_context(None)
    pairs: list[tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]] = []
    for _ in range(100):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = client.wrap_bio(to_client, to_server)
        theirs = certificate.identity.context.wrap_bio(to_server, to_client, server_side=True)
        for side in (ours, theirs, ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        pairs.append((ours, to_server, to_client, theirs, to_server, to_client))
    certificate.renew(NOW)
    for ours, *_, theirs, _, _ in pairs:
        ours.write(b"still here")
        assert theirs.read(100) == b"still here"


def test_the_authority_signs_nothing_else(tmp_path: Path) -> None:
    own = authority.open_or_make(tmp_path, now=NOW)
    leaf, _ = own.issue(["localhost"], now=NOW)
    assert own.has_issued(leaf)
    assert not own.has_issued(make().certificate)
