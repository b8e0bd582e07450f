"""An installation of MariaDB whose programs a test can replace."""

import shutil
from pathlib import Path

from zorya.engines.mariadb import installations

STARTS = "*/conf/*"
"""What is in the arguments of an engine that starts to serve, and not of one that makes data."""


def copy_installation(folder: Path) -> Path:
    """Have `folder` be an installation whose programs are links to the preferred one's; answer it."""
    found = installations.find(None)[0]
    (folder / "bin").mkdir(parents=True)
    for place in (found.folder, Path("/usr")):
        for name in ("bin", "sbin", "libexec", "scripts"):
            for program in sorted((place / name).glob("*m[ya][rs][iq]*")):
                target = folder / "bin" / program.name
                if not target.exists():
                    target.symlink_to(program.resolve())
    if not (folder / "bin" / "mariadbd").exists():
        in_path = shutil.which("mariadbd")
        assert in_path is not None
        (folder / "bin" / "mariadbd").symlink_to(in_path)
    for name in ("share", "lib"):
        if (found.folder / name).is_dir():
            (folder / name).symlink_to(found.folder / name)
    for path in (folder, folder / "bin"):
        path.chmod(0o755)
    return folder


def replace_engine(folder: Path, script: str) -> None:
    """Put a shell script in place of `mariadbd`; $REAL is the real one."""
    program = folder / "bin" / "mariadbd"
    real = program.resolve()
    program.unlink()
    program.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    program.chmod(0o755)
