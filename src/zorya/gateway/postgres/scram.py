"""SCRAM-SHA-256 as PostgreSQL speaks it (RFC 5802 and 7677), either side. Pure but for nonces.

The rules are those of src/backend/libpq/auth-scram.c, error for error: the user name within SCRAM is ignored, libpq
leaves it empty; salts and iteration counts are whatever a verifier has. The library `scramp` refuses an empty name,
salts of less than 12 bytes and less than 4096 iterations, turns a client that chose SCRAM-SHA-256 over to channel
binding by itself, tells an unknown user from a wrong password, and keeps the client's key to itself. So it cannot serve
here; the tests have it as the other side.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from zorya.core import errors
from zorya.gateway.postgres.pgwire import Refusal, Sqlstate

KEY_BYTES = 32
MOCK_ITERATIONS = 4096
_MOCK_SALT_BYTES = 16
_NONCE_BYTES = 18
_MAX_ITERATIONS = 2**31 - 1
_END_POINT = b"p=tls-server-end-point"

_MALFORMED = "malformed SCRAM message"

# A value may hold anything but a comma; a comma may also end the message. After "p=" PostgreSQL reads no further.
_CLIENT_FIRST_BARE = re.compile(rb"n=[^,]*,r=(?P<nonce>[^,]*)(?:,[A-Za-z]=[^,]*)*,?")
_CLIENT_FINAL = re.compile(
    rb"(?P<unproved>c=(?P<binding>[^,]*),r=(?P<nonce>[^,]*)(?:,(?!p)[A-Za-z]=[^,]*)*),p=(?P<proof>[^,]*),?"
)
_SERVER_FIRST = re.compile(rb"r=(?P<nonce>[\x21-\x2b\x2d-\x7e]+),s=[A-Za-z0-9+/=]+,i=[0-9]+(?:,[A-Za-z]=[^,]*)*")
_SERVER_FINAL = re.compile(rb"v=(?P<signature>[A-Za-z0-9+/=]+)(?:,[A-Za-z]=[^,]*)*")
_NONCE = re.compile(rb"[\x21-\x2b\x2d-\x7e]*")
_VERIFIER = re.compile(
    r"SCRAM-SHA-256\$(?P<iterations>[0-9]{1,10}):(?P<salt>[A-Za-z0-9+/=]+)"
    r"\$(?P<stored>[A-Za-z0-9+/=]+):(?P<server>[A-Za-z0-9+/=]+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verifier:
    """What a server knows of a password: enough to check it, not enough to log in with."""

    iterations: int
    salt: bytes
    """In base64, as it stands in the verifier and is sent."""
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def parse_verifier(text: str) -> Verifier | None:
    """Read a `rolpassword`; None when it is no SCRAM verifier."""
    found = _VERIFIER.fullmatch(text)
    if found is None:
        return None
    salt, stored_key, server_key = (_decode(found[name].encode()) for name in ("salt", "stored", "server"))
    iterations = int(found["iterations"])
    if salt is None or stored_key is None or server_key is None or iterations > _MAX_ITERATIONS:
        return None
    if not len(stored_key) == len(server_key) == KEY_BYTES:
        return None
    return Verifier(iterations=iterations, salt=found["salt"].encode(), stored_key=stored_key, server_key=server_key)


def mock_verifier(name: bytes, nonce: bytes) -> str:
    """Answer the verifier that stands in for a role which has none, so that nobody sees that it has none.

    Its salt is the same each time, and the one that the engine makes up (mock_scram_secret). Nobody has the key to it.
    """
    salt = _encode(hashlib.sha256(name + nonce).digest()[:_MOCK_SALT_BYTES]).decode()
    nothing = _encode(bytes(KEY_BYTES)).decode()
    return f"SCRAM-SHA-256${MOCK_ITERATIONS}:{salt}${nothing}:{nothing}"


class ServerExchange:
    """The server's side of one login. Call `challenge`, then `verify`, once each."""

    def __init__(self, verifier: Verifier, *, is_doomed: bool, end_point_hash: bytes | None) -> None:
        """`is_doomed` has it fail whatever the client proves. `end_point_hash` is None where there is no TLS."""
        self._verifier = verifier
        self._is_doomed = is_doomed
        self._end_point_hash = end_point_hash
        self._is_bound = False
        self._binding = b""
        self._client_first_bare = b""
        self._server_first = b""
        self._nonce = b""

    def challenge(self, client_first: bytes, *, is_bound: bool) -> bytes | Refusal:
        """Answer the server-first-message. `is_bound` says that the client chose SCRAM-SHA-256-PLUS.

        Raises ProtocolViolation.
        """
        flag, authzid, bare = _split_client_first(client_first)
        if flag == b"y" and self._end_point_hash is not None and not is_bound:
            return Refusal(
                sqlstate=Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
                message="SCRAM channel binding negotiation error",
                hint="",
            )
        if flag[:1] != b"p" if is_bound else flag not in (b"n", b"y"):
            raise errors.ProtocolViolation(_MALFORMED)
        if is_bound and flag != _END_POINT:
            raise errors.ProtocolViolation("unsupported SCRAM channel-binding type")
        if authzid[:1] == b"a":
            return _not_supported("client uses authorization identity, but it is not supported")
        if bare[:1] == b"m":
            return _not_supported("client requires an unsupported SCRAM extension")
        found = _CLIENT_FIRST_BARE.fullmatch(bare)
        if authzid or found is None:
            raise errors.ProtocolViolation(_MALFORMED)
        if not _NONCE.fullmatch(found["nonce"]):
            raise errors.ProtocolViolation("non-printable characters in SCRAM nonce")
        self._is_bound = is_bound
        self._binding = _encode(flag + b",," + (self._end_point_hash or b"" if is_bound else b""))
        self._client_first_bare = bare
        self._nonce = found["nonce"] + _make_nonce()
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, self._verifier.salt, self._verifier.iterations)
        return self._server_first

    def verify(self, client_final: bytes) -> tuple[bytes, bytes] | Refusal | None:
        """Answer the client's key and the server-final-message; None when the client has not proved itself.

        What is done, and so the time it takes, does not depend on whether the login is doomed. Raises
        ProtocolViolation.
        """
        found = _CLIENT_FINAL.fullmatch(client_final)
        if found is None or b"\0" in client_final:
            raise errors.ProtocolViolation(_MALFORMED)
        if not hmac.compare_digest(found["binding"], self._binding):
            if self._is_bound:
                return Refusal(
                    sqlstate=Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
                    message="SCRAM channel binding check failed",
                    hint="",
                )
            raise errors.ProtocolViolation("unexpected SCRAM channel-binding attribute in client-final-message")
        proof = _decode(found["proof"])
        if proof is None or len(proof) != KEY_BYTES:
            raise errors.ProtocolViolation(_MALFORMED)
        if not hmac.compare_digest(found["nonce"], self._nonce):
            raise errors.ProtocolViolation("invalid SCRAM response")
        exchanged = b",".join([self._client_first_bare, self._server_first, found["unproved"]])
        client_key = _xor(proof, _sign(self._verifier.stored_key, exchanged))
        is_proved = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        if self._is_doomed or not is_proved:
            return None
        return client_key, b"v=" + _encode(_sign(self._verifier.server_key, exchanged))


class ClientExchange:
    """The side of a client that has, in place of the password, the two keys that follow from it.

    Call `first`, then `answer`, then `is_genuine`, once each.
    """

    def __init__(self, *, client_key: bytes, server_key: bytes) -> None:
        self._client_key = client_key
        self._server_key = server_key
        self._nonce = _make_nonce()
        self._bare = b"n=,r=" + self._nonce
        self._exchanged = b""

    def first(self) -> bytes:
        """Answer the client-first-message, without channel binding."""
        return b"n,," + self._bare

    def answer(self, server_first: bytes) -> bytes | None:
        """Answer the client-final-message; None when the server's message is not what it has to be."""
        found = _SERVER_FIRST.fullmatch(server_first)
        if found is None or not found["nonce"].startswith(self._nonce) or found["nonce"] == self._nonce:
            return None
        unproved = b"c=" + _encode(b"n,,") + b",r=" + found["nonce"]
        self._exchanged = b",".join([self._bare, server_first, unproved])
        stored_key = hashlib.sha256(self._client_key).digest()
        return unproved + b",p=" + _encode(_xor(self._client_key, _sign(stored_key, self._exchanged)))

    def is_genuine(self, server_final: bytes) -> bool:
        """Whether the server has proved that it knows the verifier, too."""
        found = _SERVER_FINAL.fullmatch(server_final)
        signature = _decode(found["signature"]) if found is not None else None
        return signature is not None and hmac.compare_digest(signature, _sign(self._server_key, self._exchanged))


def _split_client_first(message: bytes) -> tuple[bytes, bytes, bytes]:
    """Answer the flag of channel binding, the authorization identity, and the rest, which is what is signed."""
    parts = message.split(b",", 2)
    if b"\0" in message or len(parts) != 3:
        raise errors.ProtocolViolation(_MALFORMED)
    return parts[0], parts[1], parts[2]


def _not_supported(message: str) -> Refusal:
    return Refusal(sqlstate=Sqlstate.FEATURE_NOT_SUPPORTED, message=message, hint="")


def _make_nonce() -> bytes:
    return _encode(secrets.token_bytes(_NONCE_BYTES))


def _sign(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _encode(data: bytes) -> bytes:
    return base64.b64encode(data)


def _decode(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
