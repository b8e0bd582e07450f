"""Logging in to a real engine for a client that has proved who it is. Pure: the engine's bytes in, two streams out.

The engine authenticates as always, by SCRAM or md5; nothing in its pg_hba.conf has to trust the gateway. The client has
had its own exchange with the gateway, so it hears nothing of this one, and everything from AuthenticationOk on.
"""

from zorya.core import errors
from zorya.gateway.postgres import messages, scram
from zorya.gateway.postgres.authentication import Proof, ScramProof, md5_response
from zorya.gateway.postgres.messages import HEADER_BYTES, Request

MAX_REQUEST_BYTES = 2000
"""The longest request for authentication that is read: the bound of libpq's PQconnectPoll."""

_REQUEST = b"R"
_ERROR = b"E"
_NOTICE = b"N"
_READY = b"Z"
_LAST = (_ERROR, _READY)


class EngineLogin:
    """One login. Send the engine what `begin` answers, then carry what `receive` answers, until it `is_over`."""

    def __init__(self, startup_packet: bytes, user: str, proof: Proof) -> None:
        """`startup_packet` goes to the engine as it is; the engine must not have to negotiate about it.

        `user` is for messages alone.
        """
        self._startup_packet = startup_packet
        self._user = user
        self._proof = proof
        self._exchange: scram.ClientExchange | None = None
        self._expected = {Request.OK, Request.SASL if isinstance(proof, ScramProof) else Request.MD5_PASSWORD}
        """What the engine may ask or say next; empty when it has let the client in."""
        self._buffer = bytearray()
        self._to_pass = 0
        """How many bytes of the present message are still to go to the client."""
        self._is_last = False
        self.is_over = False
        """Whether the start has ended: with ReadyForQuery, or with an error, after which the engine closes."""

    def begin(self) -> bytes:
        """Answer what to send to the engine first."""
        return self._startup_packet

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """Take what the engine sent, in any chunking; answer what goes to the engine, and what goes to the client.

        An engine that turns the login down does so with an error for the client. Once it is over, all goes to the
        client. Nothing is kept but the beginning of a message whose fate is open, MAX_REQUEST_BYTES at most.

        Raises EngineProblem for what is no message of the protocol, for a request that the proof cannot answer, and for
        an engine that cannot prove that it is the client's. There is no going on after that.
        """
        self._buffer += data
        to_engine, to_client = b"", b""
        while True:
            to_client += self._pass_on()
            answer = None if self.is_over or self._to_pass else self._read()
            if answer is None:
                return to_engine, to_client
            to_engine += answer

    def _pass_on(self) -> bytes:
        passed = self._take(self._to_pass)
        self._to_pass -= len(passed)
        self.is_over = self._is_last and not self._to_pass
        return passed + self._take(len(self._buffer)) if self.is_over else passed

    def _read(self) -> bytes | None:
        """Read as much of the next message as decides its fate. None if that has not come; else what to answer."""
        if len(self._buffer) < HEADER_BYTES:
            return None
        kind = bytes(self._buffer[:1])
        length = int.from_bytes(self._buffer[1:HEADER_BYTES])
        if length < 4:
            raise self._problem("sends what is no message")
        if kind == _REQUEST and self._expected:
            return self._read_request(1 + length)
        if kind not in (_ERROR, _NOTICE) and (self._expected or kind == _REQUEST):
            raise self._problem(f"sends a message of type {kind!r} in place of a request for authentication")
        self._to_pass = 1 + length
        self._is_last = kind in _LAST
        return b""

    def _read_request(self, size: int) -> bytes | None:
        if size > MAX_REQUEST_BYTES:
            raise self._problem("sends a request for authentication that is too long")
        if len(self._buffer) < size:
            return None
        body = bytes(self._buffer[HEADER_BYTES:size])
        code, data = int.from_bytes(body[:4]), body[4:]
        if len(body) < 4 or code not in self._expected:
            raise self._problem(f"asks for authentication in a way that does not fit the client's, number {code}")
        if code == Request.OK:
            self._expected = set()
            self._to_pass = size
            return b""
        self._take(size)
        return self._answer(Request(code), data)

    def _answer(self, request: Request, data: bytes) -> bytes:
        if not isinstance(self._proof, ScramProof):
            self._expected = {Request.OK}
            return messages.response(md5_response(self._proof.verifier, data) + b"\0")
        if request == Request.SASL:
            if messages.SCRAM not in data.split(b"\0"):
                raise self._problem("does not offer SCRAM-SHA-256")
            self._expected = {Request.SASL_CONTINUE}
            self._exchange = scram.ClientExchange(client_key=self._proof.client_key, server_key=self._proof.server_key)
            return messages.first_sasl_response(messages.SCRAM, self._exchange.first())
        assert self._exchange is not None
        if request == Request.SASL_CONTINUE:
            answer = self._exchange.answer(data)
            if answer is None:
                raise self._problem("sends a SCRAM message that does not fit")
            self._expected = {Request.SASL_FINAL}
            return messages.response(answer)
        if not self._exchange.is_genuine(data):
            raise self._problem("does not know the client's password verifier")
        self._expected = {Request.OK}
        return b""

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _problem(self, what: str) -> errors.EngineProblem:
        return errors.EngineProblem(
            f"The engine could not be logged in to as {self._user!r}: it {what}.",
            client_message="the database engine did not take the login",
        )
