from hypothesis import given
from hypothesis import strategies as st

from zorya.engines.postgres import lockfile

WHOLE = "4711\n/data\n1700000000\n5433\n/run/x\n127.0.0.1\n  5432001  0\nready   \n"


def test_whole_file_is_read() -> None:
    found = lockfile.parse(WHOLE)
    assert found == lockfile.LockFile(pid=4711, port=5433, listen_address="127.0.0.1", shared_memory=0, status="ready")


def test_lines_that_are_not_written_yet_are_none() -> None:
    found = lockfile.parse("4711\n/data\n1700000000\n")
    assert found == lockfile.LockFile(pid=4711, port=None, listen_address=None, shared_memory=None, status=None)


def test_single_user_backend_is_known_by_its_pid() -> None:
    found = lockfile.parse("-4711\n/data\n")
    assert found is not None
    assert found.pid == 4711


def test_empty_or_damaged_file_is_none() -> None:
    assert lockfile.parse("") is None
    assert lockfile.parse("\n\n") is None
    assert lockfile.parse("garbage") is None


@given(st.integers(min_value=0, max_value=len(WHOLE)))
def test_cut_at_any_place_it_never_fails(length: int) -> None:
    lockfile.parse(WHOLE[:length])


@given(st.text())
def test_any_text_is_read_or_none(text: str) -> None:
    lockfile.parse(text)
