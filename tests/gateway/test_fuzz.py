"""Any bytes for all that reads them before anybody has proved anything: see hostile.py, and fuzz/ for longer runs."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import hostile

# Steps of a script: garbage, a message of any type, the right one with a byte changed, its beginning, the right one.
SHORT = st.binary(max_size=60)
STEPS = st.one_of(
    SHORT.map(lambda body: bytes([0, len(body)]) + body),
    st.tuples(st.sampled_from(b"pREZNv"), SHORT).map(lambda told: bytes([1, told[0], len(told[1])]) + told[1]),
    st.binary(min_size=2, max_size=2).map(lambda change: b"\2" + change),
    st.integers(0, 255).map(lambda size: bytes([3, size])),
    st.just(b"\4"),
)
SCRIPTS = st.builds(
    lambda first, steps: first + b"".join(steps), st.binary(min_size=3, max_size=3), st.lists(STEPS, max_size=8)
)


@given(data=st.one_of(SCRIPTS, st.binary(max_size=300)))
@pytest.mark.parametrize(
    "parse",
    [hostile.try_authentication, hostile.try_engine_login, hostile.try_startup_framer],
    ids=lambda it: it.__name__,
)
def test_conversation_ends_only_as_documented(parse: Callable[[bytes], None], data: bytes) -> None:
    parse(data)


@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("parse", [hostile.try_client_hello, hostile.try_naming], ids=lambda it: it.__name__)
def test_message_is_taken_or_refused_as_documented(parse: Callable[[bytes], None], data: bytes) -> None:
    parse(data)


PARAMETERS = st.dictionaries(
    st.one_of(st.sampled_from(["database", "replication", "options", "_pq_.a", "_pq_.b"]), st.text(min_size=1)),
    st.one_of(st.sampled_from(["", "on", "t", "database"]), st.text(max_size=80)),
    max_size=5,
)


@given(
    user=st.binary(min_size=1, max_size=80),
    parameters=PARAMETERS,
    minor=st.integers(0, 0xFFFF),
)
def test_startup_packet_is_refused_or_asked_for_a_proof(user: bytes, parameters: dict[str, str], minor: int) -> None:
    fields = [b"user", user, *(text.encode("utf-8", "replace") for pair in parameters.items() for text in pair)]
    body = (3 << 16 | minor).to_bytes(4) + b"".join(field.replace(b"\0", b"?") + b"\0" for field in fields) + b"\0"
    hostile.try_startup(hostile.read_startup((4 + len(body)).to_bytes(4) + body))
