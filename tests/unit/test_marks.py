"""A copy's mark: what it says survives, and what cannot be read says nothing."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from zorya.control import marks
from zorya.control.marks import Mark

MARK = Mark(cluster="abcdefgh", copy="b_tail", epoch=3, verified_at=datetime(2026, 3, 1, 12, tzinfo=UTC))


def test_mark_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tail.json"
    marks.write(path, MARK)
    assert marks.read(path) == MARK
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cluster": "x"}', '{"cluster": 1, "copy": 2, "epoch": "three"}'])
def test_mark_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tail.json"
    path.write_text(text)
    assert marks.read(path) is None


def test_copy_is_not_trusted_any_more_when_its_mark_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "tail.json"
    marks.write(path, MARK)
    marks.distrust(path)
    assert marks.read(path) is None
    marks.distrust(path)
    marks.distrust(tmp_path / "gone" / "full.json")
