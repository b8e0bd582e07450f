"""The engine installations of this host, looked for at the start and again when one is missing."""

import asyncio
from collections.abc import Sequence

from zorya.core import errors
from zorya.engines import base
from zorya.engines.base import Engine, Installation


class Installed:
    """What was found last."""

    def __init__(self, engine: Engine) -> None:
        """Nothing is known until `refresh`."""
        self._engine = engine
        self._found: Sequence[Installation] = ()

    @property
    def engine(self) -> Engine:
        """The kind of engine that they are of."""
        return self._engine

    @property
    def found(self) -> Sequence[Installation]:
        """The installations, the preferred first."""
        return self._found

    async def refresh(self) -> None:
        """Look again. Raises EngineMissing when a setting names an installation that is not there."""
        self._found = await asyncio.to_thread(self._engine.find)

    async def choose(self, version: str | None) -> Installation:
        """Answer the installation for a new cluster; see engines.base.choose."""
        try:
            return self._choose(version)
        except errors.EngineMissing:
            await self.refresh()
            return self._choose(version)

    def _choose(self, version: str | None) -> Installation:
        return base.choose(self._found, version, kind=self._engine.kind, oldest=self._engine.oldest)

    def version_of(self, major: str) -> str:
        """Answer the full version that a data folder of this major version runs on; `major` when none is there."""
        return next((one.version for one in self._found if one.major == major), major)
