"""What MariaDB's log says, read so that nobody who reaches the engine can forge it. Pure.

A record begins with the time, the thread and, in brackets, how grave it is. What follows may hold what a client likes:
the user's name is logged as it came, with newlines, so that one record may look like several, each with an address of
its own. Only what stands at the very end of the true record is the client's, and where that is cannot always be told.
What helps is that a name has 128 characters at most. So for each line that may begin a record of a failed login all
ends are looked for that it may have, and it is believed if they all name the same address: the true one is among them,
even where the beginning itself was made up within somebody's name. Two failures of different addresses, right after one
another and under short names, cannot be told from one that was made up; of these the first is passed over.
"""

import re
from collections.abc import Iterator, Sequence

from zorya.core.identity import FailedLogin

_RECORD = re.compile(r"\d{4}-\d\d-\d\d [ \d]\d:\d\d:\d\d \d+ \[(\w+)\] (.*)")

_DENIED = "Access denied for user '"
# ER_ACCESS_DENIED_ERROR; ER_ACCESS_DENIED_NO_PASSWORD_ERROR has no last part. With skip_name_resolve it is an address.
_ENDING = re.compile(r"(.*)'@'([0-9A-Fa-f.:]+(?:%\w+)?|localhost)'(?: \(using password: (?:YES|NO)\))?", re.DOTALL)

LONGEST_NAME = 128
"""Characters of a user's name that the server logs (USERNAME_CHAR_LENGTH, include/mysql_com.h)."""

_LAST_WORDS = re.compile(r"Aborting\b|.*: Shutdown complete")
_SIGNAL = re.compile(r"\d{6} [ \d]\d:\d\d:\d\d \[ERROR\] .*got signal (\d+)")


def failed_logins(log: str) -> Sequence[FailedLogin]:
    """See Engine.failed_logins."""
    failed = []
    lines = log.split("\n")
    for number, line in enumerate(lines):
        found = _RECORD.fullmatch(line)
        if found is None or not found[2].startswith(_DENIED):
            continue
        ends = list(_ends(found[2].removeprefix(_DENIED), lines[number + 1 :]))
        if len({address for _, address in ends}) == 1:
            role, address = ends[0]
            if address != "localhost":
                failed.append(FailedLogin(address=address, port=0, role=role))
    return failed


def _ends(text: str, following: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Answer the names and addresses that a record may have which begins with `text`, however many lines it takes."""
    for line in (None, *following):
        if line is not None:
            text = f"{text}\n{line}"
        found = _ENDING.fullmatch(text)
        if found and len(found[1]) <= LONGEST_NAME:
            yield found[1], found[2]
        elif len(text) - len(line or "") > LONGEST_NAME:
            # What comes before this line is in the name already.
            return


def explain_exit(log: str) -> str:
    """See Engine.explain_exit. The first error is the cause of those that follow."""
    said = ""
    for line in log.split("\n"):
        killed = _SIGNAL.match(line)
        if killed:
            return f"It got signal {killed[1]}."
        found = _RECORD.fullmatch(line)
        if not said and found and found[1] == "ERROR" and not _LAST_WORDS.match(found[2]):
            said = found[2].strip()
    return said
