"""gateway/startup.py: a client's start is looked at and stays where it is, in whatever pieces it comes."""

import array
import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.fakes import GSS_REQUEST, SSL_REQUEST, cancel_request, eventually, startup
from zorya.core.errors import ProtocolViolation
from zorya.gateway.peek import has_left, says_more, take
from zorya.gateway.postgres import pgwire
from zorya.gateway.postgres.startup import hear

PATIENCE_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The two ends of a client's connection."""

    near: socket.socket
    """The gateway's."""
    far: socket.socket
    """The client's own."""

    @property
    def unread(self) -> int:
        """How many bytes wait at the near end."""
        count = array.array("i", [0])
        fcntl.ioctl(self.near, termios.FIONREAD, count)
        return count[0]

    def take(self) -> bytes:
        """Read all that waits at the near end."""
        return self.near.recv(self.unread) if self.unread else b""

    async def send(self, data: bytes) -> None:
        """Send, and wait until it has arrived."""
        wanted = self.unread + len(data)
        self.far.sendall(data)
        await eventually(lambda: self.unread >= wanted, "the bytes have arrived")


@contextlib.contextmanager
def connection() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname(), timeout=PATIENCE_S)
        near, _ = listener.accept()
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.setblocking(False)
    # Small, so that little pieces fill it soon: each takes a buffer of its own.
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    with near, far:
        yield Ends(near=near, far=far)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with connection() as made:
        yield made


def lowest_mark(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


async def everything_is_seen() -> None:
    """Return when the event loop has dealt with all that had happened before."""
    with connection() as other:
        other.far.sendall(SSL_REQUEST)
        assert await hear(other.near, PATIENCE_S)


async def send_in_pieces(ends: Ends, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        ends.far.sendall(piece)
        await asyncio.sleep(0)


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    marks = [0, *sorted(at % len(data) for at in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(marks) if begin < end]


@settings(max_examples=60)
@given(
    asked=st.sampled_from([b"", GSS_REQUEST]),
    opening=st.one_of(
        st.just(SSL_REQUEST),
        st.text("abc", min_size=1, max_size=200).map(lambda user: startup(user=user)),
        st.binary(min_size=4, max_size=256).map(lambda secret: cancel_request(secret=secret)),
    ),
    behind=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 1000), max_size=12),
)
async def test_all_but_a_request_for_gssapi_encryption_is_left_unread(
    asked: bytes, opening: bytes, behind: bytes, cuts: list[int]
) -> None:
    with connection() as ends:
        hearing = asyncio.create_task(hear(ends.near, PATIENCE_S), name="hear")
        await send_in_pieces(ends, cut(asked + opening + behind, cuts))
        found = await hearing
        if opening == SSL_REQUEST:
            assert isinstance(found, pgwire.SslRequest)
        else:
            assert isinstance(found, pgwire.Startup | pgwire.CancelRequest)
            assert found.raw == opening
        await eventually(lambda: ends.unread == len(opening + behind), "all has arrived")
        assert says_more(ends.near, len(opening)) == bool(behind)
        take(ends.near, len(opening))
        assert ends.take() == behind
        assert ends.far.recv(100) == b"N" if asked else True
        assert lowest_mark(ends.near) == 1


def test_nothing_can_be_taken_that_is_not_there(ends: Ends) -> None:
    ends.far.close()
    with pytest.raises(ConnectionResetError):
        take(ends.near, 1)


@pytest.mark.parametrize("data", [b"", GSS_REQUEST, startup()[:-1], b"\0"])
async def test_nothing_is_wanted_when_the_client_leaves_before_it_has_said_what(ends: Ends, data: bytes) -> None:
    ends.far.sendall(data)
    ends.far.close()
    assert await hear(ends.near, PATIENCE_S) is None


@pytest.mark.parametrize("data", [b"", GSS_REQUEST, startup()[:-1]])
async def test_nothing_is_wanted_when_the_client_takes_too_long(ends: Ends, data: bytes) -> None:
    ends.far.sendall(data)
    assert await hear(ends.near, 0.05) is None
    assert lowest_mark(ends.near) == 1


async def test_what_breaks_the_protocol_is_left_unread_too(ends: Ends) -> None:
    ends.far.sendall(b"GET / HTTP/1.1")
    with pytest.raises(ProtocolViolation):
        await hear(ends.near, PATIENCE_S)
    assert ends.take() == b"GET / HTTP/1.1"


@pytest.mark.parametrize("before", [b"", startup(), bytes(20000)], ids=["nothing", "its startup", "very much"])
@pytest.mark.parametrize("how", ["closes", "resets", "ends its side"])
async def test_client_has_left_when_it_did_so_before_it_was_watched(ends: Ends, how: str, before: bytes) -> None:
    await ends.send(before)
    leave(ends.far, how)
    await asyncio.wait_for(has_left(ends.near), PATIENCE_S)


@pytest.mark.parametrize("pieces", [[], [startup()], [startup(), b"more", b"and more"]], ids=len)
@pytest.mark.parametrize("how", ["closes", "resets", "ends its side"])
async def test_client_has_left_when_it_does_so_with_something_unread(ends: Ends, how: str, pieces: list[bytes]) -> None:
    leaving = asyncio.create_task(has_left(ends.near), name="client leaves")
    for piece in pieces:
        await ends.send(piece)
        await everything_is_seen()
    assert not leaving.done()
    leave(ends.far, how)
    await asyncio.wait_for(leaving, PATIENCE_S)


def leave(far: socket.socket, how: str) -> None:
    if how == "resets":
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "ends its side":
        far.shutdown(socket.SHUT_WR)
    else:
        far.close()


@pytest.mark.parametrize(
    "pieces",
    [[bytes(pgwire.MAX_PACKET_BYTES)], [bytes(5000)] * 5, [b"x"] * 200],
    ids=["as much as is looked at", "more than is looked at", "more pieces than the kernel has room for"],
)
async def test_client_has_not_left_when_it_sends_very_much(ends: Ends, pieces: list[bytes]) -> None:
    leaving = asyncio.create_task(has_left(ends.near), name="client leaves")
    for piece in pieces:
        await ends.send(piece)
    await everything_is_seen()
    assert not leaving.done()
    leaving.cancel()
    await asyncio.wait([leaving])
    assert ends.take() == b"".join(pieces)
    assert lowest_mark(ends.near) == 1
