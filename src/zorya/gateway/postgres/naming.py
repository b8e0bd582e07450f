"""Which cluster a client of the shared port means: by the host name it asks for, or by its startup packet. Pure.

A startup packet may name the cluster in any of these ways:

1. `options=-c zorya.cluster=NAME`, in every way of writing that PostgreSQL has for a setting, or `zorya.cluster` as a
   parameter of the packet itself. PostgreSQL takes it for a setting of an extension that is not there, so it stays.
2. `options=--cluster=NAME` (CockroachDB), with `-c` as well, and `options=endpoint=NAME` (Neon). PostgreSQL ends a
   session that comes with these, so they are taken out.
3. `NAME/database` in place of the database. What follows the first slash is the database.

If a packet gives several names they have to be the same: to pass over one could be to serve the wrong cluster.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from zorya.core import errors, ids
from zorya.gateway.postgres import pgwire

SETTING = "zorya.cluster"

_SPACE = r" \t\n\v\f\r"
_ARGUMENT = re.compile(rf"(?:\\.|\\\Z|[^{_SPACE}\\])+", re.DOTALL)
_ESCAPE = re.compile(r"\\(.?)", re.DOTALL)
_SPECIAL = re.compile(rf"[{_SPACE}\\]")
_MAX_SHOWN = 70

# "-c name=value" without its space, "-cname=value" and "--name=value" are the same to PostgreSQL, in any case.
_OWN = re.compile(r"(?:-c|--)zorya\.cluster=(.*)", re.DOTALL | re.IGNORECASE)
_FOREIGN = re.compile(r"(?:(?:-c|--)cluster|endpoint)=(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A startup packet that says which cluster it is for."""

    cluster: str
    """In its stored, lower-case form. A cluster can have this name, which does not mean that there is one."""
    startup: pgwire.Startup
    """For the engine: the packet as it came, or without what only the gateway understands."""


def by_server_name(name: str | None, domain: str) -> str | None:
    """Answer the cluster that a host name stands for: that of the one label in front of `domain`, in any case.

    None stands for every other name; the client may yet say in its startup packet which cluster it means.
    """
    label, dot, rest = (name or "").removesuffix(".").partition(".")
    return _parse(label) if dot and rest.lower() == domain.lower() else None


def by_startup(startup: pgwire.Startup) -> Named | pgwire.Refusal | None:
    """Answer the cluster that the packet names. None stands for a packet that names none.

    A Refusal is for a packet that names two, and for a name that no cluster can have. Raises nothing.
    """
    arguments = list(_group(split_options(startup.parameters.get("options", ""))))
    names = [value for name, value in startup.parameters.items() if name.lower() == SETTING]
    names += [argument.cluster for argument in arguments if argument.cluster is not None]
    prefix, slash, database = startup.parameters.get("database", "").partition("/")
    if slash:
        names.append(prefix)
    if not names:
        return None
    for name in names:
        if name.lower() != names[0].lower():
            return contradiction(names[0], name)
    cluster = _parse(names[0])
    if cluster is None:
        return no_such_cluster(names[0])
    changes = {}
    if slash:
        changes["database"] = database
    if any(argument.is_foreign for argument in arguments):
        kept = [word for argument in arguments if not argument.is_foreign for word in argument.words]
        changes["options"] = join_options(kept)
    return Named(cluster=cluster, startup=_with(startup, changes) if changes else startup)


def no_such_cluster(name: str) -> pgwire.Refusal:
    """Answer what a client is told that names a cluster which is not there.

    SQLSTATE as for a database that is not there: drivers take it for final and do not try again.
    """
    return pgwire.Refusal(
        sqlstate=pgwire.Sqlstate.INVALID_CATALOG_NAME, message=f'cluster "{_show(name)}" does not exist', hint=""
    )


def contradiction(first: str, second: str) -> pgwire.Refusal:
    """Answer what a client is told that names two clusters; the one may also be that of the host name."""
    return pgwire.Refusal(
        sqlstate=pgwire.Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
        message=f'the connection names two clusters, "{_show(first)}" and "{_show(second)}"',
        hint="Name the cluster once: in the host name, in the options, or before the database.",
    )


def split_options(text: str) -> list[str]:
    """Split `options` into arguments as pg_split_opts does (src/backend/utils/init/postinit.c).

    White space separates them, a backslash takes the special meaning from what follows. One at the very end stands for
    nothing, and if it stands alone for an empty argument.
    """
    return [_ESCAPE.sub(r"\1", word) for word in _ARGUMENT.findall(text)]


def join_options(arguments: Sequence[str]) -> str:
    """Write arguments so that `split_options` answers them again. Only the last one may be empty."""
    return " ".join(_SPECIAL.sub(r"\\\g<0>", argument) or "\\" for argument in arguments)


def build_startup(version: tuple[int, int], parameters: Mapping[str, str]) -> bytes:
    """Answer the startup packet with these parameters, in their order; surrogate escapes become what they stand for."""
    strings = "\0".join(text for parameter in parameters.items() for text in parameter)
    major, minor = version
    body = (major << 16 | minor).to_bytes(4) + strings.encode("utf-8", "surrogateescape") + b"\0\0"
    return (4 + len(body)).to_bytes(4) + body


@dataclass(frozen=True, kw_only=True, slots=True)
class _Argument:
    """One switch of `options`, with its value."""

    words: Sequence[str]
    """The arguments that it is made of: two where the value stands by itself."""
    cluster: str | None
    """The name, if the switch gives one."""
    is_foreign: bool
    """Whether PostgreSQL would choke on it."""


def _group(words: Sequence[str]) -> Iterator[_Argument]:
    rest = list(reversed(words))
    while rest:
        taken = [rest.pop()]
        if taken == ["-c"] and rest:
            taken.append(rest.pop())
        switch = "".join(taken)
        own, foreign = _OWN.fullmatch(switch), _FOREIGN.fullmatch(switch)
        named = own or foreign
        yield _Argument(words=taken, cluster=named[1] if named else None, is_foreign=foreign is not None)


def _with(startup: pgwire.Startup, changes: Mapping[str, str]) -> pgwire.Startup:
    """Answer the packet with other parameters, which are left out where they are empty: they mean the same then."""
    changed = {**startup.parameters, **changes}
    parameters = {name: value for name, value in changed.items() if value or name not in changes}
    return pgwire.Startup(
        version=startup.version, parameters=parameters, raw=build_startup(startup.version, parameters)
    )


def _parse(text: str) -> str | None:
    try:
        return ids.parse_name(text)
    except errors.InvalidName:
        return None


def _show(name: str) -> str:
    """Answer a client's text as something that can be sent back."""
    shown = name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "..."
    return shown.encode("utf-8", "backslashreplace").decode()
