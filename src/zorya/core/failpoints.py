"""Named places where a test can make this process die or fail, to prove that the next start goes on from there.

The environment variable ZORYA_FAILPOINTS holds `NAME=ACTION` pairs separated by commas. Actions: `kill` ends this
process with SIGKILL, `enospc` raises the error of a full disk, `pause` waits until the file named by
ZORYA_FAILPOINT_RELEASE exists. Without the variable a failpoint costs a call and a look-up.
"""

import asyncio
import errno
import functools
import os
import signal
from pathlib import Path


@functools.cache
def _actions() -> dict[str, str]:
    text = os.environ.get("ZORYA_FAILPOINTS", "")
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


async def reached(name: str) -> None:
    """Carry out what the environment asks for at `name`, if anything."""
    action = _actions().get(name)
    if action is None:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "pause":
        release = Path(os.environ["ZORYA_FAILPOINT_RELEASE"])
        release.with_suffix(".reached").touch()
        while not release.exists():  # noqa: ASYNC110 - a file is the only thing that the test and this process share
            await asyncio.sleep(0.005)
