"""What Zorya's SQLite files have in common: the form that a file has, and errors of the tree for what goes wrong."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zorya.core import errors, files


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of file, in the words of its errors."""

    subject: str
    """What it is, in words that begin a sentence; `{path}` is where it is."""
    writing: str
    """What failed when the disk was full, in words that begin a sentence."""
    hint: str
    """What to do when it is damaged."""
    client_message: str

    @contextmanager
    def errors(self, path: Path) -> Iterator[None]:
        """Turn errors of SQLite and of the file within the block into DiskFull or HomeUnusable."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
                raise files.disk_full(self.writing, path) from error
            raise errors.HomeUnusable(
                f"{self.subject.format(path=path)} cannot be used: {error}.",
                hint=self.hint,
                client_message=self.client_message,
            ) from error
        except OSError as error:
            raise errors.HomeUnusable(
                f"{self.subject.format(path=path)} cannot be used: {error.strerror}.", hint="Mend the home folder."
            ) from error


def read_format(connection: sqlite3.Connection, path: Path, *, newest: int) -> int:
    """Answer the format that the file says it has, 0 if it is new. Raises HomeTooNew above `newest`."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > newest:
        raise errors.HomeTooNew(
            f"{path} was written by a newer Zorya (format {found}; this one knows {newest}).",
            hint="Nothing was changed. Start the newer version, or choose another home with ZORYA_HOME.",
        )
    return found
