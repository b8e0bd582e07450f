"""ClientHellos of real TLS libraries, crafted ones, and any bytes in any chunking."""

import contextlib
import itertools
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tls_ends import HOST, client_context, server_context
from zorya.core.errors import ProtocolViolation
from zorya.gateway import client_hello
from zorya.gateway.client_hello import ClientHello, ClientHelloFramer

HANDSHAKE = 0x16


def read(chunks: Iterable[bytes]) -> ClientHello | str | None:
    """Answer what the framer says in the end: a hello, why there is none, or None if it wants more."""
    framer = ClientHelloFramer()
    hello = None
    try:
        for chunk in chunks:
            hello = framer.receive(chunk)
    except ProtocolViolation as error:
        with pytest.raises(ProtocolViolation, match=error.message):
            framer.receive(b"")
        return error.message
    return hello


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def sized(data: bytes, size: int) -> bytes:
    return len(data).to_bytes(size) + data


def record(content: bytes, kind: int = HANDSHAKE, version: int = 0x0301) -> bytes:
    return bytes([kind]) + version.to_bytes(2) + sized(content, 2)


def message(body: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + sized(body, 3)


def body(
    extensions: Iterable[tuple[int, bytes]] | None = (),
    *,
    version: int = 0x0303,
    session: bytes = b"",
    ciphers: bytes = b"\x13\x01",
    compression: bytes = b"\0",
    behind: bytes = b"",
) -> bytes:
    fixed = version.to_bytes(2) + bytes(32) + sized(session, 1) + sized(ciphers, 2) + sized(compression, 1)
    if extensions is not None:
        fixed += sized(b"".join(kind.to_bytes(2) + sized(data, 2) for kind, data in extensions), 2)
    return fixed + behind


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    return 0, sized(b"".join(bytes([kind]) + sized(name, 2) for name in names), 2)


def alpn(*names: bytes) -> tuple[int, bytes]:
    return 16, sized(b"".join(sized(name, 1) for name in names), 2)


def hello_with(*extensions: tuple[int, bytes]) -> bytes:
    return record(message(body(extensions)))


def split(handshake: bytes, size: int) -> bytes:
    """Put a message into records of `size` bytes."""
    return b"".join(record(handshake[at : at + size]) for at in range(0, len(handshake), size))


def first_words(context: ssl.SSLContext, host: str | None, session: ssl.SSLSession | None = None) -> bytes:
    """What a client of Python's says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=host, session=session)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def session_of_an_earlier_connection(context: ssl.SSLContext, server_side: ssl.SSLContext) -> ssl.SSLSession:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=HOST)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for step in (client.do_handshake, server.do_handshake, client.do_handshake, server.do_handshake, client.read):
        with contextlib.suppress(ssl.SSLWantReadError):
            step()
    assert client.session is not None
    return client.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("protocols", [(), ("postgresql",), tuple(f"protocol-{number}" for number in range(400))])
@pytest.mark.parametrize("host", [None, HOST, "a.b", "x" * 63 + ".example", "192.0.2.7", "MIXED.Example"])
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_what_openssl_says_is_read(version: ssl.TLSVersion, protocols: Sequence[str], host: str | None) -> None:
    context = client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = version
    context.maximum_version = max(version, ssl.TLSVersion.TLSv1_2)
    if protocols:
        context.set_alpn_protocols(protocols)
    data = first_words(context, host)
    # To OpenSSL an address is no name.
    named = None if host is None or host[0].isdigit() else host.lower()
    expected = ClientHello(server_name=named, alpn=tuple(protocols))
    assert read([data]) == expected
    assert read(one_by_one(data)) == expected
    assert read([data[:-1]]) is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_what_openssl_says_is_read_when_it_resumes_a_session(version: ssl.TLSVersion) -> None:
    context = client_context()
    context.minimum_version = context.maximum_version = version
    fresh = first_words(context, HOST)
    server = server_context()
    server.num_tickets = 1
    data = first_words(context, HOST, session_of_an_earlier_connection(context, server))
    assert len(data) > len(fresh)
    assert read([data]) == ClientHello(server_name=HOST, alpn=())


@pytest.fixture
def heard() -> Iterator[tuple[int, list[bytes]]]:
    """A port, and what the first client there says before it is cut off."""
    said: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            client.settimeout(20)
            framer = ClientHelloFramer()
            with contextlib.suppress(ProtocolViolation):
                while data := client.recv(65536):
                    said.append(data)
                    if framer.receive(data):
                        break

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(20)
        listening = pool.submit(listen, listener)
        yield listener.getsockname()[1], said
        listening.result()


def test_what_libpq_says_is_read_when_it_does_not_ask_first(heard: tuple[int, list[bytes]]) -> None:
    port, said = heard
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(
            host=HOST.upper(), hostaddr="127.0.0.1", port=port, sslmode="require", sslnegotiation="direct", user="ann"
        )
    assert read(said) == ClientHello(server_name=HOST, alpn=("postgresql",))


@pytest.mark.skipif(shutil.which("node") is None, reason="no Node.js")
def test_what_node_says_is_read(heard: tuple[int, list[bytes]]) -> None:
    port, said = heard
    script = (
        f"require('tls').connect({{port: {port}, host: '127.0.0.1', servername: '{HOST}', ALPNProtocols: ['postgresql']"
        "}).on('error', () => {})"
    )
    subprocess.run(["node", "-e", script], check=True, timeout=20)
    assert read(said) == ClientHello(server_name=HOST, alpn=("postgresql",))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 100])
def test_hello_is_read_when_it_comes_in_several_records(size: int) -> None:
    data = split(message(body([server_name(b"a.b"), alpn(b"x", b"y\xff")])), size)
    expected = ClientHello(server_name="a.b", alpn=("x", "y\xff"))
    assert read([data]) == expected
    assert read(one_by_one(data)) == expected
    assert read([data, b"what follows", b"\x17"]) == expected
    assert read([data + b"what follows"]) == expected


def test_hello_is_read_when_it_has_no_extensions() -> None:
    assert read([record(message(body(None)))]) == ClientHello(server_name=None, alpn=())
    assert read([record(message(body()))]) == ClientHello(server_name=None, alpn=())


@pytest.mark.parametrize(
    ("said", "name"), [(b"Shop.Example", "shop.example"), (b"shop.example.", "shop.example"), (b"a", "a"), (b"_", "_")]
)
def test_server_name_is_in_lower_case_and_without_a_dot_at_the_end(said: bytes, name: str) -> None:
    assert read([hello_with(server_name(said))]) == ClientHello(server_name=name, alpn=())


def filler(size: int) -> tuple[int, bytes]:
    return 21, bytes(size)


def test_hello_is_read_when_it_is_as_long_as_can_be() -> None:
    overhead = len(hello_with(server_name(b"a.b"), filler(0)))
    longest = hello_with(server_name(b"a.b"), filler(client_hello.MAX_HELLO_BYTES - overhead))
    assert len(longest) == client_hello.MAX_HELLO_BYTES
    assert read([longest]) == ClientHello(server_name="a.b", alpn=())
    split_up = split(longest[5:], 16383)
    assert read([split_up]) == "ClientHello is too long"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"G", "expected a handshake"),
        (b"\x80", "expected a handshake"),
        (b"\x15", "expected a handshake"),
        (b"\x16\x02", "version of TLS record"),
        (b"\x16\x03\x01\x00\x00", "length of TLS record"),
        (b"\x16\x03\x01\x40\x01", "length of TLS record"),
        (b"\x16\x03\x01\x00\x40\x02", "expected a ClientHello"),
        (b"\x16\x03\x01\x40\x00\x01\x00\x40\x00", "too long"),
        (b"\x16\x03\x01\x00\x10\x01\xff\xff\xff", "too long"),
        (b"\x16\x03\x01\x00\x10\x01\x00\x00\x0b", "not all of its record"),
        (b"\x16\x03\x01\x00\x02\x01\x00\x17", "expected a handshake"),
    ],
)
def test_bytes_are_a_violation_as_soon_as_no_hello_can_come_of_them(data: bytes, why: str) -> None:
    assert read([data[:-1]]) is None
    assert why in str(read([data]))
    assert why in str(read(one_by_one(data)))


@pytest.mark.parametrize(
    "content",
    [
        body()[:-1],
        body(behind=b"x"),
        body(version=0x0203),
        body(session=bytes(33)),
        body(ciphers=b""),
        body(ciphers=bytes(3)),
        body(compression=b""),
        body(None, behind=b"\0"),
        body([server_name(b"a.b"), server_name(b"a.b")]),
        body([alpn(b"x"), alpn(b"x")]),
        body([(999, b""), (999, b"")]),
        body([server_name()]),
        body([server_name(b"")]),
        body([server_name(b"a.b", b"c.d")]),
        body([server_name(b"a.b", kind=1)]),
        body([server_name(b"a" * 256)]),
        body([server_name(b"a b")]),
        body([server_name(b"a\0b")]),
        body([server_name("ä.b".encode())]),
        body([(0, b"")]),
        body([(0, server_name(b"a.b")[1] + b"x")]),
        body([(0, server_name(b"a.b")[1][:-1])]),
        body([(0, b"\0\1\0")]),
        body([alpn()]),
        body([alpn(b"")]),
        body([(16, alpn(b"x")[1] + b"x")]),
        body([(16, b"\0\3\5xx")]),
        b"",
        bytes(2),
    ],
)
def test_hello_is_a_violation_when_it_is_malformed(content: bytes) -> None:
    verdict = read([record(message(content))])
    assert isinstance(verdict, str)
    assert read(one_by_one(record(message(content)))) == verdict


SOUND = hello_with(server_name(b"shop.example"), (43, b"\2\3\4"), alpn(b"postgresql"))
REAL = first_words(client_context(), HOST)
DAMAGE = st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=4)


def damaged(data: bytes, damage: Iterable[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, value in damage:
        changed[at % len(changed)] = value
    return bytes(changed)


SERVER = server_context()
STREAMS = st.one_of(
    st.binary(max_size=80),
    st.builds(damaged, st.sampled_from([SOUND, REAL]), DAMAGE),
    st.binary(max_size=200).map(lambda content: record(message(content))),
    st.binary(max_size=60).map(lambda data: record(message(body(None, behind=data)))),
    st.binary(max_size=60).map(lambda data: hello_with((0, data), (16, data))),
    st.tuples(st.integers(1, 50), DAMAGE).map(lambda drawn: damaged(split(SOUND[5:], drawn[0]), drawn[1])),
)


@settings(max_examples=400)
@given(data=STREAMS, cuts=st.lists(st.integers(0, 700), max_size=8))
def test_any_bytes_mean_the_same_when_chunked_in_any_way(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(data)]
    whole = read([data])
    assert read(data[start:end] for start, end in itertools.pairwise(bounds)) == whole
    assert read(one_by_one(data)) == whole


# Python cannot tell its callback a name that is not ASCII, and complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=400)
@given(data=st.builds(damaged, st.sampled_from([SOUND, REAL, hello_with(server_name(b"a.b"))]), DAMAGE))
def test_name_is_the_one_that_openssl_reads(data: bytes) -> None:
    """Whoever reads a name here and lets OpenSSL answer the hello must not be told two different ones."""
    names: list[str | None] = []
    SERVER.sni_callback = lambda _connection, name, _context: names.append(name)
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    with contextlib.suppress(ssl.SSLError):
        SERVER.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    verdict = read([data])
    if names and isinstance(verdict, ClientHello):
        assert verdict.server_name == (names[0].lower().removesuffix(".") if names[0] else None)
