"""What this host has for all clusters together: cores and memory, those that control groups leave it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What there is for engines."""

    cores: float
    memory_bytes: int


def examine() -> Node:
    """Answer what this process may use: the host's, less what affinity and its control groups' limits withhold.

    Reads a few files of /proc and of the control groups from this process's own up to the root; may be repeated often.
    """
    raise NotImplementedError
