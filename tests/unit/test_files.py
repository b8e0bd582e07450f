import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from zorya.core import errors, files
from zorya.core.account import Account
from zorya.core.home import Home

ME = Account(name="me", uid=os.geteuid(), gid=os.getegid())


def test_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.write_atomically(path, "one", mode=0o600)
    files.write_atomically(path, "two", mode=0o640)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_same_text_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.write_if_different(path, "one", mode=0o600)
    before = path.stat().st_ino
    files.write_if_different(path, "one", mode=0o600)
    assert path.stat().st_ino == before
    files.write_if_different(path, "two", mode=0o600)
    assert path.read_text() == "two"


def test_tree_is_removed_but_not_what_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "link").symlink_to(tmp_path / "kept")
    files.remove_tree(tree)
    files.remove_tree(tree)
    assert (tmp_path / "kept" / "file").exists()


def test_full_disk_is_told_apart_from_other_errors(tmp_path: Path) -> None:
    with pytest.raises(errors.DiskFull, match="no space left"), files.disk_errors("Copying", tmp_path):
        raise OSError(errno.ENOSPC, "x")
    with pytest.raises(errors.StorageProblem) as caught, files.disk_errors("Copying", tmp_path):
        raise OSError(errno.EIO, "Input/output error")
    assert not isinstance(caught.value, errors.DiskFull)
    assert str(tmp_path) not in caught.value.client_message


def test_home_is_refused_when_its_path_is_too_long_for_sockets(tmp_path: Path) -> None:
    with pytest.raises(errors.HomeUnusable, match="too long"):
        Home(tmp_path / ("x" * 100)).ensure(ME)


def test_home_is_refused_when_it_cannot_be_made() -> None:
    short = Path("/dev/null/home")
    with pytest.raises(errors.HomeUnusable, match="cannot be used"):
        Home(short).ensure(ME)


def test_home_folders_are_closed_to_others(new_folder: Callable[[], Path]) -> None:
    home = Home(new_folder() / "h")
    home.ensure(ME)
    home.ensure(ME)
    for folder in (home.root, home.run, home.clusters, home.templates, home.engines):
        assert folder.stat().st_mode & 0o007 == 0
    assert list(home.run.iterdir()) == [home.scratch]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs engines as another user")
def test_home_is_refused_when_the_engines_user_cannot_reach_it(new_folder: Callable[[], Path]) -> None:
    folder = new_folder()
    folder.chmod(0o700)
    nobody = Account(name="nobody", uid=65534, gid=65534)
    with pytest.raises(errors.HomeUnusable, match=r"nobody, who cannot pass through"):
        Home(folder / "h").ensure(nobody)
