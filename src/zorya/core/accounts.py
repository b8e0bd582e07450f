"""Who may log in to a MariaDB cluster whose engine does not run: what it knew of its accounts when it stopped.

The terms are MariaDB's (Knowledge Base, "mysql.global_priv Table", "Authentication Plugins"). Names that are not UTF-8
stand as surrogate escapes.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from zorya.core.model import Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One of the ways in which an account may prove who it is."""

    plugin: str
    """Such as `mysql_native_password`."""
    verifier: Secret
    """Its authentication string; of `mysql_native_password` `*` and 40 hexadecimal digits, empty for no password."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """One account, as far as logging in is concerned."""

    user: str
    """Empty for the anonymous one."""
    host: str
    """From where: an address, `localhost`, or a pattern with `%`, `_` or a netmask."""
    methods: tuple[Method, ...]
    """Any of them will do; tried in this order."""
    is_locked: bool
    password_expired: bool
    needs_tls: bool
    """`REQUIRE SSL` or anything stricter."""
    needs_certificate: bool
    """`REQUIRE X509` or anything stricter: the engine has to see the client's certificate."""
    opens: tuple[str, ...]
    """LIKE patterns of the databases in which it has any right, by itself or by a role; `%` for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accounts:
    """Everything that decides whether a client gets a session."""

    kind: ClassVar[str] = "mariadb"

    accounts: tuple[Account, ...]
    """Roles are none."""
    databases: tuple[str, ...]
    version: str
    """What the engine says that it is in its greeting, such as `5.5.5-10.11.6-MariaDB`."""
    capabilities: int
    """What the engine offers in its greeting, all 64 bits: the extended ones of MariaDB stand from bit 32 on."""
    collation: int
    """The number of the server's own collation, as in its greeting."""
    stamp: str = ""
    """What the data looked like when the engine had stopped; if it looks otherwise, all this may be wrong."""

    def to_json(self) -> str:
        """Write everything, verifiers included."""
        values = asdict(self)
        for account, known in zip(values["accounts"], self.accounts, strict=True):
            account["methods"] = [
                {"plugin": method.plugin, "verifier": method.verifier.value} for method in known.methods
            ]
        return json.dumps({"kind": self.kind, **values})

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Accounts":
        """Read what `to_json` wrote, but for the kind. Raises ValueError, KeyError or TypeError for anything else."""
        return cls(
            accounts=tuple(_account(account) for account in values.pop("accounts")),
            databases=tuple(values.pop("databases")),
            **values,
        )


def _account(values: dict[str, Any]) -> Account:
    methods: Sequence[dict[str, str]] = values.pop("methods")
    return Account(
        methods=tuple(Method(plugin=one["plugin"], verifier=Secret(one["verifier"])) for one in methods),
        opens=tuple(values.pop("opens")),
        **values,
    )
