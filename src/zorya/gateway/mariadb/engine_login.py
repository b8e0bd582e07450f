"""Logging in to a real engine for a client that the gateway has greeted. Pure: the engine's packets in, two ways out.

The engine authenticates as always; nothing in it has to trust the gateway but for the client's address. For a client
that has proved who it is the gateway answers the engine's challenge. Any other is made to answer it itself: the engine
is told of a plugin that it does not know, so that it asks for the right one, and what it and the client then say to
each other is passed on until it has decided.
"""

import hashlib
from dataclasses import dataclass, replace

from zorya.core import errors
from zorya.gateway.mariadb import refusals, wire
from zorya.gateway.mariadb.authentication import Proved, native_token
from zorya.gateway.mariadb.wire import NATIVE, Capability, Greeting, Packet, Response

UNKNOWN_PLUGIN = b"zorya_unverified"
"""No plugin of an engine's has this name."""

_SHA256_BYTES = 32
_SEAL_VERSION = b"\1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What follows from a packet of the engine's."""

    to_engine: bytes = b""
    """Packets to send to it."""
    to_client: bytes | None = None
    """The body of a packet to send to the client."""
    starts_tls: bool = False
    """Whether TLS begins once the engine has been sent that; then call `secured`."""
    is_last: bool = False
    """Whether the start has ended: with OK, or with an error, after which the engine closes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """What binds a login to the certificate that the client was shown: see `reseal`."""

    scramble: bytes
    """The one that the client was greeted with."""
    fingerprint: bytes
    """SHA-256 of the gateway's certificate."""


class EngineLogin:
    """One login. Carry what `receive` answers until the last step, and the client's answers as `answer` says."""

    def __init__(self, response: Response, proof: Proved | None, *, over_tls: bool, seal: Seal | None) -> None:
        """`proof` is None for a client that the engine has to ask itself; `over_tls` whether the client's TLS, if the
        engine does any, is to be seen by the engine as well. `seal` is of such clients alone.
        """
        self._response = response
        self._proof = proof
        self._over_tls = over_tls
        self._seal = seal
        self._greeting: Greeting | None = None
        self._number = 0

    def receive(self, packet: Packet) -> Step:
        """Take the engine's next packet. Raises EngineProblem for one that does not belong to the protocol.

        An engine that turns the login down does so with an error for the client.
        """
        if packet.number != self._number:
            raise errors.EngineProblem("The engine sends packets out of order.")
        self._count()
        if packet.kind == wire.ERROR:
            return Step(to_client=packet.body, is_last=True)
        if self._greeting is None:
            return self._greet(packet.body)
        if packet.kind == wire.OK:
            return Step(to_client=self._sealed(packet.body), is_last=True)
        if packet.kind == wire.SWITCH and self._proof is not None:
            plugin, data = wire.parse_switch(packet.body)
            if plugin.lower() == NATIVE:
                scramble = data.removesuffix(b"\0")
                return Step(to_engine=self._next(native_token(self._proof.key, self._proof.salt, scramble)))
        if packet.kind == wire.SWITCH and not self._response.has(Capability.PLUGIN_AUTH):
            return Step(to_client=wire.error_body(refusals.TOO_OLD, self._response.charset), is_last=True)
        return Step(to_client=packet.body)

    def secured(self) -> bytes:
        """Answer what to send once there is TLS."""
        return self._respond(over_tls=True)

    def answer(self, body: bytes) -> bytes:
        """Answer the packet to send to the engine for what the client answers it."""
        return self._next(body)

    def _greet(self, body: bytes) -> Step:
        self._greeting = Greeting.from_body(body)
        if self._over_tls and self._greeting.capabilities & Capability.SSL:
            return Step(to_engine=self._next(self._told(over_tls=True).beginning()), starts_tls=True)
        return Step(to_engine=self._respond(over_tls=False))

    def _respond(self, *, over_tls: bool) -> bytes:
        told = self._told(over_tls=over_tls)
        if self._proof is None:
            return self._next(replace(told, token=b"", plugin=UNKNOWN_PLUGIN).to_body())
        assert self._greeting is not None
        token = native_token(self._proof.key, self._proof.salt, self._greeting.scramble)
        return self._next(replace(told, token=token, plugin=NATIVE.encode()).to_body())

    def _told(self, *, over_tls: bool) -> Response:
        assert self._greeting is not None
        return self._response.for_engine(self._greeting.capabilities, over_tls=over_tls)

    def _sealed(self, body: bytes) -> bytes:
        if self._seal is None or self._proof is None:
            return body
        return reseal(body, self._seal, self._proof.salt, self._response)

    def _next(self, body: bytes) -> bytes:
        sent = wire.packet(self._number, body)
        self._count()
        return sent

    def _count(self) -> None:
        self._number = (self._number + 1) & wire.MAX_PACKET_NUMBER


def reseal(body: bytes, seal: Seal, salt: bytes, response: Response) -> bytes:
    """Answer an OK packet that binds the login to the gateway's certificate, if it bound it to the engine's.

    MariaDB 11.4 and newer let a client verify a certificate without knowing its issuer: the message of OK is the digest
    of the password's hash, the scramble and the certificate's SHA-256 (make_ssl_info of sql/sql_acl.cc). The client has
    seen the gateway's certificate and scramble; the password's hash is known to who has verified it.
    """
    fields = wire.OkFields.parse(body, response.has(Capability.SESSION_TRACK))
    if fields is None or not fields.message.startswith(_SEAL_VERSION) or not salt:
        return body
    digest = hashlib.sha256(salt + seal.scramble + seal.fingerprint).hexdigest().upper().encode()
    if len(seal.fingerprint) != _SHA256_BYTES or len(fields.message) != len(_SEAL_VERSION) + len(digest):
        return body
    # Of the same length, so that nothing else in the packet changes.
    return fields.before + _SEAL_VERSION + digest + fields.behind
