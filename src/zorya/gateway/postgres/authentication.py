"""Proving who a client is while its engine is stopped: the engine's part, played with what it knew when it stopped.

Nothing here tells more than PostgreSQL would. A role that does not exist, has no password, or an expired or unreadable
one, is asked for a proof like any other and refused like a wrong one. Only who has proved itself learns of what else is
in the way. The order and the words are those of PostgreSQL's src/backend/libpq/auth.c (ClientAuthentication,
CheckPWChallengeAuth) and src/backend/utils/init (InitializeSessionUserId, InitPostgres, CheckMyDatabase).

Privileges are not known here, and are left to the engine. Pure but for nonces and salts.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from zorya.core import errors
from zorya.core.identity import Identities, Role
from zorya.core.model import Secret
from zorya.engines.postgres import configuration
from zorya.gateway.postgres import messages, pgwire, scram
from zorya.gateway.postgres.messages import Request
from zorya.gateway.postgres.pgwire import Refusal, Sqlstate, negotiate

__all__ = ["Authentication", "Md5Proof", "Proof", "ScramProof", "md5_response", "negotiate"]

MAX_NAME_BYTES = 63
"""NAMEDATALEN - 1."""

MAX_SASL_BYTES = 1024
"""PG_MAX_SASL_MESSAGE_LENGTH of auth-sasl.c."""

MAX_PASSWORD_BYTES = 65535
"""PG_MAX_AUTH_TOKEN_LENGTH of src/include/libpq/auth.h."""

_INVALID_DATABASE = -2
"""DATCONNLIMIT_INVALID_DB: the mark of a database whose removal was interrupted."""

_MD5_SALT_BYTES = 4
_MD5_VERIFIER = re.compile("md5[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScramProof:
    """What a login with SCRAM leaves: enough to log in again as the client, though not its password."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    """With it one recognises the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Md5Proof:
    """A login with md5 succeeded; the verifier itself is all that it takes to log in again."""

    verifier: Secret


Proof = ScramProof | Md5Proof


class Authentication:
    """One client's login. Send what `begin` answers, then what `receive` answers, until there is an `outcome`.

    If that is a Refusal, the client is to be sent its ErrorResponse after everything else, and is cut off; that
    message is not among what is answered here. With a Proof it waits for AuthenticationOk and for all that an engine
    sends with it: see `engine_login.EngineLogin`.
    """

    def __init__(
        self,
        startup: pgwire.Startup,
        identities: Identities,
        *,
        address: str,
        now: datetime,
        end_point_hash: bytes | None,
    ) -> None:
        """`address` is the client's, for messages. `end_point_hash` is that of the server's certificate
        (tls-server-end-point, RFC 5929), and None if and only if the client came without TLS.
        """
        self.user = _cut(startup.parameters["user"])
        """The role, as PostgreSQL understands the name."""
        self.database = _cut(startup.parameters.get("database") or startup.parameters["user"])
        self.outcome: Proof | Refusal | None = None
        self._is_replication = _is_true(startup.parameters.get("replication", ""))
        self._identities = identities
        self._address = address
        self._end_point_hash = end_point_hash
        self._role = identities.roles.get(self.user)
        self._method: _Scram | _Md5 = self._choose_method(now)
        self._violation = ""

    def begin(self) -> bytes:
        """Answer what to send first. Settles the outcome when the client may not even try."""
        self.outcome = self._reject()
        return b"" if self.outcome is not None else self._method.begin()

    def receive(self, data: bytes) -> bytes:
        """Take what the client sent after `begin`, in any chunking, and answer what to send.

        Raises ProtocolViolation for what is no answer to what was asked, for more than was asked, and from then on.
        """
        if self.outcome is not None and data:
            self._violation = "received bytes from a client that waits for the server"
        if self._violation:
            raise errors.ProtocolViolation(self._violation)
        if self.outcome is not None:
            return b""
        try:
            to_client, result = self._method.receive(data)
        except errors.ProtocolViolation as violation:
            self._violation = violation.message
            raise
        forbidden = self._forbid() if isinstance(result, Proof) else None
        self.outcome = forbidden or result
        return to_client + messages.request(Request.OK) if forbidden is not None else to_client

    def _choose_method(self, now: datetime) -> "_Scram | _Md5":
        """A client that has no chance is asked for SCRAM, as the engine does whose `password_encryption` is that."""
        wrong = _refusal(Sqlstate.INVALID_PASSWORD, f'password authentication failed for user "{self.user}"')
        usable = _usable_verifier(self._role, now)
        if usable is not None and _MD5_VERIFIER.fullmatch(usable.value):
            return _Md5(usable, wrong)
        # Made up for everybody, and read for everybody, so that nothing takes longer for one than for another.
        mock = scram.mock_verifier(_to_bytes(self.user), self._identities.mock_nonce)
        verifier = scram.parse_verifier(usable.value if usable is not None else mock)
        chosen = verifier or scram.parse_verifier(mock)
        assert chosen is not None
        exchange = scram.ServerExchange(
            chosen, is_doomed=usable is None or verifier is None, end_point_hash=self._end_point_hash
        )
        return _Scram(exchange, chosen.server_key, wrong, offers_binding=self._end_point_hash is not None)

    def _reject(self) -> Refusal | None:
        """Do what pg_hba.conf does (`engines.postgres.configuration.render_access`) before anything is asked."""
        encryption = "no encryption" if self._end_point_hash is None else "SSL encryption"
        whose = f'host "{self._address}", user "{self.user}"'
        if self._is_replication:
            message = f"no pg_hba.conf entry for replication connection from {whose}, {encryption}"
        elif self.user == configuration.ADMIN:
            message = f'pg_hba.conf rejects connection for {whose}, database "{self.database}", {encryption}'
        else:
            return None
        return _refusal(Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION, message)

    def _forbid(self) -> Refusal | None:
        """Answer why a client that is who it says may have no session all the same."""
        role = self._role
        assert role is not None
        if not role.may_log_in:
            return _refusal(
                Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION, f'role "{self.user}" is not permitted to log in'
            )
        if role.connection_limit == 0 and not role.is_superuser:
            return _refusal(Sqlstate.TOO_MANY_CONNECTIONS, f'too many connections for role "{self.user}"')
        database = self._identities.databases.get(self.database)
        if database is None:
            return _refusal(Sqlstate.INVALID_CATALOG_NAME, f'database "{self.database}" does not exist')
        if database.connection_limit == _INVALID_DATABASE:
            return _refusal(
                Sqlstate.OBJECT_NOT_IN_PREREQUISITE_STATE,
                f'cannot connect to invalid database "{self.database}"',
                "Use DROP DATABASE to drop invalid databases.",
            )
        if not database.allows_connections:
            return _refusal(
                Sqlstate.OBJECT_NOT_IN_PREREQUISITE_STATE,
                f'database "{self.database}" is not currently accepting connections',
            )
        if database.connection_limit == 0 and not role.is_superuser:
            return _refusal(Sqlstate.TOO_MANY_CONNECTIONS, f'too many connections for database "{self.database}"')
        return None


def md5_response(verifier: Secret, salt: bytes) -> bytes:
    """Answer the PasswordMessage's text for AuthenticationMD5Password: the verifier's digits and the salt, hashed."""
    return b"md5" + hashlib.md5(_to_bytes(verifier.value[3:]) + salt, usedforsecurity=False).hexdigest().encode()


class _Scram:
    """CheckSASLAuth of auth-sasl.c."""

    def __init__(
        self, exchange: scram.ServerExchange, server_key: bytes, wrong: Refusal, *, offers_binding: bool
    ) -> None:
        self._exchange = exchange
        self._server_key = server_key
        self._wrong = wrong
        self._offered = [messages.SCRAM_PLUS, messages.SCRAM] if offers_binding else [messages.SCRAM]
        self._framer = messages.ResponseFramer(kind="SASL", max_bytes=MAX_SASL_BYTES)
        self._chosen = b""
        self._is_challenged = False

    def begin(self) -> bytes:
        return messages.request(Request.SASL, b"\0".join([*self._offered, b"", b""]))

    def receive(self, data: bytes) -> tuple[bytes, Proof | Refusal | None]:
        body = self._framer.receive(data)
        if body is None:
            return b"", None
        if self._is_challenged:
            return self._judge(body)
        if not self._chosen:
            first = self._choose(body)
            if first is None:
                return messages.request(Request.SASL_CONTINUE), None
            body = first
        challenge = self._exchange.challenge(body, is_bound=self._chosen == messages.SCRAM_PLUS)
        if isinstance(challenge, Refusal):
            return b"", challenge
        self._is_challenged = True
        return messages.request(Request.SASL_CONTINUE, challenge), None

    def _choose(self, body: bytes) -> bytes | None:
        """Read SASLInitialResponse: the mechanism, and the first message if the client did not keep it for later."""
        mechanism, zero, rest = body.partition(b"\0")
        if not zero:
            raise errors.ProtocolViolation("invalid string in message")
        if mechanism not in self._offered:
            raise errors.ProtocolViolation("client selected an invalid SASL authentication mechanism")
        self._chosen = mechanism
        length = int.from_bytes(rest[:4], signed=True)
        if len(rest) < 4 or length < -1 or len(rest) < 4 + length:
            raise errors.ProtocolViolation("insufficient data left in message")
        if len(rest) > 4 + max(length, 0):
            raise errors.ProtocolViolation("invalid message format")
        return None if length == -1 else rest[4:]

    def _judge(self, body: bytes) -> tuple[bytes, Proof | Refusal | None]:
        verified = self._exchange.verify(body)
        if verified is None:
            return b"", self._wrong
        if isinstance(verified, Refusal):
            return b"", verified
        client_key, server_final = verified
        proof = ScramProof(client_key=client_key, server_key=self._server_key)
        return messages.request(Request.SASL_FINAL, server_final), proof


class _Md5:
    """CheckMD5Auth of auth.c."""

    def __init__(self, verifier: Secret, wrong: Refusal) -> None:
        self._verifier = verifier
        self._wrong = wrong
        self._salt = secrets.token_bytes(_MD5_SALT_BYTES)
        self._framer = messages.ResponseFramer(kind="password", max_bytes=MAX_PASSWORD_BYTES)

    def begin(self) -> bytes:
        return messages.request(Request.MD5_PASSWORD, self._salt)

    def receive(self, data: bytes) -> tuple[bytes, Proof | Refusal | None]:
        body = self._framer.receive(data)
        if body is None:
            return b"", None
        if not body or body.find(b"\0") != len(body) - 1:
            raise errors.ProtocolViolation("invalid password packet size")
        if body == b"\0":
            return b"", _refusal(Sqlstate.INVALID_PASSWORD, "empty password returned by client")
        is_proved = hmac.compare_digest(body[:-1], md5_response(self._verifier, self._salt))
        return b"", Md5Proof(verifier=self._verifier) if is_proved else self._wrong


def _usable_verifier(role: Role | None, now: datetime) -> Secret | None:
    """get_role_password of crypt.c."""
    if role is None or (role.valid_until is not None and role.valid_until < now):
        return None
    return role.verifier


def _refusal(sqlstate: Sqlstate, message: str, hint: str = "") -> Refusal:
    return Refusal(sqlstate=sqlstate, message=message, hint=hint)


def _to_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _cut(name: str) -> str:
    """Cut a name as ProcessStartupPacket does: by bytes, be it within a letter."""
    return _to_bytes(name)[:MAX_NAME_BYTES].decode("utf-8", "surrogateescape")


def _is_true(text: str) -> bool:
    """Whether PostgreSQL's parse_bool takes it for true: any beginning of "true" or "yes", in any case; "on"; "1"."""
    lower = text.lower()
    return bool(lower) and ("true".startswith(lower) or "yes".startswith(lower) or lower in ("on", "1"))
