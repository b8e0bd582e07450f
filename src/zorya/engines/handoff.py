"""The library that lets an engine take clients' connections from Zorya (native/handoff.c): found, placed, tried out.

It is built at installation where there is a C compiler. Without it, or where the host's loader refuses it, clients are
relayed instead; the reason is kept for the operator.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zorya.core import commands, files
from zorya.core.account import Account
from zorya.core.home import ClusterFolders, Home

# Not handoff.so: Python would import that in place of this module.
_BUILT = Path(__file__).with_name("libhandoff.so")


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """The library that engines are started with, or why there is none."""

    path: Path | None
    reason: str
    """A sentence for the operator."""


def examine(built: Path = _BUILT) -> Library:
    """Answer whether the library can be used, trying it out as the present user. Changes nothing; blocking."""
    if not built.exists():
        return Library(
            path=None,
            reason="The handoff library was not built: install a C compiler (Debian: gcc, libc6-dev) and Zorya anew.",
        )
    return _try_out(built, None)


def place(home: Home, account: Account, built: Path = _BUILT) -> Library:
    """Copy the library to where the engines' account can read it, and try it out there. Idempotent; blocking.

    The copy is named by its content, so that engines that run already keep theirs when Zorya is upgraded.
    Raises DiskFull, StorageProblem.
    """
    if not built.exists():
        return examine(built)
    with files.disk_errors("Copying the handoff library into the home", home.engines):
        content = built.read_bytes()
        copy = home.engines / f"handoff-{hashlib.sha256(content).hexdigest()[:16]}.so"
        # The content counts: the copy is not made durable, and a crash of the host may have left it empty.
        if not copy.exists() or copy.read_bytes() != content:
            partial = copy.with_suffix(".partial")
            partial.write_bytes(content)
            partial.chmod(0o755)
            partial.rename(copy)
    return _try_out(copy, account)


def environment(library: Path, *, folders: ClusterFolders, listener: str) -> Mapping[str, str]:
    """Answer the environment that makes an engine take connections at `folders.inlet`.

    `listener` names the listening socket that is given up for it: a Unix socket's path or a TCP port.
    """
    return {
        "LD_PRELOAD": str(library),
        "ZORYA_HANDOFF_LISTENER": listener,
        "ZORYA_HANDOFF_SOCKET": str(folders.inlet),
        # The real user: that is what the kernel tells the receiver about a sender.
        "ZORYA_HANDOFF_UID": str(os.getuid()),
    }


def _try_out(library: Path, account: Account | None) -> Library:
    if set(str(library)) & set(" :$"):
        return Library(path=None, reason=f"The loader cannot preload {library}: its path has a space, a colon or a $.")
    # The library takes LD_PRELOAD away; ld.so names on standard error what it cannot preload and goes on without it.
    proof = '[ -z "$LD_PRELOAD" ] || echo "It was not loaded."'
    try:
        said = commands.run_blocking(
            ["sh", "-c", proof], account=account, env={"LD_PRELOAD": str(library)}, timeout_s=20
        )
    except commands.CommandFailed as error:
        said = str(error)
    if said:
        return Library(path=None, reason=f"The loader does not take the handoff library: {' '.join(said.split())}")
    return Library(path=library, reason="Engines take clients' connections themselves.")
