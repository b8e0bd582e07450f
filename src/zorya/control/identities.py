"""The file that says who may log in to a cluster whose engine does not run. It is there only while that is certain:
written when the engine has ended cleanly with nothing changed since it was asked, removed before the next is launched.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zorya.core import failpoints, files, identity, logging
from zorya.core.identity import Known

_log = logging.get("zorya.control")


class SavedIdentities:
    """One cluster's file, and what it holds."""

    def __init__(self, path: Path, *, cluster: str, stamp: Callable[[], str]) -> None:
        """Nothing is known until `load` or `keep`. `stamp` answers what the data looks like now; see Engine.stamp."""
        self._path = path
        self._stamp = stamp
        self._cluster = cluster
        self._known: Known | None = None

    @property
    def known(self) -> Known | None:
        """Who may log in; None when that is not known, or an engine may be changing it.

        It is not known of data that was put in the place of the engine's, such as a backup, or that was used by hand.
        """
        if self._known is not None and self._known.stamp != self._stamp():
            _log.info("who may log in is not known: the data is not as the engine left it", cluster=self._cluster)
            self._known = None
        return self._known

    async def load(self) -> None:
        """Read the file. One that is damaged, or cannot be read, is as good as none, and is removed."""
        try:
            self._known = await asyncio.to_thread(_read, self._path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._known = None
            _log.warning(
                "who may log in is not known: the file cannot be used", cluster=self._cluster, error=repr(error)
            )
            self._path.unlink(missing_ok=True)

    async def keep(self, identities: Known) -> None:
        """Have it known until the next `forget`, for the next server too unless the disk is full."""
        self._known = known = replace(identities, stamp=self._stamp())
        try:
            await failpoints.reached("identities.kept")
            await asyncio.to_thread(files.write_atomically, self._path, known.to_json(), mode=0o600)
        except OSError as error:
            _log.warning(
                "who may log in could not be saved, the next server will not know",
                cluster=self._cluster,
                error=error.strerror or str(error),
            )

    def forget(self) -> None:
        """Remove the file. Raises StorageProblem when it stays, and then no engine may be launched."""
        self._known = None
        with files.disk_errors("Removing who may log in", self._path):
            self._path.unlink(missing_ok=True)

    async def be_forgotten(self) -> None:
        """Wait until the removal is durable: what the engine's clients change must not be overtaken by an old file.

        Raises StorageProblem.
        """
        with files.disk_errors("Removing who may log in", self._path), suppress(FileNotFoundError):
            # The folder may be gone with its disk, and the file with it.
            await asyncio.to_thread(files.sync_folder, self._path.parent)


def _read(path: Path) -> Known | None:
    try:
        return identity.from_json(path.read_text())
    except FileNotFoundError:
        return None
