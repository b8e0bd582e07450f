"""Those who wait for one cluster's engine: any number of clients and commands, one start for all of them."""

import asyncio

from zorya.core import errors
from zorya.core.model import Entrance


class WaitingRoom:
    """Holds callers until the engine runs or cannot run, each for so long at most."""

    def __init__(self, cluster: str, *, timeout_s: float) -> None:
        """`timeout_s` is how long one caller is held."""
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._outcome: asyncio.Future[Entrance | errors.ZoryaError] | None = None
        self.waiters = 0
        """How many are held now."""

    async def wait(self) -> Entrance:
        """Answer how to get into the engine once `settle` tells it.

        Raises what `settle` was given instead, or WakeTimeout: the caller's patience ends then, not the start.
        """
        if self._outcome is None:
            self._outcome = asyncio.get_running_loop().create_future()
        self.waiters += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await asyncio.shield(self._outcome)
        except TimeoutError:
            raise self._timed_out() from None
        finally:
            self.waiters -= 1
        if isinstance(outcome, errors.ZoryaError):
            # One instance for each waiter: a shared one would collect the traceback of them all.
            raise type(outcome)(outcome.message, hint=outcome.hint, client_message=outcome.client_message)
        return outcome

    def settle(self, outcome: Entrance | errors.ZoryaError) -> None:
        """Let all who wait now go, with the way into the engine or with the reason why there is none."""
        held, self._outcome = self._outcome, None
        if held is not None:
            held.set_result(outcome)

    def _timed_out(self) -> errors.WakeTimeout:
        return errors.WakeTimeout(
            f"Cluster {self._cluster} did not start within {self._timeout_s:g} s; the start goes on.",
            hint=f"`zorya show {self._cluster}` says what it is doing.",
            client_message=f'cluster "{self._cluster}" did not start within {self._timeout_s:g} s;'
            " the start goes on, try again",
        )
