"""Framing, by value and for any bytes in any chunking."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.fakes import GSS_REQUEST, SSL_REQUEST, cancel_request, packet, parse_error, startup
from zorya.core.errors import ProtocolViolation
from zorya.gateway.postgres import pgwire
from zorya.gateway.postgres.pgwire import (
    CancelRequest,
    DirectTls,
    Event,
    GssRequest,
    Refusal,
    Sqlstate,
    SslRequest,
    Startup,
    StartupFramer,
)

VERSION_3 = (3 << 16).to_bytes(4)


def events_of(chunks: Iterable[bytes]) -> tuple[list[Event | str], bytes]:
    """Answer the events, ended by the violation if there is one, and the bytes left over."""
    framer = StartupFramer()
    events: list[Event | str] = []
    rest = b""
    for chunk in chunks:
        if events and isinstance(events[-1], pgwire.Opening | str):
            rest += chunk
            continue
        before = len(framer.buffered)
        framer.receive(chunk)
        assert len(framer.buffered) == before + len(chunk)
        try:
            while event := framer.next_event():
                events.append(event)
                if isinstance(event, pgwire.Opening):
                    break
            else:
                assert len(framer.buffered) < pgwire.MAX_PACKET_BYTES
        except ProtocolViolation as error:
            events.append(error.message)
            with pytest.raises(ProtocolViolation, match=error.message):
                framer.next_event()
    return events, framer.buffered + rest


def only_event(data: bytes) -> Event | str:
    events, _ = events_of([data])
    assert len(events) == 1
    return events[0]


def test_startup_keeps_parameters_and_bytes_when_sound() -> None:
    raw = startup(user="ann", database="shop", options="")
    assert only_event(raw) == Startup(
        version=(3, 0), parameters={"user": "ann", "database": "shop", "options": ""}, raw=raw
    )


def test_minor_version_is_passed_on_when_unknown() -> None:
    event = only_event(startup(3 << 16 | 9999))
    assert isinstance(event, Startup)
    assert event.version == (3, 9999)


def test_parameter_survives_when_it_is_not_utf8() -> None:
    event = only_event(packet(VERSION_3 + b"user\0\xff\0\0"))
    assert isinstance(event, Startup)
    assert event.parameters["user"].encode("utf-8", "surrogateescape") == b"\xff"


def test_bytes_behind_the_startup_are_left_when_sent_at_once() -> None:
    events, rest = events_of([startup() + b"behind"])
    assert isinstance(events[0], Startup)
    assert rest == b"behind"


def test_both_requests_for_encryption_precede_the_startup_when_sent_at_once() -> None:
    events, rest = events_of([SSL_REQUEST + GSS_REQUEST + startup()])
    assert [type(event) for event in events] == [SslRequest, GssRequest, Startup]
    assert rest == b""


@pytest.mark.parametrize(("request_packet", "minor"), [(SSL_REQUEST, 5679), (GSS_REQUEST, 5680)])
def test_request_for_encryption_is_taken_for_a_version_when_repeated(request_packet: bytes, minor: int) -> None:
    events, _ = events_of([request_packet * 2])
    assert isinstance(events[1], Refusal)
    assert events[1].sqlstate == Sqlstate.FEATURE_NOT_SUPPORTED
    assert events[1].message.startswith(f"unsupported frontend protocol 1234.{minor}")


@pytest.mark.parametrize("secret", [b"abcd", bytes(256)])
def test_cancel_request_keeps_its_secret_when_of_any_lawful_length(secret: bytes) -> None:
    raw = cancel_request(4711, secret)
    assert only_event(raw) == CancelRequest(pid=4711, secret=secret, raw=raw)
    assert "secret" not in repr(only_event(raw))


@pytest.mark.parametrize("secret", [b"", b"abc", bytes(257)])
def test_cancel_request_is_a_violation_when_its_secret_has_no_lawful_length(secret: bytes) -> None:
    assert only_event(cancel_request(1, secret)) == "invalid length of cancel request"


@pytest.mark.parametrize("major", [0, 1, 2, 4, 1234, 65535])
def test_version_is_refused_when_its_major_part_is_unknown(major: int) -> None:
    event = only_event(startup(major << 16))
    assert isinstance(event, Refusal)
    assert event.sqlstate == "0A000"
    assert event.message == f"unsupported frontend protocol {major}.0: server supports 3"


@pytest.mark.parametrize("body", [b"\0", b"database\0shop\0\0", b"user\0\0\0"])
def test_startup_is_refused_when_it_names_no_user(body: bytes) -> None:
    event = only_event(packet(VERSION_3 + body))
    assert isinstance(event, Refusal)
    assert event.sqlstate == "28000"


@pytest.mark.parametrize(
    "body", [b"", b"user", b"user\0", b"user\0ann", b"user\0ann\0", b"user\0\0", b"user\0ann\0\0x", b"user\0ann\0\0\0"]
)
def test_startup_is_a_violation_when_the_terminator_is_not_its_last_byte(body: bytes) -> None:
    assert only_event(packet(VERSION_3 + body)) == "invalid startup packet layout: expected terminator as last byte"


@pytest.mark.parametrize("length", [0, 1, 7, pgwire.MAX_PACKET_BYTES + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_length_is_a_violation_before_the_packet_comes_when_out_of_bounds(length: int) -> None:
    assert only_event(length.to_bytes(4)) == "invalid length of startup packet"


def test_startup_is_taken_when_it_is_as_long_as_can_be() -> None:
    frame = len(startup(user="ann", options=""))
    assert isinstance(only_event(startup(user="ann", options="x" * (pgwire.MAX_PACKET_BYTES - frame))), Startup)


def test_tls_is_recognised_by_its_first_byte_when_it_was_not_asked_for() -> None:
    assert only_event(b"\x16") == DirectTls()


def test_tls_is_a_violation_when_it_follows_a_refused_request() -> None:
    events, _ = events_of([SSL_REQUEST + b"\x16\x03\x01\x00"])
    assert events == [SslRequest(), "invalid length of startup packet"]


def test_http_is_a_violation() -> None:
    assert only_event(b"GET / HTTP/1.1\r\n\r\n") == "invalid length of startup packet"


OPENINGS = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([startup(), startup(user="ann", database="shop"), cancel_request(), startup(2 << 16)]),
    st.binary(max_size=40).map(lambda body: packet(VERSION_3 + body)),
    st.binary(max_size=300).map(packet),
)
REQUESTS = st.lists(st.sampled_from([SSL_REQUEST, GSS_REQUEST]), max_size=3).map(b"".join)
STREAMS = st.builds(lambda *parts: b"".join(parts), REQUESTS, OPENINGS, st.binary(max_size=20))


@given(data=STREAMS, cuts=st.lists(st.integers(0, 400), max_size=12))
@example(data=SSL_REQUEST + b"garbage", cuts=[8])
def test_any_bytes_mean_the_same_when_chunked_in_any_way(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(bounds)]
    whole = events_of([data])
    assert events_of(chunks) == whole
    assert events_of(data[i : i + 1] for i in range(len(data))) == whole


@given(user=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_user_comes_back_whatever_its_letters(user: str) -> None:
    event = only_event(startup(user=user))
    assert isinstance(event, Startup)
    assert event.parameters == {"user": user}


@given(
    message=st.text(st.characters(exclude_categories=["Cs"])), hint=st.text(st.characters(exclude_categories=["Cs"]))
)
def test_error_response_can_be_read_whatever_its_text(message: str, hint: str) -> None:
    data = pgwire.error_response(Refusal(sqlstate=Sqlstate.SYSTEM_ERROR, message=message, hint=hint))
    fields = parse_error(data)
    assert (fields["S"], fields["V"], fields["C"]) == ("FATAL", "FATAL", "58000")
    assert fields.get("M", "") == message.replace("\0", "")
    assert fields.get("H", "") == hint.replace("\0", "")
