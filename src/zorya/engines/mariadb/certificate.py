"""The certificate, its key and its root that MariaDB serves TLS with: files beside its settings.

It reads them at its start, and anew at FLUSH SSL. When they do not fit together that fails, and it keeps what it has
(sql/mysqld.cc, `reinit_ssl`).
"""

from pathlib import Path

from zorya.core import files
from zorya.core.account import Account
from zorya.engines.base import TlsFiles
from zorya.engines.mariadb import configuration


def write(conf: Path, tls: TlsFiles, account: Account) -> None:
    """Put the files into the folder `conf`, unless they are there. Raises OSError.

    All are written beside the old ones and durable before the first takes its place, so that a server that starts in
    this moment has next to no chance of finding some of each. If it is interrupted there, the next call mends it.
    """
    wanted = (
        (conf / configuration.KEY_FILE, tls.key.value),
        (conf / configuration.CERTIFICATE_FILE, tls.certificate),
        (conf / configuration.ROOT_FILE, tls.root),
    )
    if all(_holds(path, text) for path, text in wanted):
        return
    for path, text in wanted:
        files.write_atomically(_beside(path), text, mode=0o640, group=account)
    for path, _ in wanted:
        _beside(path).replace(path)
    files.sync_folder(conf)


def remove(conf: Path) -> None:
    """Remove the files from the folder `conf`, if they are there. Raises OSError."""
    for name in (configuration.KEY_FILE, configuration.CERTIFICATE_FILE, configuration.ROOT_FILE):
        (conf / name).unlink(missing_ok=True)
        _beside(conf / name).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False
