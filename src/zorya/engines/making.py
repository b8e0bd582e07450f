"""What making a data folder is for every kind of engine.

A folder is made under a name of its own and renamed when it is whole and durable, so that one that exists is never
half-made.
"""

import errno
import os
import re
import secrets
import shutil
from pathlib import Path

from zorya.core import commands, errors, files
from zorya.core.account import Account
from zorya.engines.base import Instance


def partial_folder(path: Path, account: Account) -> Path:
    """Make an empty folder, owned by `account`, for what shall be `path` once it is whole."""
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    return files.ensure_folder(partial, mode=0o700, owner=account)


def remove_partial_folders(path: Path) -> None:
    """Remove what interrupted attempts to make `path` left.

    Their programs may still be ending: they keep to their own folder.
    """
    for leftover in path.parent.glob(f"{path.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def publish(partial: Path, path: Path) -> None:
    """Give a folder that is whole and durable its name, durably."""
    partial.rename(path)
    files.sync_folder(path.parent)


async def copy(template: Path, target: Path, account: Account) -> None:
    """Copy what is in `template` into the folder `target`. Raises CommandFailed."""
    # cp clones blocks where the file system can (reflink) and copies them elsewhere.
    await commands.run(["cp", "--archive", "--reflink=auto", f"{template}/.", target], account=account)


def damaged(instance: Instance, what: str) -> errors.DataDamaged:
    """Answer the error of a data folder that is visibly not one to start."""
    return errors.DataDamaged(
        f"The data folder of {instance.cluster} is damaged: {what}.",
        hint="Nothing was changed. Restore the folder from a backup, then connect again.",
        client_message=f'the data folder of cluster "{instance.cluster}" is damaged; nothing was changed',
    )


def failed(error: commands.CommandFailed, instance: Instance, said: str) -> errors.ZoryaError:
    """Answer the error of a data folder that could not be made.

    `said` is a regular expression whose group is what the engine's programs print of an error.
    """
    if os.strerror(errno.ENOSPC) in error.output:
        return files.disk_full("Making the data folder", instance.folders.root)
    found = re.findall(said, error.output)
    why = found[-1] if found else error.output.strip()[-300:] or str(error)
    used = instance.installation
    return errors.StartFailed(
        f"{used.kind.product} {used.version} ({used.folder}) could not make the data: {why}",
        hint="Nothing of the cluster was kept; `zorya doctor` shows the installations found.",
        client_message="The cluster's data folder could not be made.",
    )
