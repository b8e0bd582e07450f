"""The control file: a copied system becomes one of its own, and nothing else in the file changes."""

import struct
from pathlib import Path

import pytest

from engines.clusters import Cluster
from zorya.core import commands
from zorya.engines.postgres import control_file

NONCE = bytes(range(1, 33))


def made_up(form: int, *, end: int, padding: bytes = b"") -> bytes:
    """Answer a control file of a form, whose checksum stands at `end`."""
    head = struct.pack("=QI", 4711, form).ljust(end - len(padding) - len(NONCE), b"\7") + NONCE + padding
    return (head + struct.pack("=I", control_file.crc32c(head))).ljust(8192, b"\0")


def path_of(cluster: Cluster) -> Path:
    return cluster.folders.data / "global" / "pg_control"


def test_checksum_is_castagnolis() -> None:
    # The check value of CRC-32C in the catalogue of parametrised CRC algorithms.
    assert control_file.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("form", "end", "padding"), [(1300, 288, b""), (1300, 292, b""), (1800, 296, bytes(3)), (1905, 300, bytes(3))]
)
def test_identifier_and_nonce_are_replaced_and_all_else_stays(
    tmp_path: Path, form: int, end: int, padding: bytes
) -> None:
    before = made_up(form, end=end, padding=padding)
    after = control_file.replace(before, identifier=42, nonce=bytes(reversed(NONCE)))
    assert struct.unpack_from("=Q", after) == (42,)
    nonce_at = end - len(padding) - 32
    assert after[nonce_at : nonce_at + 32] == bytes(reversed(NONCE))
    assert after[8:nonce_at] == before[8:nonce_at]
    assert after[end + 4 :] == before[end + 4 :]
    assert len(after) == len(before)
    (tmp_path / "pg_control").write_bytes(after)
    assert control_file.read_mock_nonce(tmp_path / "pg_control") == bytes(reversed(NONCE))


@pytest.mark.parametrize("content", [b"", bytes(100), b"\1" * 8192, made_up(1800, end=296, padding=b"\0\1\0")])
def test_file_of_an_unknown_form_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pg_control"
    path.write_bytes(content)
    with pytest.raises(OSError, match="control file"):
        control_file.renew(path)
    with pytest.raises(OSError, match="control file"):
        control_file.read_mock_nonce(path)
    assert path.read_bytes() == content


def test_real_file_is_whole_after_it_was_renewed(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "global"
    folder.mkdir()
    copy = folder / "pg_control"
    copy.write_bytes(path_of(cluster).read_bytes())
    control_file.renew(copy)
    assert control_file.read_mock_nonce(copy) != control_file.read_mock_nonce(path_of(cluster))
    tool = cluster.instance.installation.program("pg_controldata")
    before, after = [
        commands.run_blocking([tool, data], account=None).splitlines() for data in (cluster.folders.data, tmp_path)
    ]
    changed = [(old.partition(":")[0], new) for old, new in zip(before, after, strict=True) if old != new]
    assert [name for name, _ in changed] == ["Database system identifier", "Mock authentication nonce"]
    # pg_controldata warns of a checksum that does not fit.
    assert not any("WARNING" in line for line in after)
    assert changed[1][1].split()[-1] == control_file.read_mock_nonce(copy).hex()
