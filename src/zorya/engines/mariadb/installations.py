"""Find MariaDB on this host: the setting, PATH, and the folders that packages and archives use."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from zorya.core import errors
from zorya.core.model import EngineKind
from zorya.engines.base import Installation

OLDEST = (10, 6)

SERVER = "mariadbd"

_PROGRAM_FOLDERS = ("sbin", "libexec", "bin", "scripts", ".")
"""Where the programs of one installation are, below its folder: packages put the server beside the other daemons."""

_PLUGIN_FOLDERS = ("lib/mysql/plugin", "lib64/mysql/plugin", "lib/mariadb/plugin", "lib64/mariadb/plugin", "lib/plugin")

_PREFIXES = ("/usr", "/usr/local", "/usr/local/mariadb*", "/usr/local/mysql", "/opt/mariadb*", "/opt/rh/*/root/usr")

_VERSION = re.compile(r"\bVer (\d+)\.(\d+)\.(\d+)-MariaDB")


def find(setting: Path | None) -> list[Installation]:
    """Answer the usable installations, the preferred first: the setting's, then the newest.

    Raises EngineMissing when the setting names a folder without a usable MariaDB.
    """
    chosen = [read(setting, "setting")] if setting else []
    if setting and chosen == [None]:
        oldest = ".".join(map(str, OLDEST))
        raise errors.EngineMissing(
            f"{setting} holds no MariaDB {oldest} or newer.",
            hint="The setting `mariadb` has to name the folder that holds sbin/mariadbd or bin/mariadbd.",
        )
    others: dict[Path, tuple[Path, str]] = {}
    for folder, source in _candidates():
        if (server := _program(folder, SERVER)) is not None:
            others.setdefault(server.resolve(), (folder, source))
    if setting and (server := _program(setting, SERVER)) is not None:
        others.pop(server.resolve(), None)
    found = [one for folder, source in others.values() if (one := read(folder, source))]
    found.sort(key=lambda one: version_key(one.version), reverse=True)
    return [one for one in (*chosen, *found) if one is not None]


def read(folder: Path, source: str) -> Installation | None:
    """Answer the installation in `folder`; None when there is none, it cannot run, or it is too old."""
    server = _program(folder, SERVER)
    if server is None or _program(folder, "mariadb-install-db") is None:
        return None
    found = _VERSION.search(_ask(server, "--no-defaults", "--version"))
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        return None
    return Installation(
        kind=EngineKind.MARIADB,
        version=".".join(found.groups()),
        major=f"{found[1]}.{found[2]}",
        folder=folder,
        source=source,
        is_fallback=False,
        # It cannot be built without a TLS library: it brings one along.
        speaks_tls=True,
    )


def program(installation: Installation, name: str) -> Path:
    """Answer the path of one of an installation's programs, wherever in its folder it is."""
    return _program(installation.folder, name) or installation.program(name)


def plugin_folder(installation: Installation) -> Path | None:
    """Answer where an installation keeps its plugins; None where that is not known."""
    folders = (installation.folder / name for name in _PLUGIN_FOLDERS)
    return next((one for one in folders if one.is_dir()), None)


def version_key(version: str) -> tuple[int, ...]:
    """Answer a version such as "10.11.6" as numbers that compare."""
    return tuple(int(part) for part in version.split("."))


def _program(folder: Path, name: str) -> Path | None:
    paths = (folder / between / name for between in _PROGRAM_FOLDERS)
    return next((path for path in paths if path.is_file()), None)


def _ask(*argv: str | Path) -> str:
    """Answer what a program prints; empty when it cannot be run."""
    try:
        asked = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout


def _candidates() -> Iterator[tuple[Path, str]]:
    on_path = shutil.which(SERVER, path=os.environ.get("PATH", os.defpath))
    if on_path:
        yield Path(on_path).resolve().parent.parent, "PATH"
    for pattern in _PREFIXES:
        for folder in sorted(Path("/").glob(pattern.removeprefix("/"))):
            yield folder, "package"
