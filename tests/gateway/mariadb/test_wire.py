"""Packets and what the first of them mean, by value and for any bytes in any chunking."""

import codecs
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mariadb.raw_client import USUAL
from zorya.core.errors import EngineProblem, ProtocolViolation
from zorya.gateway.mariadb import charsets, wire
from zorya.gateway.mariadb.refusals import BAD_HANDSHAKE
from zorya.gateway.mariadb.wire import Capability, Greeting, Packet, PacketFramer, Response

OFFERED = 0x1D_81FF_FFFE

# The greeting of MariaDB 10.11.19 with TLS.
RECORDED = (
    b"\n5.5.5-10.11.19-MariaDB-0+deb12u1\0\5\0\0\0DYqPx-ry\0\xfe\xff-\2\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0"
    b"+e>D{_I0R,&w\0mysql_native_password\0"
)

ZERO_FREE = st.binary(max_size=300).map(lambda text: text.replace(b"\0", b"?"))
RESPONSES = st.builds(
    Response,
    capabilities=st.integers(0, 2**37 - 1).map(
        lambda some: some & OFFERED & ~Capability.SSL | Capability.PROTOCOL_41 | Capability.SECURE_CONNECTION
    ),
    max_packet_bytes=st.integers(0, 2**32 - 1),
    collation=st.integers(0, 255),
    user=ZERO_FREE,
    token=st.binary(max_size=250),
    database=ZERO_FREE,
    plugin=ZERO_FREE,
    attributes=st.sampled_from([b"\0", b"\3abc", b"\xfc\0\1" + bytes(256)]),
)


def receive_all(framer: PacketFramer, stream: bytes, sizes: list[int]) -> list[Packet]:
    packets, at = [], 0
    while at < len(stream):
        size = min(sizes.pop() if sizes else framer.wants, framer.wants)
        packet = framer.receive(stream[at : at + size])
        at += size
        if packet is not None:
            packets.append(packet)
    return packets


@given(bodies=st.lists(st.binary(max_size=200), max_size=4), sizes=st.lists(st.integers(1, 50), max_size=300))
def test_packets_arrive_whole_in_any_chunking(bodies: list[bytes], sizes: list[int]) -> None:
    sent = [Packet(number=number, body=body) for number, body in enumerate(bodies)]
    stream = b"".join(wire.packet(packet.number, packet.body) for packet in sent)
    assert receive_all(PacketFramer(), stream, sizes) == sent


@given(first=st.binary(min_size=4, max_size=4))
def test_packet_is_refused_by_its_header_when_it_is_too_long(first: bytes) -> None:
    framer, length = PacketFramer(1000), int.from_bytes(first[:3], "little")
    if length > 1000:
        with pytest.raises(ProtocolViolation):
            framer.receive(first)
    else:
        framer.receive(first)
        assert framer.wants == (length or wire.HEADER_BYTES)


def test_greeting_is_that_of_a_real_server() -> None:
    greeting = Greeting.from_body(RECORDED)
    assert greeting == Greeting(
        version="5.5.5-10.11.19-MariaDB-0+deb12u1",
        connection_id=5,
        scramble=b"DYqPx-ry+e>D{_I0R,&w",
        capabilities=OFFERED,
        collation=45,
        plugin=wire.NATIVE,
    )
    assert greeting.to_body() == RECORDED


@given(body=st.binary(max_size=120))
def test_greeting_is_read_or_refused_when_it_is_any_bytes(body: bytes) -> None:
    for one in (body, b"\n" + body, b"\n5.5\0" + body):
        with contextlib.suppress(EngineProblem):
            Greeting.from_body(one)


@given(response=RESPONSES)
def test_response_is_read_as_it_was_written(response: Response) -> None:
    read = wire.parse_start(response.to_body(), OFFERED)
    assert isinstance(read, Response)
    assert read.to_body() == response.to_body()
    assert (read.user, read.token) == (response.user, response.token)
    if response.has(Capability.CONNECT_WITH_DB):
        assert read.database == response.database


@given(body=st.binary(max_size=200), beginning=st.sampled_from([b"", USUAL.to_bytes(4, "little") + bytes(28)]))
def test_start_is_read_or_refused_when_it_is_any_bytes(body: bytes, beginning: bytes) -> None:
    for offered in (OFFERED, OFFERED & ~Capability.SSL):
        with contextlib.suppress(ProtocolViolation):
            wire.parse_start(beginning + body, offered)


@given(response=RESPONSES, cut=st.integers(0, 400), change=st.integers(0, 255))
def test_start_is_read_or_refused_when_it_is_nearly_right(response: Response, cut: int, change: int) -> None:
    body = bytearray(response.to_body())
    body[cut % len(body)] ^= change
    for one in (bytes(body), bytes(body[:cut])):
        with contextlib.suppress(ProtocolViolation):
            wire.parse_start(one, OFFERED)


def test_client_that_was_not_offered_something_does_not_get_it() -> None:
    response = Response(
        capabilities=USUAL | Capability.COMPRESS | 1 << 60,
        max_packet_bytes=0,
        collation=45,
        user=b"ann",
        token=b"",
        database=b"",
        plugin=b"p",
        attributes=b"",
    )
    read = wire.parse_start(response.to_body(), OFFERED & ~Capability.COMPRESS)
    assert isinstance(read, Response)
    assert read.capabilities == USUAL
    with pytest.raises(EngineProblem):
        read.for_engine(OFFERED & ~(1 << 13), over_tls=False)
    told = read.for_engine(OFFERED, over_tls=True)
    assert told.capabilities == USUAL | Capability.SSL


def test_mariadbs_own_capabilities_count_when_the_client_speaks_of_them() -> None:
    body = (USUAL & ~Capability.MYSQL).to_bytes(4, "little") + bytes(24) + b"\x04\0\0\0" + b"ann\0\0p\0"
    own = wire.parse_start(body, OFFERED)
    assert isinstance(own, Response)
    assert own.capabilities >> 32 == 4
    others = wire.parse_start(USUAL.to_bytes(4, "little") + body[4:], OFFERED)
    assert isinstance(others, Response)
    assert others.capabilities >> 32 == 0


@pytest.mark.parametrize(
    ("number", "name"),
    [(8, "latin1"), (45, "utf8mb4"), (33, "utf8mb3"), (224, "utf8mb4"), (35, "ucs2"), (54, "utf16"), (255, "utf8mb4")],
)
def test_collation_stands_for_its_character_set(number: int, name: str) -> None:
    assert charsets.of_collation(number).name == name


def test_character_sets_can_be_read_and_written() -> None:
    for number in range(256):
        charset = charsets.of_collation(number)
        codecs.lookup(charset.codec)
        assert charset.is_for_clients == (not charset.name.startswith(("ucs2", "utf16", "utf32")))
        if charset.is_for_clients:
            assert charset.decode(b"ann") == "ann"
            assert charset.encode("ann\u2603") in (
                b"ann?",
                "ann\u2603".encode(),
                "ann\u2603".encode(charset.codec, "replace"),
            )


def test_error_has_no_sqlstate_when_the_client_knows_of_none() -> None:
    utf8 = charsets.of_collation(45)
    assert wire.error_body(BAD_HANDSHAKE, utf8) == b"\xff\x13\x04#08S01Bad handshake"
    assert wire.error_body(BAD_HANDSHAKE, utf8, has_sqlstate=False) == b"\xff\x13\x04Bad handshake"
