"""The handoff library: found, placed where engines can read it, tried out, and doubted where there is reason to."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from zorya.core import errors
from zorya.core.account import Account
from zorya.core.home import Home
from zorya.core.volume import Copy, CopyKind
from zorya.engines import handoff

E_MACHINE = 18
"""Where an ELF file says which processor it is for (elf(5))."""


@pytest.fixture
def built() -> Path:
    """The library of this installation."""
    found = handoff.examine()
    if "not built" in found.reason:
        pytest.skip(found.reason)
    assert found.path is not None, found.reason
    return found.path


@pytest.fixture
def home(new_folder: Callable[[], Path], engine_account: Account) -> Home:
    made = Home(new_folder() / "home")
    made.ensure(engine_account)
    return made


def copies(home: Home) -> list[Path]:
    return sorted(home.engines.iterdir())


def test_library_is_placed_where_the_engines_account_can_load_it(
    built: Path, home: Home, engine_account: Account
) -> None:
    placed = handoff.place(home, engine_account, built)
    assert [placed.path] == copies(home)
    assert placed.path is not None
    assert placed.path.read_bytes() == built.read_bytes()
    assert stat.S_IMODE(placed.path.stat().st_mode) == 0o755
    assert placed.reason == "Engines take clients' connections themselves."


def test_placed_library_is_left_alone_when_it_is_placed_again(built: Path, home: Home, engine_account: Account) -> None:
    first = handoff.place(home, engine_account, built)
    inode = copies(home)[0].stat().st_ino
    assert handoff.place(home, engine_account, built) == first
    assert [copy.stat().st_ino for copy in copies(home)] == [inode]


def test_placed_library_is_replaced_when_it_is_damaged(built: Path, home: Home, engine_account: Account) -> None:
    handoff.place(home, engine_account, built)
    copies(home)[0].write_bytes(b"")
    placed = handoff.place(home, engine_account, built)
    assert placed.path == copies(home)[0]
    assert placed.path.read_bytes() == built.read_bytes()


def test_running_engines_keep_their_library_when_another_is_placed(
    built: Path, home: Home, engine_account: Account, tmp_path: Path
) -> None:
    first = handoff.place(home, engine_account, built)
    newer = tmp_path / "newer"
    newer.write_bytes(built.read_bytes() + b"\0")
    second = handoff.place(home, engine_account, newer)
    assert copies(home) == sorted(path for path in (first.path, second.path) if path is not None)
    assert len(copies(home)) == 2


def test_library_is_not_used_when_it_was_not_built(home: Home, engine_account: Account, tmp_path: Path) -> None:
    for found in (handoff.examine(tmp_path / "none"), handoff.place(home, engine_account, tmp_path / "none")):
        assert found.path is None
        assert "was not built" in found.reason
        assert "C compiler" in found.reason
    assert copies(home) == []


def write_other_machine(path: Path, built: Path) -> None:
    image = bytearray(built.read_bytes())
    image[E_MACHINE] ^= 0xFF
    path.write_bytes(image)


def write_cut_short(path: Path, built: Path) -> None:
    path.write_bytes(built.read_bytes()[:1000])


def write_text(path: Path, built: Path) -> None:
    path.write_text("#!/bin/sh\n")


def write_nothing(path: Path, built: Path) -> None:
    path.touch()


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (write_other_machine, "cannot be preloaded"),
        (write_text, "cannot be preloaded"),
        (write_nothing, "cannot be preloaded"),
        (write_cut_short, ""),  # the loader may even end with SIGBUS
    ],
)
def test_library_is_not_used_when_the_loader_refuses_it(
    built: Path,
    home: Home,
    engine_account: Account,
    new_folder: Callable[[], Path],
    write: Callable[[Path, Path], None],
    why: str,
) -> None:
    wrong = new_folder() / "wrong.so"
    write(wrong, built)
    for found in (handoff.examine(wrong), handoff.place(home, engine_account, wrong)):
        assert found.path is None
        assert found.reason.startswith("The loader does not take the handoff library: ")
        assert why in found.reason
        assert "\n" not in found.reason


@pytest.mark.parametrize("name", ["a b", "a:b", "$LIB"])
def test_library_is_not_used_when_the_loader_would_read_its_path_otherwise(
    built: Path, new_folder: Callable[[], Path], name: str
) -> None:
    odd = new_folder() / name
    odd.write_bytes(built.read_bytes())
    found = handoff.examine(odd)
    assert found.path is None
    assert found.reason == f"The loader cannot preload {odd}: its path has a space, a colon or a $."


def test_library_is_not_used_when_it_does_not_take_itself_out_of_the_environment(
    new_folder: Callable[[], Path],
) -> None:
    # Any other library that can be preloaded.
    other = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libc.so" in line)
    found = handoff.examine(Path(other))
    assert found.path is None
    assert "It was not loaded." in found.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="The engines' account is another one only for root.")
def test_library_is_not_used_when_the_engines_account_cannot_read_it(
    built: Path, home: Home, engine_account: Account
) -> None:
    home.engines.chmod(0o700)
    found = handoff.place(home, engine_account, built)
    assert found.path is None
    assert "cannot be preloaded" in found.reason


def test_storage_problem_is_raised_when_the_copy_cannot_be_written(
    built: Path, home: Home, engine_account: Account
) -> None:
    home.engines.rmdir()
    with pytest.raises(errors.StorageProblem):
        handoff.place(home, engine_account, built)


def test_environment_says_what_the_library_reads(home: Home) -> None:
    folders = home.of_copy("12345678", Copy(zone="a", kind=CopyKind.FULL, folder=Path("clusters/12345678")))
    assert handoff.environment(Path("/lib.so"), folders=folders, listener="5432") == {
        "LD_PRELOAD": "/lib.so",
        "ZORYA_HANDOFF_LISTENER": "5432",
        "ZORYA_HANDOFF_SOCKET": str(folders.socket / "inlet"),
        "ZORYA_HANDOFF_UID": str(os.getuid()),
    }
