"""What a server and its keeper say to each other: JSON in packets of a Unix socket, descriptors beside it.

A server begins with `Serve`. The keeper answers with one `Keep` for each port that it holds, then with `All`. From then
on only the server speaks. A keeper may be older than the server that joins it, so messages may be added here but never
changed. Whatever else comes raises ProtocolViolation, and no descriptor that came with it stays open.
"""

import array
import json
import math
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from zorya.compute.freezer import Freezer, from_json
from zorya.core import errors

SOCKET = "keeper.sock"
"""The keeper's socket, below the home's run folder."""

MAX_BYTES = 32768
"""The longest packet: the longest path (PATH_MAX, 4096 bytes) fits, each byte escaped as six."""

MAX_DESCRIPTORS = 253
"""As many as the kernel takes with one packet (SCM_MAX_FD, unix(7))."""

_CREDENTIALS = struct.Struct("3i")
"""struct ucred: process, user and group (unix(7), SO_PEERCRED)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serve:
    """A server is here, and wants its sockets held for `keep_s` seconds after its end."""

    kind: ClassVar[str] = "serve"
    keep_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Hold the listening sockets that come with this, in place of those of the same port; from the keeper: held."""

    kind: ClassVar[str] = "keep"
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LetGo:
    """Close the port's sockets."""

    kind: ClassVar[str] = "let_go"
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """Thaw this engine when the server ends."""

    kind: ClassVar[str] = "guard"
    name: str
    freezer: Freezer


@dataclass(frozen=True, kw_only=True, slots=True)
class Forget:
    """Guard the engine no longer."""

    kind: ClassVar[str] = "forget"
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dismiss:
    """Close everything and end."""

    kind: ClassVar[str] = "dismiss"


@dataclass(frozen=True, kw_only=True, slots=True)
class All:
    """From the keeper: no more sockets are held."""

    kind: ClassVar[str] = "all"


Message = Serve | Keep | LetGo | Guard | Forget | Dismiss | All


def pack(message: Message) -> bytes:
    """Answer the packet that `parse` reads."""
    return json.dumps({"is": message.kind, **asdict(message)}).encode()


def parse(packet: bytes) -> Message:
    """Read one packet. Raises ProtocolViolation for anything that is not a message."""
    try:
        values = json.loads(packet)
        return _READERS[values["is"]](values)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise errors.ProtocolViolation(f"This is no message of a keeper: {packet[:100]!r}.") from error


def _port(values: Mapping[str, Any]) -> int:
    port = values["port"]
    if type(port) is not int or not 0 < port < 65536:
        raise ValueError(port)
    return port


def _name(values: Mapping[str, Any]) -> str:
    name = values["name"]
    if not isinstance(name, str):
        raise TypeError(name)
    return name


def _keep_s(values: Mapping[str, Any]) -> float:
    keep_s = float(values["keep_s"])
    if not math.isfinite(keep_s) or keep_s < 0:
        raise ValueError(keep_s)
    return keep_s


def _freezer(values: Mapping[str, Any]) -> Freezer:
    freezer = from_json(values["freezer"])
    # Neither can be a path, and thawing must not raise.
    if b"\0" in os.fsencode(freezer.folder) or freezer.pid <= 0:
        raise ValueError(freezer)
    return freezer


_READERS: Mapping[str, Callable[[Mapping[str, Any]], Message]] = {
    Serve.kind: lambda values: Serve(keep_s=_keep_s(values)),
    Keep.kind: lambda values: Keep(port=_port(values)),
    LetGo.kind: lambda values: LetGo(port=_port(values)),
    Guard.kind: lambda values: Guard(name=_name(values), freezer=_freezer(values)),
    Forget.kind: lambda values: Forget(name=_name(values)),
    Dismiss.kind: lambda _: Dismiss(),
    All.kind: lambda _: All(),
}


def send(connection: socket.socket, message: Message, descriptors: Sequence[int] = ()) -> None:
    """Send one message and copies of the descriptors. Blocks as the socket does; raises OSError."""
    if descriptors:
        socket.send_fds(connection, [pack(message)], descriptors)
    else:
        connection.send(pack(message))


def receive(connection: socket.socket) -> tuple[Message, Sequence[int]] | None:
    """Answer the next message with its descriptors, which are the caller's now; None when the other side has ended.

    Blocks as the socket does. Raises ProtocolViolation, after which the next packet can be read, and OSError.
    """
    packet, descriptors, flags = _receive_packet(connection)
    try:
        message = _check(packet, descriptors, flags) if packet else None
    except errors.ProtocolViolation:
        close(descriptors)
        raise
    if message is None:
        close(descriptors)
        return None
    return message, descriptors


def _receive_packet(connection: socket.socket) -> tuple[bytes, Sequence[int], int]:
    """What socket.recv_fds does, but for its flags, which it ignores: no program that is started may inherit these."""
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * descriptors.itemsize)
    packet, ancillary, flags, _ = connection.recvmsg(MAX_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return packet, descriptors.tolist(), flags


def _check(packet: bytes, descriptors: Sequence[int], flags: int) -> Message:
    if flags & socket.MSG_TRUNC:
        raise errors.ProtocolViolation(f"A packet is longer than {MAX_BYTES} bytes.")
    if flags & socket.MSG_CTRUNC:
        raise errors.ProtocolViolation("Not all descriptors of a packet could be opened.")
    message = parse(packet)
    if isinstance(message, Keep) != bool(descriptors):
        raise errors.ProtocolViolation(f"A message has the wrong number of descriptors, {len(descriptors)}: {message}.")
    return message


def close(descriptors: Sequence[int]) -> None:
    """Close them all."""
    for descriptor in descriptors:
        os.close(descriptor)


def read_peer(connection: socket.socket) -> tuple[int, int]:
    """Answer the process and the user at the other end, as they were when they connected or began to listen."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(packed)
    return pid, uid


def connect(run: Path, *, timeout_s: float) -> socket.socket:
    """Connect to the keeper whose socket is in `run`; what is done with the connection waits `timeout_s` at most.

    Raises OSError: FileNotFoundError or ConnectionRefusedError when there is no keeper, BlockingIOError when too many
    wait for it.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(run / SOCKET))
    except OSError:
        connection.close()
        raise
    return connection
