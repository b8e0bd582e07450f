"""The certificate and the key that PostgreSQL serves TLS with: two files beside its settings.

It reads them at its start, and anew at each SIGHUP. When they do not fit together it keeps what it has (src/backend/
libpq/be-secure-openssl.c, `be_tls_init`); only a start fails then.
"""

from pathlib import Path

from zorya.core import files
from zorya.core.account import Account
from zorya.engines.base import TlsFiles
from zorya.engines.postgres import configuration


def write(conf: Path, tls: TlsFiles, account: Account) -> None:
    """Put the pair into the folder `conf`, unless it is there. Raises OSError.

    Both are written beside the old ones and durable before the first takes its place, so that an engine that starts in
    this moment has next to no chance of finding one of each. If it is interrupted there, the next call mends it.
    """
    # A key of root's may be read by the engine's group, any other by its owner alone (manual, "ssl_key_file").
    key_mode = 0o640 if account.is_other else 0o600
    wanted = (
        (conf / configuration.KEY_FILE, tls.key.value, key_mode),
        (conf / configuration.CERTIFICATE_FILE, tls.certificate, 0o640),
    )
    if all(_holds(path, text) for path, text, _ in wanted):
        return
    for path, text, mode in wanted:
        files.write_atomically(_beside(path), text, mode=mode, group=account)
    for path, _, _ in wanted:
        _beside(path).replace(path)
    files.sync_folder(conf)


def remove(conf: Path) -> None:
    """Remove the pair from the folder `conf`, if it is there. Raises OSError."""
    for name in (configuration.KEY_FILE, configuration.CERTIFICATE_FILE):
        (conf / name).unlink(missing_ok=True)
        _beside(conf / name).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False
