"""Which cluster a client of the shared port means: by the host name it asks for in TLS, or by its user's name. Pure.

The user is written `USER@CLUSTER`. What stands before the last `@` is the user that the engine is told.
"""

from dataclasses import dataclass, replace

from zorya.core import errors, ids
from zorya.gateway.mariadb.wire import Response


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A client that says which cluster it wants."""

    cluster: str
    """In its stored, lower-case form. A cluster can have this name, which does not mean that there is one."""
    response: Response
    """What the engine is told: without the cluster's name."""


def by_server_name(name: str | None, domain: str) -> str | None:
    """Answer the cluster that a host name stands for: that of the one label in front of `domain`, in any case.

    None stands for every other name; the client may yet say with its user which cluster it means.
    """
    label, dot, rest = (name or "").removesuffix(".").partition(".")
    return _parse(label) if dot and rest.lower() == domain.lower() else None


def by_user(response: Response) -> Named | None:
    """Answer the cluster that the user's name ends in. None if it names none, or one that no cluster can have.

    Raises nothing.
    """
    user, at, last = response.user.rpartition(b"@")
    cluster = _parse(last.decode("ascii", "replace")) if at else None
    return Named(cluster=cluster, response=replace(response, user=user)) if cluster is not None else None


def _parse(text: str) -> str | None:
    try:
        return ids.parse_name(text)
    except errors.InvalidName:
        return None
