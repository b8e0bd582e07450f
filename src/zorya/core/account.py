"""The system user that engines run as: root starts them as a user of their own, anyone else as themselves."""

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from typing import TypedDict

from zorya.core import errors


class SwitchOptions(TypedDict, total=False):
    """Keyword arguments of `subprocess.Popen` that make the child run as another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A user and its primary group."""

    name: str
    uid: int
    gid: int

    @property
    def is_other(self) -> bool:
        """Whether running as this account means switching to it."""
        return self.uid != os.geteuid()

    def switch(self) -> SwitchOptions:
        """Answer what makes a child process run as this account, with no other group."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.is_other else {}


def find(name: str) -> Account | None:
    """Answer the account that engines run as, or None when it does not exist yet. Changes nothing."""
    if os.geteuid() != 0:
        return current()
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def current() -> Account | None:
    """Answer the present user; None when it has no entry in the user database."""
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def ensure(name: str) -> Account:
    """Answer the account that engines run as. Idempotent.

    As root, that is the system user `name`, made if missing; otherwise it is the present user and `name` is ignored.

    Raises HostProblem when the user is missing and cannot be made, or would be root.
    """
    account = find(name)
    if account is None:
        _make(name)
        account = find(name)
    if account is None or account.uid == 0:
        raise errors.HostProblem(
            f"Engines cannot run as the user {name!r}.", hint="Set engine_user to an ordinary system user that exists."
        )
    return account


def _make(name: str) -> None:
    if os.geteuid() != 0:
        raise errors.HostProblem(
            f"User id {os.geteuid()} has no entry in the user database.",
            hint="Engines need one; add it to /etc/passwd.",
        )
    tool = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if tool is None:
        raise errors.HostProblem(
            f"The user {name!r} is missing and this host has no useradd.", hint="Make a system user of that name."
        )
    options = [
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        "/nonexistent",
        "--shell",
        "/usr/sbin/nologin",
    ]
    made = subprocess.run([tool, *options, name], capture_output=True, text=True, check=False)
    # Exit code 9 is "already in use": another Zorya on this host made it in the same moment.
    if made.returncode not in {0, 9}:
        raise errors.HostProblem(
            f"The user {name!r} could not be made: {made.stderr.strip()}.", hint="Make a system user of that name."
        )
