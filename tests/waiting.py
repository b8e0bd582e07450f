"""Waiting for a condition, with a deadline, in place of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, within_s: float = 30) -> T:
    """Answer the first true value of `condition`; fail the test with `what` when there is none in time."""
    began = time.monotonic()
    deadline = began + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        # Asking costs the machine time that what is waited for needs as well.
        time.sleep(0.01 if time.monotonic() - began < 0.3 else 0.05)
