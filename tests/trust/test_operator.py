"""The operator's own certificate: what is refused, and what happens when its files change under a running server."""

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from trust.making import DAY, NOW, PEM, Made, client_context, make, shake_hands
from zorya.core import errors
from zorya.core.settings import Settings
from zorya.trust.certificates import Certificates

BAD = [
    "no certificate",
    "no key",
    "empty certificate",
    "empty key",
    "half a certificate",
    "half a key",
    "expired",
    "before its time",
    "encrypted",
    "mismatched",
    "root first",
    "swapped",
    "a folder",
    "weak",
    "unbound",
]


def opened(paths: tuple[Path, Path], *, folder: Path, **given: Any) -> Certificates:
    return Certificates.open(folder, Settings(tls_cert_file=paths[0], tls_key_file=paths[1], **given), now=NOW)


def spoil(kind: str, made: Made, paths: tuple[Path, Path]) -> str:
    """Make the files unusable, and answer a word of why."""
    certificate, key = paths
    match kind:
        case "no certificate":
            certificate.unlink()
            return "No such file"
        case "no key":
            key.unlink()
            return "No such file"
        case "empty certificate":
            certificate.write_bytes(b"")
            return "does not hold certificates"
        case "empty key":
            key.write_bytes(b"")
            return "does not hold a key"
        case "half a certificate":
            certificate.write_bytes(made.certificate_pem[:200])
            return "does not hold certificates"
        case "half a key":
            key.write_bytes(made.key_pem()[:80])
            return "does not hold a key"
        case "expired":
            make(end=NOW - DAY / 2).write(certificate.parent)
            return "it expired on"
        case "before its time":
            make(start=NOW + DAY).write(certificate.parent)
            return "it is not valid before"
        case "encrypted":
            key.write_bytes(made.key_pem(b"password"))
            return "encrypted"
        case "mismatched":
            key.write_bytes(make().key_pem())
            return "the key is not that of the first certificate"
        case "root first":
            certificate.write_bytes(make(name="root").certificate_pem + made.certificate_pem)
            return "the key is not that of the first certificate"
        case "swapped":
            certificate.write_bytes(made.key_pem())
            key.write_bytes(made.certificate_pem)
            return "does not hold certificates"
        case "a folder":
            certificate.unlink()
            certificate.mkdir()
            return "Is a directory"
        case "weak":
            make(key=rsa.generate_private_key(65537, 1024)).write(certificate.parent)
            return "(?i)too.small"
        case "unbound":
            make(key=ed25519.Ed25519PrivateKey.generate(), hash_=None).write(certificate.parent)
            return "channel binding"
    raise AssertionError(kind)


def test_the_operators_certificate_is_shown_with_its_chain(tmp_path: Path) -> None:
    root = make(name="root")
    leaf = make(signer=root)
    certificate, key = leaf.write(tmp_path)
    certificate.write_bytes(leaf.certificate_pem + root.certificate_pem)
    used = opened((certificate, key), folder=tmp_path)
    assert x509.load_pem_x509_certificates(used.identity.chain.encode()) == [leaf.certificate, root.certificate]
    assert used.identity.key.value.encode() == leaf.key_pem()
    assert used.identity.names == ("db.example.com",)
    assert used.identity.source == str(certificate)
    assert used.identity.end_point_hash == leaf.certificate.fingerprint(hashes.SHA256())
    assert used.root_pem is used.view().root_pem is used.view().root_fingerprint is None
    assert not (tmp_path / "ca.pem").exists()
    shaken = shake_hands(used.identity.context, client_context(None), None)
    assert shaken.certificate == leaf.certificate.public_bytes(PEM.DER)


@pytest.mark.parametrize("given", ["tls_cert_file", "tls_key_file"])
def test_one_file_without_the_other_is_refused(tmp_path: Path, given: str) -> None:
    made = make()
    certificate, key = made.write(tmp_path)
    settings = Settings(tls_cert_file=certificate) if given == "tls_cert_file" else Settings(tls_key_file=key)
    with pytest.raises(errors.InvalidSetting, match="belong together"):
        Certificates.open(tmp_path, settings, now=NOW)


@pytest.mark.parametrize("kind", BAD)
def test_a_start_is_refused_with_the_reason_when_the_files_are_not_sound(tmp_path: Path, kind: str) -> None:
    made = make()
    paths = made.write(tmp_path)
    why = spoil(kind, made, paths)
    with pytest.raises(errors.InvalidSetting, match=why) as raised:
        opened(paths, folder=tmp_path)
    assert str(tmp_path) in raised.value.message
    assert "PRIVATE" not in str(raised.value)


@pytest.mark.parametrize("kind", BAD)
def test_the_old_certificate_stays_and_one_warning_is_given_when_the_files_change_for_the_worse(
    tmp_path: Path, kind: str
) -> None:
    made = make()
    paths = made.write(tmp_path)
    used = opened(paths, folder=tmp_path)
    before = used.identity
    why = spoil(kind, made, paths)
    with capture_logs() as logs:
        assert not used.refresh(NOW)
        assert not used.refresh(NOW)
        assert not used.refresh(NOW)
    assert used.identity is before
    assert [entry["log_level"] for entry in logs] == ["warning"]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(used.problem)
    assert used.finding().state == "warning"
    if paths[0].is_dir():
        paths[0].rmdir()
    better = make()
    better.write(tmp_path)
    assert used.refresh(NOW)
    assert used.problem == ""
    assert used.identity.fingerprint != before.fingerprint


def test_nothing_is_read_again_when_nothing_changed(tmp_path: Path) -> None:
    paths = make().write(tmp_path)
    used = opened(paths, folder=tmp_path)
    before = used.identity
    assert not used.refresh(NOW)
    os.utime(paths[0], ns=(1, 1))
    assert not used.refresh(NOW)
    assert used.identity is before


def test_a_change_is_noticed_through_links(tmp_path: Path) -> None:
    """As certbot lays its files out."""
    old, new = make(), make()
    for name, made in (("old", old), ("new", new)):
        (tmp_path / name).mkdir()
        made.write(tmp_path / name)
    live = tmp_path / "live"
    live.symlink_to("old")
    used = opened((live / "server.crt", live / "server.key"), folder=tmp_path)
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(live)
    assert used.refresh(NOW)
    assert used.identity.key.value.encode() == new.key_pem()


def test_a_certificate_and_then_its_key_may_be_replaced_one_after_the_other(tmp_path: Path) -> None:
    paths = make().write(tmp_path)
    used = opened(paths, folder=tmp_path)
    before, new = used.identity, make()
    paths[0].write_bytes(new.certificate_pem)
    assert not used.refresh(NOW)
    assert used.identity is before
    paths[1].write_bytes(new.key_pem())
    assert used.refresh(NOW)
    assert used.problem == ""


def test_a_certificate_that_came_before_its_time_is_loaded_when_that_has_come(tmp_path: Path) -> None:
    paths = make().write(tmp_path)
    used = opened(paths, folder=tmp_path)
    make(start=NOW + DAY).write(tmp_path)
    assert not used.refresh(NOW)
    assert used.refresh(NOW + DAY)
    assert used.problem == ""


def test_the_end_of_the_certificate_in_use_is_told_once(tmp_path: Path) -> None:
    used = opened(make(end=NOW + 30 * DAY).write(tmp_path), folder=tmp_path)
    with capture_logs() as logs:
        assert not used.refresh(NOW + 29 * DAY)
        assert used.problem == ""
        assert not used.refresh(NOW + 31 * DAY)
        assert not used.refresh(NOW + 32 * DAY)
    assert "expired on" in used.problem
    assert len(logs) == 1


def test_zorya_does_not_renew_it_and_says_so(tmp_path: Path) -> None:
    paths = make().write(tmp_path)
    used = opened(paths, folder=tmp_path)
    with pytest.raises(errors.Conflict, match="operator's") as raised:
        used.renew(NOW)
    assert str(paths[0]) in raised.value.message


MADE = make()


@given(
    st.binary(max_size=300)
    | st.builds(lambda at, by: _flip(MADE.certificate_pem, at, by), st.integers(0), st.integers(1, 255))
)
def test_any_bytes_are_taken_or_refused_with_the_documented_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    paths = MADE.write(folder)
    paths[0].write_bytes(content)
    try:
        opened(paths, folder=folder)
    except errors.InvalidSetting as error:
        assert str(folder) in error.message


def _flip(text: bytes, at: int, by: int) -> bytes:
    place = at % len(text)
    return text[:place] + bytes([text[place] ^ by]) + text[place + 1 :]
