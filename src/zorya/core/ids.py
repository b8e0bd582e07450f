"""Names that users choose and identifiers that Zorya makes."""

import re
import secrets

from zorya.core import errors

NAME_RULE = "1 to 63 lower-case letters, digits and single hyphens, starting with a letter and not ending with a hyphen"
RESERVED_NAMES = frozenset({"postgres", "template0", "template1", "mysql", "sys", "information_schema"})

_NAME = re.compile(r"[a-z](?:-?[a-z0-9])*")
_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def parse_name(text: str) -> str:
    """Answer the cluster name in its stored, lower-case form.

    The rule is that of AWS DB cluster identifiers, so that names move between the two unchanged.

    Raises InvalidName with the rule when the text breaks it, or names a database that every engine has itself.
    """
    name = text.lower()
    if len(name) > 63 or not _NAME.fullmatch(name):
        shown = text if len(text) <= 70 else text[:70] + "..."
        raise errors.InvalidName(f"{shown!r} cannot be a cluster name.", hint=f"A name has {NAME_RULE}.")
    if name in RESERVED_NAMES:
        raise errors.InvalidName(
            f"{name!r} cannot be a cluster name: the engine has a database of that name.", hint="Choose another."
        )
    return name


def new_cluster_id() -> str:
    """Answer a fresh identifier of 8 characters (40 bits), short because it is part of Unix socket paths."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


def new_password() -> str:
    """Answer a fresh password of 24 letters and digits (142 bits) that needs no quoting in a URL or in SQL."""
    alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
    return "".join(secrets.choice(alphabet) for _ in range(24))
