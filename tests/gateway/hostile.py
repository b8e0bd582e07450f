"""What no bytes may do to a parser that sees them before anybody has proved anything.

Each `try_` function takes any bytes, tries one parser with them, and fails unless the only error is the documented one
and no more is kept than was promised. The tests feed them with hypothesis, `fuzz/` with a fuzzer that follows coverage.

For a conversation the bytes are a script: what is sent at each turn, which may be what is right, or nearly. Without
that nothing would ever get past the first message.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime

from zorya.core import errors
from zorya.core.identity import Database, Identities, Role
from zorya.core.model import Secret
from zorya.gateway import client_hello
from zorya.gateway.postgres import authentication, messages, naming, pgwire
from zorya.gateway.postgres.authentication import (
    MAX_PASSWORD_BYTES,
    MAX_SASL_BYTES,
    Authentication,
    Md5Proof,
    ScramProof,
)
from zorya.gateway.postgres.engine_login import MAX_REQUEST_BYTES, EngineLogin
from zorya.gateway.postgres.messages import Request

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SALT = b"0123456789abcdef"
END_POINT_HASH = hashlib.sha256(b"certificate").digest()
UNBOUND = b"n,,"
BOUND = b"p=tls-server-end-point,,"


def make_keys(password: bytes, salt: bytes = SALT, iterations: int = 1) -> tuple[bytes, bytes, bytes]:
    """Answer the client's key, the stored key and the server's key."""
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    client_key, server_key = (hmac.digest(salted, label, "sha256") for label in (b"Client Key", b"Server Key"))
    return client_key, hashlib.sha256(client_key).digest(), server_key


def make_verifier(password: bytes, salt: bytes = SALT, iterations: int = 1) -> Secret:
    _, stored_key, server_key = make_keys(password, salt, iterations)
    salt_, stored, server = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return Secret(f"SCRAM-SHA-256${iterations}:{salt_}${stored}:{server}")


def make_role(verifier: Secret | None, *, valid_until: datetime | None = None, may_log_in: bool = True) -> Role:
    return Role(
        verifier=verifier, may_log_in=may_log_in, is_superuser=False, connection_limit=-1, valid_until=valid_until
    )


CLIENT_KEY, STORED_KEY, SERVER_KEY = make_keys(b"right")
SCRAM_PROOF = ScramProof(client_key=CLIENT_KEY, server_key=SERVER_KEY)
MD5_VERIFIER = Secret("md5" + hashlib.md5(b"rightold").hexdigest())
MD5_PROOF = Md5Proof(verifier=MD5_VERIFIER)

IDENTITIES = Identities(
    roles={
        "ann": make_role(make_verifier(b"right")),
        "old": make_role(MD5_VERIFIER),
        "bare": make_role(None),
        "expired": make_role(make_verifier(b"right"), valid_until=datetime(2025, 1, 1, tzinfo=UTC)),
        "broken": make_role(Secret("SCRAM-SHA-256$nothing")),
    },
    databases={"shop": Database(allows_connections=True, connection_limit=-1)},
    mock_nonce=bytes(range(32)),
)
USERS = ("ann", "old", "bare", "expired", "broken", "nobody")


def begin(
    user: str = "ann",
    database: str = "shop",
    *,
    end_point_hash: bytes | None = None,
    identities: Identities = IDENTITIES,
    **more: str,
) -> Authentication:
    """Answer a login that nothing has been sent for."""
    return Authentication(
        read_startup(naming.build_startup((3, 0), {"user": user, "database": database, **more})),
        identities,
        address="192.0.2.1",
        now=NOW,
        end_point_hash=end_point_hash,
    )


def read_startup(raw: bytes) -> pgwire.Startup:
    framer = pgwire.StartupFramer()
    framer.receive(raw)
    event = framer.next_event()
    assert isinstance(event, pgwire.Startup)
    return event


class Client:
    """Knows the right password, and what is to be said when."""

    def __init__(self, binding: bytes = UNBOUND, client_key: bytes = CLIENT_KEY) -> None:
        self.binding = binding
        self.client_key = client_key
        self.bare = b"n=,r=nonce"
        self.extensions = b""

    def answer(self, request: bytes) -> bytes:
        """Answer what is due after this message; empty if nothing is."""
        code, data = Request(int.from_bytes(request[5:9])), request[9:]
        if code == Request.MD5_PASSWORD:
            return messages.response(authentication.md5_response(MD5_VERIFIER, data) + b"\0")
        if code == Request.SASL:
            mechanism = messages.SCRAM_PLUS if self.binding == BOUND else messages.SCRAM
            return messages.first_sasl_response(mechanism, self.binding + self.bare)
        if code == Request.SASL_CONTINUE:
            return messages.response(self.prove(data) if data else self.binding + self.bare)
        return b""

    def prove(self, challenge: bytes) -> bytes:
        """Answer the client-final-message."""
        bound = self.binding + (END_POINT_HASH if self.binding == BOUND else b"")
        unproved = b"c=%b,%b%b" % (base64.b64encode(bound), challenge.partition(b",")[0], self.extensions)
        signed = b",".join([self.bare, challenge, unproved])
        stored_key = hashlib.sha256(self.client_key).digest()
        signature = hmac.digest(stored_key, signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(self.client_key, signature, strict=True))
        return unproved + b",p=" + base64.b64encode(proof)


class Engine:
    """Lets in whoever Authentication lets in, and says what an engine says then."""

    SESSION = messages.request(Request.OK) + b"S\0\0\0\x09a\0bc\0" + b"K\0\0\0\x0c12345678" + b"Z\0\0\0\5I"

    def __init__(self, user: str = "ann", identities: Identities = IDENTITIES) -> None:
        self._login = begin(user, identities=identities)

    def answer(self, data: bytes) -> bytes:
        """Answer what it says to this; the first is the startup packet, which is not looked at."""
        if self._has_ended():
            return b""
        try:
            said = self._login.receive(data) if data[:1] == b"p" else self._login.begin()
        except errors.ProtocolViolation as violation:
            return pgwire.error_response(
                pgwire.Refusal(sqlstate=pgwire.Sqlstate.PROTOCOL_VIOLATION, message=violation.message, hint="")
            )
        if isinstance(self._login.outcome, pgwire.Refusal):
            return said + pgwire.error_response(self._login.outcome)
        return said + self.SESSION if self._has_ended() else said

    def _has_ended(self) -> bool:
        return self._login.outcome is not None


def try_authentication(data: bytes) -> None:
    script = iter(data)
    user, has_tls, is_bound = USERS[_take(script) % len(USERS)], _take(script) % 2, _take(script) % 2
    login = begin(user, end_point_hash=END_POINT_HASH if has_tls else None)
    client = Client(BOUND if is_bound else UNBOUND)
    right = client.answer(login.begin())
    most = MAX_PASSWORD_BYTES if user == "old" else MAX_SASL_BYTES
    while (piece := _next_piece(right, script)) is not None:
        try:
            right = client.answer(login.receive(piece)) or right
        except errors.ProtocolViolation:
            break
        finally:
            assert len(login._method._framer._buffer) <= 1 + most
    if isinstance(login.outcome, ScramProof):
        assert (user, login.outcome) == ("ann", SCRAM_PROOF)
    elif isinstance(login.outcome, Md5Proof):
        assert user == "old"


def try_engine_login(data: bytes) -> None:
    script = iter(data)
    is_md5 = _take(script) % 2
    login = EngineLogin(b"startup", "ann", MD5_PROOF if is_md5 else SCRAM_PROOF)
    engine = Engine("old" if is_md5 else "ann")
    right, sent, kept = engine.answer(login.begin()), 0, 0
    while (piece := _next_piece(right, script)) is not None:
        try:
            was_over = login.is_over
            to_engine, to_client = login.receive(piece)
        except errors.EngineProblem:
            break
        assert len(login._buffer) <= MAX_REQUEST_BYTES
        assert not was_over or (to_engine, to_client) == (b"", piece)
        sent, kept = sent + len(piece), kept + len(to_client)
        assert kept <= sent
        right = engine.answer(to_engine) if to_engine else right


def try_startup_framer(data: bytes) -> None:
    script = iter(data)
    framer = pgwire.StartupFramer()
    right = naming.build_startup((3, 0), {"user": "ann", "options": "-c a=b"})
    while (piece := _next_piece(right, script)) is not None:
        before = len(framer.buffered)
        framer.receive(piece)
        try:
            while event := framer.next_event():
                if isinstance(event, pgwire.Startup):
                    try_startup(event)
                if isinstance(event, pgwire.Opening):
                    return
        except errors.ProtocolViolation:
            return
        assert len(framer.buffered) <= min(pgwire.MAX_PACKET_BYTES, before + len(piece))


def try_startup(event: pgwire.Startup) -> None:
    """Try all that is done with a startup packet before there is a proof."""
    for major in (17, 18):
        to_client, accepted = authentication.negotiate(event, major)
        assert read_startup(accepted.raw) == accepted
        assert authentication.negotiate(accepted, major) == (b"", accepted)
        assert to_client[:1] in (b"", b"v")
    login = Authentication(event, IDENTITIES, address="192.0.2.1", now=NOW, end_point_hash=None)
    login.begin()
    if isinstance(login.outcome, pgwire.Refusal):
        pgwire.error_response(login.outcome)


def try_client_hello(data: bytes) -> None:
    """The first byte says how long the pieces are; if it is odd the rest is what comes in a hello after its session."""
    size, body = 1 + (data[0] if data else 0), data[1:]
    if size % 2 == 0:
        hello = b"\3\3" + bytes(33) + body
        message = b"\1" + len(hello).to_bytes(3) + hello
        body = b"\x16\3\1" + len(message).to_bytes(2) + message
    framer = client_hello.ClientHelloFramer()
    for at in range(0, len(body), size):
        try:
            if framer.receive(body[at : at + size]) is not None:
                return
        except errors.ProtocolViolation:
            return


def try_naming(data: bytes) -> None:
    """The bytes are the parameters `options`, `database` and `zorya.cluster`, with \\xff between them."""
    names = (b"options", b"database", b"zorya.cluster")
    told = [
        name + b"\0" + text.replace(b"\0", b"") + b"\0" for name, text in zip(names, data.split(b"\xff"), strict=False)
    ]
    body = (3 << 16).to_bytes(4) + b"user\0ann\0" + b"".join(told) + b"\0"
    named = naming.by_startup(read_startup((4 + len(body)).to_bytes(4) + body))
    if isinstance(named, naming.Named):
        assert read_startup(named.startup.raw) == named.startup
    elif named is not None:
        pgwire.error_response(named)


def _take(script: Iterator[int]) -> int:
    return next(script, 0)


def _next_piece(right: bytes, script: Iterator[int]) -> bytes | None:
    """Answer what to send next, given what would be right; None at the end of the script."""
    match next(script, None):
        case None:
            return None
        case step if step % 5 == 0:
            return bytes(_take(script) for _ in range(_take(script)))
        case step if step % 5 == 1:
            return messages.message(bytes([_take(script)]), bytes(_take(script) for _ in range(_take(script))))
        case step if step % 5 == 2 and right:
            at = _take(script) % len(right)
            return right[:at] + bytes([_take(script)]) + right[at + 1 :]
        case step if step % 5 == 3:
            return right[: _take(script)]
    return right
