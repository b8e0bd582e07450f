"""The file that says who may log in: never there when it is not certain."""

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from zorya.control.identities import SavedIdentities
from zorya.core import errors, files
from zorya.core.identity import Database, Identities, Role
from zorya.core.model import Secret

KNOWN = Identities(
    roles={
        "zorya": Role(
            verifier=Secret("SCRAM-SHA-256$4096:c2FsdA==$a:b"),
            may_log_in=True,
            is_superuser=False,
            connection_limit=-1,
            valid_until=datetime(2030, 1, 1, tzinfo=UTC),
        )
    },
    databases={"main": Database(allows_connections=True, connection_limit=-1)},
    mock_nonce=bytes(range(32)),
    stamp="as it was",
)


def saved_at(path: Path, stamp: str = "as it was") -> SavedIdentities:
    return SavedIdentities(path, cluster="main", stamp=lambda: stamp)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identities.json"


async def test_the_next_server_knows_what_was_kept(path: Path) -> None:
    await saved_at(path).keep(KNOWN)
    assert path.stat().st_mode & 0o777 == 0o600
    saved = saved_at(path)
    assert saved.known is None
    await saved.load()
    assert saved.known == KNOWN


async def test_nothing_is_known_of_other_data(path: Path) -> None:
    await saved_at(path).keep(KNOWN)
    other = saved_at(path, "a backup was put in its place")
    await other.load()
    assert other.known is None


async def test_nothing_is_known_without_a_file(path: Path) -> None:
    saved = saved_at(path)
    with structlog.testing.capture_logs() as logged:
        await saved.load()
    assert (saved.known, logged) == (None, [])


async def test_nothing_is_known_once_it_is_forgotten(path: Path) -> None:
    saved = saved_at(path)
    for _ in range(2):
        await saved.keep(KNOWN)
        saved.forget()
        await saved.be_forgotten()
        assert saved.known is None
        assert not path.exists()
    saved.forget()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"roles": {}}',
        b'{"roles": {"a": []}, "databases": {}, "mock_nonce": ""}',
        b'{"roles": {}, "databases": {"a": {"x": 1}}, "mock_nonce": ""}',
        b'{"roles": {}, "databases": {}, "mock_nonce": "zz"}',
    ],
)
async def test_a_damaged_file_is_as_good_as_none_and_goes(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    saved = saved_at(path)
    with structlog.testing.capture_logs() as logged:
        await saved.load()
    assert saved.known is None
    assert not path.exists()
    assert [entry["log_level"] for entry in logged] == ["warning"]


async def test_a_truncated_file_is_as_good_as_none(path: Path) -> None:
    whole = KNOWN.to_json()
    for length in range(0, len(whole), 7):
        path.write_text(whole[:length])
        saved = saved_at(path)
        await saved.load()
        assert saved.known is None


async def test_it_is_known_to_this_server_when_the_disk_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_atomically", full)
    saved = saved_at(path)
    with structlog.testing.capture_logs() as logged:
        await saved.keep(KNOWN)
    assert saved.known == KNOWN
    assert not path.exists()
    assert "SCRAM" not in str(logged)
    assert [entry["log_level"] for entry in logged] == ["warning"]


async def test_an_engine_must_not_be_launched_when_the_file_stays(path: Path) -> None:
    path.mkdir()
    saved = saved_at(path)
    with pytest.raises(errors.StorageProblem):
        saved.forget()
