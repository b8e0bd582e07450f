"""Compiles native/handoff.c at installation where there is a C compiler; without it Zorya relays instead."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "native/handoff.c"
LIBRARY = "src/zorya/engines/libhandoff.so"  # handoff.so would be imported in place of handoff.py
OPTIONS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden", "-Wl,-z,now,-z,relro"]


class HandoffBuild(BuildHookInterface[Any]):
    """Adds the library to the wheel, or to the checkout of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Build the library beside the module that uses it; an old one goes when no new one can be made."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        (root / LIBRARY).unlink(missing_ok=True)
        if self._compile(root):
            build_data["artifacts"].append(LIBRARY)
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def _compile(self, root: Path) -> bool:
        compiler = shlex.split(os.environ.get("CC") or "cc")  # may bring options, or a ccache in front
        if shutil.which(compiler[0]) is None:
            self.app.display_warning("No C compiler: clients will be relayed instead of handed over.")
            return False
        partial = root / f"{LIBRARY}.partial"
        made = subprocess.run(
            [*compiler, *OPTIONS, "-o", str(partial), str(root / SOURCE)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            self.app.display_warning(f"Clients will be relayed: {SOURCE} was not compiled: {made.stderr.strip()}")
            return False
        partial.replace(root / LIBRARY)
        return True
