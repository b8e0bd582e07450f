"""Who may log in to a cluster whose engine does not run: what it knew when it stopped.

`Identities` are those of a PostgreSQL cluster, in PostgreSQL's terms (manual, "pg_authid", "pg_database"). Names that
are not UTF-8 stand as surrogate escapes. Those of MariaDB are in `accounts`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from zorya.core.accounts import Accounts
from zorya.core.model import Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """One role, as far as logging in is concerned."""

    verifier: Secret | None
    """`rolpassword`: `SCRAM-SHA-256$…` or `md5…`; None where the role has no password."""
    may_log_in: bool
    is_superuser: bool
    connection_limit: int
    """-1 is none."""
    valid_until: datetime | None
    """When the password expires, with a time zone; None is never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """One database, as far as connecting to it is concerned."""

    allows_connections: bool
    connection_limit: int
    """-1 is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identities:
    """Everything that decides, but for privileges, whether a client gets a session."""

    kind: ClassVar[str] = "postgres"

    roles: Mapping[str, Role]
    databases: Mapping[str, Database]
    mock_nonce: bytes
    """32 bytes, those of the engine's own control file: from it the engine makes up salts for roles that are not there,
    the same ones each time."""
    stamp: str = ""
    """What the data looked like when the engine had stopped; if it looks otherwise, all this may be wrong."""

    def to_json(self) -> str:
        """Write everything, verifiers included."""
        return json.dumps(
            {
                "kind": self.kind,
                "roles": {
                    name: {
                        "verifier": role.verifier.value if role.verifier else None,
                        "may_log_in": role.may_log_in,
                        "is_superuser": role.is_superuser,
                        "connection_limit": role.connection_limit,
                        "valid_until": role.valid_until.isoformat() if role.valid_until else None,
                    }
                    for name, role in self.roles.items()
                },
                "databases": {
                    name: {
                        "allows_connections": database.allows_connections,
                        "connection_limit": database.connection_limit,
                    }
                    for name, database in self.databases.items()
                },
                "mock_nonce": self.mock_nonce.hex(),
                "stamp": self.stamp,
            }
        )

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Identities":
        """Read what `to_json` wrote, but for the kind. Raises ValueError, KeyError or TypeError for anything else."""
        return cls(
            roles={name: _role(role) for name, role in values["roles"].items()},
            databases={name: Database(**database) for name, database in values["databases"].items()},
            mock_nonce=bytes.fromhex(values["mock_nonce"]),
            stamp=str(values["stamp"]),
        )


Known = Identities | Accounts
"""What is known of one cluster, by the kind of its engine."""


def from_json(text: str) -> Known:
    """Read what `to_json` of either wrote. Raises ValueError, KeyError or TypeError for anything else."""
    values: dict[str, Any] = json.loads(text)
    # What was written before there were two kinds says none.
    kind = values.pop("kind", Identities.kind)
    if kind == Accounts.kind:
        return Accounts.from_values(values)
    if kind == Identities.kind:
        return Identities.from_values(values)
    raise ValueError(kind)


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedLogin:
    """A login that the engine has turned down."""

    address: str
    """The client's IP address, as the engine's socket has it: a relayed client's is Zorya's own."""
    port: int
    """The client's TCP port; 0 where the engine does not tell."""
    role: str
    """Who it wanted to be; there may be no such role."""


def _role(values: dict[str, Any]) -> Role:
    verifier, until = values.pop("verifier"), values.pop("valid_until")
    return Role(
        verifier=Secret(verifier) if verifier is not None else None,
        valid_until=datetime.fromisoformat(until) if until is not None else None,
        **values,
    )
