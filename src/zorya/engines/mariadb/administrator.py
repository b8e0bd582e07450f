"""The account as which Zorya asks and tells a cluster's server, known to nobody else: see `privileges`.

Name and password are made up once for each cluster. The file with the password is Zorya's own; the engine's account
can read the init file, which has no more than the password's verifier, so that nothing that runs inside an engine can
be the administrator. The server's log names it where a connection was given up; the log's folder is Zorya's own.
"""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from zorya.core import errors, files
from zorya.core.model import Secret

FILE = "administrator.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Administrator:
    """A name that nobody can guess, and its password."""

    name: Secret
    password: Secret


def ensure(conf: Path) -> Administrator:
    """Answer the administrator whose file is in the folder `conf`, made up if there is none. Raises OSError."""
    found = _read(conf / FILE)
    if found is not None:
        return found
    made = Administrator(name=Secret(f"zorya-{secrets.token_hex(16)}"), password=Secret(secrets.token_hex(24)))
    text = json.dumps({"name": made.name.value, "password": made.password.value})
    # Not durable: without the file another one is made up at the next start.
    files.write_atomically(conf / FILE, text, mode=0o600, durable=False)
    return made


def read(conf: Path) -> Administrator:
    """Answer the administrator of the server whose configuration is in `conf`. Raises EngineProblem."""
    found = _read(conf / FILE)
    if found is None:
        raise errors.EngineProblem(f"{conf / FILE} does not say how to administer the engine; start it anew.")
    return found


def _read(path: Path) -> Administrator | None:
    try:
        values = json.loads(path.read_text())
        return Administrator(name=Secret(values["name"]), password=Secret(values["password"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
