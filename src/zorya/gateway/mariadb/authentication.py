"""Proving who a client is while its engine is stopped: the engine's part, played with what it knew when it stopped.

The order and the words are those of sql/sql_acl.cc (find_mpvio_user, native_password_authenticate, acl_authenticate)
and of mysql_change_db. A user that does not exist is taken for one whose password is never right: MariaDB, too, goes on
to the end with somebody else's account then. Only who has proved itself learns of what else is in the way.

Passwords are proved by `mysql_native_password` alone; `unix_socket` proves nobody over TCP. Whoever may prove himself
in another way can be told by the engine only. Pure but for scrambles.
"""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field

from zorya.core.accounts import Account, Accounts, Method
from zorya.core.model import Secret
from zorya.gateway.mariadb import hosts, refusals, wire
from zorya.gateway.mariadb.refusals import Refusal
from zorya.gateway.mariadb.wire import NATIVE, Capability, Response

MAX_USER_CHARACTERS = 128
MAX_DATABASE_CHARACTERS = 64

_LOCAL_ONLY = "unix_socket"
_VERIFIER = re.compile(r"\*([0-9A-Fa-f]{40})")
_SYSTEM_DATABASES = frozenset({"mysql", "performance_schema", "sys"})
"""They are there whether or not they were listed; if one is not, the engine will say so."""

_OPEN_TO_ALL = "information_schema"
_NOBODY = Method(plugin=NATIVE, verifier=Secret("nobody"))
"""Of a user that does not exist. No password fits it."""

# As MariaDB's my_rand-based scrambles: printable, and neither the zero byte nor the dollar sign, which some clients
# take for the end.
_LETTERS = [letter for letter in string.printable[:94] if letter != "$"]


def make_scramble() -> bytes:
    """Answer a new challenge, of SCRAMBLE_BYTES letters."""
    return "".join(secrets.choice(_LETTERS) for _ in range(wire.SCRAMBLE_BYTES)).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Proved:
    """The client has proved who it is, and left enough to prove it once more, though not its password."""

    key: bytes = field(repr=False)
    """SHA-1 of the password; empty for the empty password."""
    salt: bytes = field(repr=False)
    """SHA-1 of the key, which the engine knows; empty as well."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unproved:
    """Only the engine can find out who the client is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateNeeded:
    """The client has proved who it is, but the engine itself has to see its certificate."""


Outcome = Proved | Unproved | CertificateNeeded | Refusal


class Authentication:
    """One client's login. Send what `begin` answers, then what `receive` answers, until there is an `outcome`.

    If that is a Refusal, the client is to be sent it; in all other cases it waits for OK or for more to prove.
    """

    def __init__(
        self,
        response: Response,
        accounts: Accounts,
        *,
        address: str,
        scramble: bytes,
        is_tls: bool,
        wakes_unverified: bool,
    ) -> None:
        """`scramble` is the one that the client was greeted with, `wakes_unverified` what `wake_unverified` says."""
        self.user = read_user(response)
        """Who the client wants to be, as MariaDB understands the name."""
        self.outcome: Outcome | None = None
        self.has_failed = False
        """Whether the outcome is a refusal for want of a proof."""
        self._response = response
        self._address = address
        self._scramble = scramble
        self._is_tls = is_tls
        self._account = hosts.choose(accounts.accounts, self.user, address)
        self._databases = accounts.databases
        self._methods = self._account.methods if self._account is not None else _disguise(self.user, accounts)
        self._first_plugin = self._methods[0].plugin if self._methods else NATIVE
        is_unknown = any(method.plugin not in (NATIVE, _LOCAL_ONLY) for method in self._methods)
        self._wakes_unverified = wakes_unverified
        self._may_wake_unproved = is_unknown and wakes_unverified

    def begin(self) -> bytes:
        """Answer the body of what to send first; nothing if the client's own first word settles the outcome."""
        response = self._response
        if not response.charset.is_for_clients:
            self.outcome = refusals.wrong_charset(response.charset.name)
        elif self._first_plugin not in (NATIVE, _LOCAL_ONLY) and not response.has(Capability.PLUGIN_AUTH):
            self.outcome = refusals.TOO_OLD
        elif not any(method.plugin == NATIVE for method in self._methods):
            self._fail(used_password=bool(response.token))
        elif self._first_plugin == NATIVE and _names_native(response):
            self._judge(response.token)
        elif self._first_plugin == NATIVE and not response.has(Capability.PLUGIN_AUTH):
            self.outcome = refusals.TOO_OLD
        else:
            # Asked for once more if another method comes first, whatever the client has said already.
            return wire.switch_body(NATIVE, self._scramble + b"\0")
        return b""

    def receive(self, token: bytes) -> None:
        """Take what the client sent after `begin` had something to send. Settles the outcome."""
        self._judge(token)

    def _judge(self, token: bytes) -> None:
        if len(token) not in (0, wire.TOKEN_BYTES):
            self.outcome = refusals.BAD_HANDSHAKE
            return
        proofs = [_verify(one.verifier, token, self._scramble) for one in self._methods if one.plugin == NATIVE]
        proved = next((proof for proof in proofs if proof is not None), None)
        if proved is None or self._account is None:
            self._fail(used_password=bool(token))
        else:
            self.outcome = self._forbid(self._account, used_password=bool(token)) or proved

    def _fail(self, *, used_password: bool) -> None:
        if self._may_wake_unproved:
            self.outcome = Unproved()
        else:
            self.has_failed = True
            self.outcome = refusals.access_denied(self.user, self._address, used_password=used_password)

    def _forbid(self, account: Account, *, used_password: bool) -> Refusal | CertificateNeeded | None:
        """Answer what else is in the way of a client that is who it says."""
        if (account.needs_tls or account.needs_certificate) and not self._is_tls:
            return refusals.access_denied(self.user, self._address, used_password=used_password)
        if account.is_locked:
            return refusals.LOCKED
        forbidden = self._forbid_database(account)
        if forbidden is not None or not account.needs_certificate:
            return forbidden
        if self._wakes_unverified:
            return CertificateNeeded()
        return refusals.access_denied(self.user, self._address, used_password=used_password)

    def _forbid_database(self, account: Account) -> Refusal | None:
        try:
            database = self._response.database.decode(self._response.charset.codec)
        except UnicodeDecodeError:
            return None  # the engine has its own words for that
        if not database or database.lower() == _OPEN_TO_ALL:
            return None
        if len(database) > MAX_DATABASE_CHARACTERS or database.endswith(" "):
            return refusals.incorrect_database(database)
        if not any(hosts.matches(pattern, database) for pattern in account.opens):
            return refusals.database_denied(account.user, account.host, database)
        if database not in self._databases and database not in _SYSTEM_DATABASES:
            return refusals.unknown_database(database)
        return None


def read_user(response: Response) -> str:
    """Answer the name of the user as parse_client_handshake_packet reads it: without quotes around it, and cut."""
    user = response.charset.decode(response.user)
    if len(user) > 1 and user.startswith("'") and user.endswith("'"):
        user = user[1:-1]
    return user[:MAX_USER_CHARACTERS]


def _disguise(user: str, accounts: Accounts) -> tuple[Method, ...]:
    """Answer methods for a user that does not exist: as many as some account's, always the same, and never enough.

    As in find_mpvio_user: else it could be told from what is asked whether there is an account that has several. Of
    what cannot be verified here nothing is left, so that no stranger wakes anything.
    """
    if not accounts.accounts:
        return (_NOBODY,)
    chosen = int.from_bytes(hashlib.sha256(user.encode("utf-8", "surrogateescape")).digest()[:8])
    methods = accounts.accounts[chosen % len(accounts.accounts)].methods
    return tuple(one if one.plugin == _LOCAL_ONLY else _NOBODY for one in methods) or (_NOBODY,)


def native_token(key: bytes, salt: bytes, scramble: bytes) -> bytes:
    """Answer the proof for a challenge; of the empty password it is empty."""
    return _xor(key, hashlib.sha1(scramble + salt, usedforsecurity=False).digest()) if key else b""


def _verify(verifier: Secret, token: bytes, scramble: bytes) -> Proved | None:
    """check_scramble of sql/password.c. Takes as long for one verifier as for another."""
    if not verifier.value:
        return Proved(key=b"", salt=b"") if not token else None
    found = _VERIFIER.fullmatch(verifier.value)
    salt = bytes.fromhex(found[1]) if found else bytes(wire.TOKEN_BYTES)
    mask = hashlib.sha1(scramble + salt, usedforsecurity=False).digest()
    key = _xor(token or bytes(wire.TOKEN_BYTES), mask)
    is_right = hmac.compare_digest(hashlib.sha1(key, usedforsecurity=False).digest(), salt)
    return Proved(key=key, salt=salt) if found and token and is_right else None


def _names_native(response: Response) -> bool:
    """Whether the token is one of `mysql_native_password`."""
    if response.has(Capability.PLUGIN_AUTH):
        return response.plugin.lower() == NATIVE.encode()
    # Of the clients that know no plugins those of before 4.1's passwords can prove only that they have none.
    return response.has(Capability.SECURE_CONNECTION) or not response.token


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
