"""What one run of the command was given before its command's own options."""

import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from zorya.cli.client import Api
from zorya.core.location import default_home


@dataclass(slots=True)
class Invocation:
    """The global options, and whether errors are to be JSON. Travels as the context's object."""

    home: Path = field(default_factory=default_home)
    home_given: bool = False
    """Whether `home` came from `--home`, so that commands shown to the user must repeat it."""
    as_json: bool = False

    @property
    def api(self) -> Api:
        """The server of this home."""
        return Api(self.home)

    def command(self, *words: str) -> str:
        """Answer a command line for the user's shell that reaches the same program and home as this run."""
        called = sys.argv[0]
        if Path(called).name == "__main__.py":
            program = [sys.executable, "-m", "zorya"]
        else:
            program = ["zorya" if shutil.which("zorya") == called else called]
        return shlex.join([*program, *(["--home", str(self.home)] if self.home_given else []), *words])
