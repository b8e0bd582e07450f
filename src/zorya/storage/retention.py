"""From where on tails keep the log. Pure."""

from collections.abc import Sequence


def keep_from(needs: Sequence[int], *, flushed: int, keep_bytes: int) -> int:
    """Answer the position from which on the log is kept: the lowest from which a full copy would have to replay.

    `needs` are these positions; a copy that is so far behind, or gone so long, that it would need more than
    `keep_bytes` before `flushed`, the end of the log, is made anew and does not count.
    """
    oldest = max(0, flushed - keep_bytes)
    counted = [one for one in needs if one >= oldest]
    return min(counted, default=oldest)
