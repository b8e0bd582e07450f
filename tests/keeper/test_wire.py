"""The keeper's messages: any bytes are a message or one error, and no descriptor stays open that nobody wanted."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.compute.freezer import Freezer, Way
from zorya.core import errors
from zorya.keeper import wire

PORTS = st.integers(1, 65535)
FREEZERS = st.builds(
    Freezer,
    way=st.sampled_from(Way),
    folder=st.binary(max_size=4096).map(lambda name: os.fsdecode(name.replace(b"\0", b"/"))),
    pid=st.integers(1, 2**31),
    start_ticks=st.integers(0, 2**63),
)
MESSAGES = st.one_of(
    st.builds(wire.Serve, keep_s=st.floats(0, allow_infinity=False)),
    st.builds(wire.Keep, port=PORTS),
    st.builds(wire.LetGo, port=PORTS),
    st.builds(wire.Guard, name=st.text(max_size=63), freezer=FREEZERS),
    st.builds(wire.Forget, name=st.text(max_size=63)),
    st.builds(wire.Dismiss),
    st.builds(wire.All),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
KINDS = st.sampled_from(["serve", "keep", "let_go", "guard", "forget", "dismiss", "all"])
FREEZER_LIKE = st.fixed_dictionaries(
    {"way": st.sampled_from(["signals", "cgroup2"]) | VALUES, "folder": VALUES, "pid": VALUES, "start_ticks": VALUES}
)
NEARLY = st.fixed_dictionaries(
    {"is": KINDS | VALUES},
    optional={"port": VALUES, "keep_s": VALUES, "name": VALUES, "freezer": FREEZER_LIKE | VALUES},
)


def _is_message_or_violation(packet: bytes) -> None:
    try:
        message = wire.parse(packet)
    except errors.ProtocolViolation:
        return
    assert wire.parse(wire.pack(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_violation(packet: bytes) -> None:
    _is_message_or_violation(packet)


@given(VALUES | NEARLY)
def test_any_json_is_a_message_or_a_violation(values: object) -> None:
    _is_message_or_violation(json.dumps(values).encode())


@given(MESSAGES)
def test_message_is_read_as_it_was_sent(message: wire.Message) -> None:
    packet = wire.pack(message)
    assert len(packet) <= wire.MAX_BYTES
    assert wire.parse(packet) == message


@pytest.mark.parametrize(
    "packet",
    [
        b"[" * wire.MAX_BYTES,
        b'{"is": "keep", "port": 0}',
        b'{"is": "keep", "port": true}',
        b'{"is": "serve", "keep_s": NaN}',
        b'{"is": "serve", "keep_s": 1e999}',
        b'{"is": "serve", "keep_s": -1}',
        b'{"is": "guard", "name": "a", "freezer": {"way": "signals", "folder": "\\u0000", "pid": 1, "start_ticks": 1}}',
        b'{"is": "guard", "name": "a", "freezer": {"way": "cgroup2", "folder": "\\ud800", "pid": 1, "start_ticks": 1}}',
        b'{"is": "guard", "name": "a", "freezer": {"way": "signals", "folder": "", "pid": -1, "start_ticks": 1}}',
        b'{"is": "guard", "name": "a", "freezer": {"way": "signals", "folder": "", "pid": 1e999, "start_ticks": 1}}',
    ],
    ids=lambda packet: packet[:90].decode(),
)
def test_packet_is_refused_when_a_value_cannot_be(packet: bytes) -> None:
    with pytest.raises(errors.ProtocolViolation):
        wire.parse(packet)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def _open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize(
    "packet",
    [b"", b"nonsense", b'{"is": "all"}', b'{"is": "keep", "port": 1}'.ljust(wire.MAX_BYTES + 1)],
    ids=["empty", "no message", "message without descriptors", "too long"],
)
def test_descriptors_are_closed_when_they_came_with_a_wrong_packet(
    pair: tuple[socket.socket, socket.socket], packet: bytes
) -> None:
    ours, theirs = pair
    before = _open_descriptors()
    socket.send_fds(theirs, [packet], [ours.fileno(), theirs.fileno()])
    if packet:
        with pytest.raises(errors.ProtocolViolation):
            wire.receive(ours)
    else:
        assert wire.receive(ours) is None
    assert _open_descriptors() == before


def test_next_message_is_read_when_one_was_wrong(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"x" * (2 * wire.MAX_BYTES))
    wire.send(theirs, wire.Keep(port=1))
    wire.send(theirs, wire.All())
    for _ in range(2):
        with pytest.raises(errors.ProtocolViolation):
            wire.receive(ours)
    assert wire.receive(ours) == (wire.All(), [])


def test_as_many_descriptors_come_over_as_the_kernel_takes(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    wire.send(theirs, wire.Keep(port=1), [ours.fileno()] * wire.MAX_DESCRIPTORS)
    received = wire.receive(ours)
    assert received is not None
    message, descriptors = received
    assert message == wire.Keep(port=1)
    assert len(descriptors) == wire.MAX_DESCRIPTORS
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    wire.close(descriptors)
