"""What MariaDB keeps of passwords for the plugin mysql_native_password, made here so that it need not be told one.

Form: `*` and 40 hexadecimal digits, SHA1(SHA1(password)) (Knowledge Base, "Authentication
Plugin - mysql_native_password").
It has no salt: the same password has the same verifier.
"""

import hashlib
import re

from zorya.core.model import Secret

_VERIFIER = re.compile(r"\*[0-9A-F]{40}")


def new(password: Secret) -> Secret:
    """Answer the verifier for the password, which is UTF-8."""
    once = hashlib.sha1(password.value.encode(), usedforsecurity=False).digest()
    return Secret("*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper())


def check(verifier: Secret) -> None:
    """Raise ValueError when it is no verifier. One that is can stand in an SQL literal, and on a line."""
    if not _VERIFIER.fullmatch(verifier.value):
        raise ValueError("not a mysql_native_password verifier")
