"""The `zorya` command within the tests' own process: a start of Python takes longer than all that most commands do."""

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from zorya.cli import main

_MAIN = Path(main.__file__).parents[1] / "__main__.py"
_OF_ITS_OWN = {"up", "connect"}
"""What starts a server, or becomes another program."""

_one_at_a_time = threading.Lock()


def run_here(words: tuple[str, ...], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str] | None:
    """Run the command to its end, as a process with this environment would.

    Answers None where it has to be a process: when it is of those, and while another thread has one run here.
    """
    if _OF_ITS_OWN & set(words) or not _one_at_a_time.acquire(blocking=False):
        return None
    try:
        argv = [str(_MAIN), *words]
        said, complained = io.StringIO(), io.StringIO()
        with (
            Path(os.devnull).open() as nothing,
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.multiple(sys, argv=argv, stdin=nothing, stdout=said, stderr=complained),
        ):
            time.tzset()
            try:
                main.main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        time.tzset()
        return subprocess.CompletedProcess(argv, code, said.getvalue(), complained.getvalue())
    finally:
        _one_at_a_time.release()
