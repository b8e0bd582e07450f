"""What PostgreSQL's log says, read so that nobody who reaches the engine can forge it. Pure.

A record begins with the prefix, at the beginning of a line. In all that follows PostgreSQL puts a tab behind each
newline (`append_with_tabs` in src/backend/utils/error/elog.c), but not within the prefix itself. The names of users and
databases are therefore kept out of it: they are what a client likes them to be, with newlines, and where the startup
packet is refused they have not even been cut to 63 bytes. What is left there no client chooses.
"""

import re
from collections.abc import Sequence

from zorya.core.identity import FailedLogin

PREFIX = "%m [%p] %q%r "
"""Time, process, and for a client's process where the client is: its address and port, or `[local]`."""

_TIME = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+"
# A record of a client's process that came over TCP and ended it, with all lines of its message.
_FATAL = re.compile(rf"{_TIME} \[\d+\] ([0-9A-Fa-f.:]+(?:%[^()\s]+)?)\((\d+)\) FATAL:  (.*(?:\n\t.*)*)\n", re.MULTILINE)
# auth_failed() in src/backend/libpq/auth.c: a wrong password, an expired one, none at all, a role that is not there.
_WRONG_PASSWORD = re.compile(r'password authentication failed for user "(.*)"', re.DOTALL)
# Of those that come over TCP the access file rejects one, Zorya's own administrator.
_REJECTED = re.compile(r'pg_hba\.conf rejects connection for host "[^"]*", user "(\w+)", database "')

_SERVER_ENDED = re.compile(
    # The records of the engine's own processes name no client: what a client did wrong ended no engine, and a statement
    # may hold what is nobody else's business.
    rf"{_TIME} \[\d+\] (?:FATAL|PANIC): +(.+)"
    # What is said before there is a log comes without a time and may take several lines, the file in the last.
    r"|^\S*postgres: (.+(?:\n(?!\d{4}-\d\d-\d\d ).+)*)",
    re.MULTILINE,
)

# LogChildExit() in src/backend/postmaster/postmaster.c. What the process was running stands in another record, and may
# hold what is nobody else's business.
_KILLED = re.compile(rf"{_TIME} \[(\d+)\] LOG:  (.+) \(PID \d+\) was terminated by signal 9: Killed\n", re.MULTILINE)


def failed_logins(log: str) -> Sequence[FailedLogin]:
    """See Engine.failed_logins."""
    failed = []
    for address, port, text in _FATAL.findall(log):
        message = text.replace("\n\t", "\n")
        found = _WRONG_PASSWORD.fullmatch(message) or _REJECTED.match(message)
        if found:
            failed.append(FailedLogin(address=address, port=int(port), role=found[1]))
    return failed


def explain_exit(log: str) -> str:
    """See Engine.explain_exit."""
    found = _SERVER_ENDED.findall(log)
    return " ".join("".join(found[-1]).split()) if found else ""


def killed_processes(log: str, first: int) -> Sequence[str]:
    """See Engine.killed_processes."""
    # A parallel worker logs what a session likes, and names no client, but it has a number of its own.
    return [kind for pid, kind in _KILLED.findall(log) if int(pid) == first]
