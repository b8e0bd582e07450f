"""Any bytes for all that reads them before anybody has proved anything: see hostile.py, and fuzz/ for longer runs."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.mariadb import hostile
from zorya.gateway.mariadb import wire

# The beginning of a response that asks for what there is, and what may follow: names, a token, attributes.
BEGINNING = (0x81BF_F7FF & ~wire.Capability.SSL).to_bytes(4, "little") + bytes(4) + b"\x2d" + bytes(23)
BODIES = st.one_of(
    st.binary(max_size=120), st.binary(max_size=120).map(lambda rest: BEGINNING + rest), st.just(BEGINNING + b"ann\0\0")
)
PACKETS = st.lists(st.tuples(st.integers(0, 255), BODIES), max_size=3).map(
    lambda packets: b"".join(wire.packet(number, body) for number, body in packets)
)


@given(step=st.integers(0, 255), data=st.one_of(PACKETS, st.binary(max_size=300)))
def test_start_ends_only_as_documented(step: int, data: bytes) -> None:
    hostile.try_start(bytes([step]) + data)
