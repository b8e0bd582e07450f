"""Somebody who comes and goes around the moment at which a cluster pauses."""

import random
import threading
from collections.abc import Callable


class Visitor(threading.Thread):
    """Visits a cluster that pauses after 1 s again and again, and notes every error."""

    def __init__(self, visit: Callable[[], None], failure: type[Exception], *, visits: int, seed: int) -> None:
        """`visit` connects, uses the database and leaves; it raises `failure` when it is not served."""
        super().__init__()
        self._visit = visit
        self._failure = failure
        self._visits = visits
        self._choice = random.Random(seed)
        self.served = 0
        self.errors: list[str] = []

    def run(self) -> None:
        """Make all visits; what lies between two of them is the load, not a wait for anything."""
        for _ in range(self._visits):
            # Two of three visits fall around the moment of the pause: 1 s after it is seen, which takes 0.5 s at most,
            # that the last session has ended.
            near = self._choice.random() < 0.66
            threading.Event().wait(self._choice.uniform(0.98, 1.7) if near else self._choice.uniform(0, 1.5))
            for _ in range(self._choice.randint(1, 3)):
                self._visit_once()

    def _visit_once(self) -> None:
        try:
            self._visit()
            self.served += 1
        except self._failure as error:
            self.errors.append(repr(error))


def visit_until_done(visitors: list[Visitor], *, seed: int) -> None:
    """Have all of them make their visits at the same time; fails when one was not served."""
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(110)
    failed = [error for visitor in visitors for error in visitor.errors]
    assert not failed, f"seed {seed}: {failed}"
