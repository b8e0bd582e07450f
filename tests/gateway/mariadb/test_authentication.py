"""Proving who one is, and logging in to the engine with that, by value and for any bytes.

That it is as MariaDB does it is for test_login.py.
"""

import contextlib
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mariadb.raw_client import USUAL, Attempt, respond
from gateway.mariadb.test_hosts import account
from zorya.core.accounts import Account, Accounts, Method
from zorya.core.errors import EngineProblem
from zorya.core.model import Secret
from zorya.gateway.mariadb import authentication, refusals, wire
from zorya.gateway.mariadb.authentication import (
    Authentication,
    CertificateNeeded,
    Outcome,
    Proved,
    Unproved,
    make_scramble,
    native_token,
)
from zorya.gateway.mariadb.engine_login import UNKNOWN_PLUGIN, EngineLogin, Seal, Step
from zorya.gateway.mariadb.refusals import Refusal
from zorya.gateway.mariadb.wire import Capability, Greeting, Packet, Response

KEY = hashlib.sha1(b"right").digest()
SALT = hashlib.sha1(KEY).digest()
PROVED = Proved(key=KEY, salt=SALT)
NATIVE = Method(plugin=wire.NATIVE, verifier=Secret("*" + SALT.hex().upper()))
ED25519 = Method(plugin="ed25519", verifier=Secret("key"))
SOCKET = Method(plugin="unix_socket", verifier=Secret(""))
SCRAMBLE = b"abcdefghijklmnopqrst"
OTHER_SCRAMBLE = b"01234567890123456789"
OFFERED = 0x1D_81FF_FFFE


def ann(*methods: Method, **changes: Any) -> Account:
    return replace(account("ann", "%"), methods=methods or (NATIVE,), opens=("%",), **changes)


def begin(one: Attempt, *accounts: Account, is_tls: bool = False, wakes: bool = True) -> Authentication:
    known = Accounts(
        accounts=accounts or (ann(),), databases=("shop",), version="10.11", capabilities=OFFERED, collation=45
    )
    return Authentication(
        respond(one, SCRAMBLE), known, address="192.0.2.1", scramble=SCRAMBLE, is_tls=is_tls, wakes_unverified=wakes
    )


def outcome(one: Attempt, *accounts: Account, is_tls: bool = False, wakes: bool = True) -> Outcome | None:
    login = begin(one, *accounts, is_tls=is_tls, wakes=wakes)
    asked = login.begin()
    if asked:
        assert wire.parse_switch(asked) == (wire.NATIVE, SCRAMBLE + b"\0")
        login.receive(respond(one, SCRAMBLE).token)
    return login.outcome


def number(found: Outcome | None) -> int:
    assert isinstance(found, Refusal)
    return found.number


RIGHT = Attempt(user=b"ann")
WRONG = Attempt(user=b"ann", password=b"wrong")


def test_client_leaves_enough_to_log_in_again_when_it_has_the_password() -> None:
    assert outcome(RIGHT) == PROVED
    assert native_token(KEY, SALT, OTHER_SCRAMBLE) == respond(RIGHT, OTHER_SCRAMBLE).token


@pytest.mark.parametrize(
    ("one", "methods", "wakes", "expected"),
    [
        (RIGHT, (SOCKET, NATIVE), False, Proved),
        (RIGHT, (ED25519,), True, Unproved),
        (RIGHT, (ED25519,), False, Refusal),
        (RIGHT, (ED25519, NATIVE), True, Proved),
        (RIGHT, (NATIVE, ED25519), False, Proved),
        (WRONG, (NATIVE, ED25519), True, Unproved),
        (WRONG, (NATIVE, ED25519), False, Refusal),
        (WRONG, (SOCKET, NATIVE), True, Refusal),
        (RIGHT, (SOCKET,), True, Refusal),
    ],
)
def test_methods_are_tried_as_far_as_they_can_be(
    one: Attempt, methods: tuple[Method, ...], wakes: bool, expected: type[Outcome]
) -> None:
    assert isinstance(outcome(one, ann(*methods), wakes=wakes), expected)


def test_stranger_wakes_nothing_when_others_cannot_be_verified() -> None:
    login = begin(Attempt(user=b"nobody"), ann(ED25519))
    assert login.begin() == b""
    assert number(login.outcome) == 1045
    assert login.has_failed


def test_strangers_are_asked_like_others_and_always_in_the_same_way() -> None:
    known = (ann(), replace(ann(SOCKET, NATIVE), user="second"), replace(ann(ED25519), user="modern"))
    asked = {user: bool(begin(Attempt(user=user), *known).begin()) for user in (b"s%d" % count for count in range(60))}
    assert set(asked.values()) == {True, False}
    for user, is_asked in asked.items():
        assert bool(begin(Attempt(user=user), *known).begin()) is is_asked
        assert number(outcome(Attempt(user=user), *known)) == 1045


def test_only_a_missing_proof_is_a_failed_login() -> None:
    for one, known in ((RIGHT, ann(is_locked=True)), (RIGHT, ann(needs_tls=True)), (replace(RIGHT, token=b"x"), ann())):
        login = begin(one, known)
        login.begin()
        assert isinstance(login.outcome, Refusal)
        assert not login.has_failed


def test_certificate_is_for_the_engine_to_see() -> None:
    certified = ann(needs_tls=True, needs_certificate=True)
    assert isinstance(outcome(RIGHT, certified, is_tls=True), CertificateNeeded)
    assert number(outcome(WRONG, certified, is_tls=True)) == 1045
    assert number(outcome(RIGHT, certified)) == 1045
    assert number(outcome(RIGHT, certified, is_tls=True, wakes=False)) == 1045
    assert outcome(RIGHT, ann(needs_tls=True, needs_certificate=True, is_locked=True), is_tls=True) == refusals.LOCKED


@given(token=st.binary(max_size=30), user=st.sampled_from([b"ann", b"nobody", b"old"]))
def test_no_other_token_lets_a_client_in(token: bytes, user: bytes) -> None:
    right = respond(RIGHT, SCRAMBLE).token
    login = begin(Attempt(user=user, token=token), ann(), replace(ann(), user="old", methods=(SOCKET, NATIVE)))
    if login.begin():
        login.receive(token)
    assert isinstance(login.outcome, Proved) == (token == right and user != b"nobody")


@given(
    response=st.builds(
        Response,
        capabilities=st.integers(0, 2**40),
        max_packet_bytes=st.just(0),
        collation=st.integers(0, 255),
        user=st.one_of(st.just(b"ann"), st.binary(max_size=200)),
        token=st.binary(max_size=30),
        database=st.binary(max_size=100),
        plugin=st.sampled_from([b"", b"mysql_native_password", b"other"]),
        attributes=st.just(b""),
    ),
    answer=st.binary(max_size=30),
)
def test_login_is_decided_whatever_the_client_says(response: Response, answer: bytes) -> None:
    known = Accounts(accounts=(ann(SOCKET, NATIVE),), databases=(), version="", capabilities=0, collation=45)
    login = Authentication(response, known, address="192.0.2.1", scramble=SCRAMBLE, is_tls=False, wakes_unverified=True)
    if login.begin():
        login.receive(answer)
    assert isinstance(login.outcome, Refusal)
    wire.error_body(login.outcome, response.charset)


def test_scrambles_are_such_as_every_client_can_take() -> None:
    made = {make_scramble() for _ in range(200)}
    assert len(made) == 200
    for scramble in made:
        assert len(scramble) == wire.SCRAMBLE_BYTES
        assert all(0x20 < byte < 0x7F and byte != ord("$") for byte in scramble)


# The engine's side.


def greeting(capabilities: int = OFFERED) -> Packet:
    body = Greeting(
        version="10.11",
        connection_id=1,
        scramble=OTHER_SCRAMBLE,
        capabilities=capabilities,
        collation=45,
        plugin=wire.NATIVE,
    ).to_body()
    return Packet(number=0, body=body)


def said(step_or_packet: Step | bytes) -> tuple[int, Response]:
    sent = step_or_packet.to_engine if isinstance(step_or_packet, Step) else step_or_packet
    read = wire.parse_start(sent[4:], OFFERED & ~Capability.SSL)
    assert isinstance(read, Response)
    return sent[3], read


def new_login(
    proof: Proved | None = PROVED, *, over_tls: bool = False, seal: Seal | None = None, **more: bytes
) -> EngineLogin:
    response = replace(respond(RIGHT, SCRAMBLE), **more)  # type: ignore[arg-type]
    return EngineLogin(response, proof, over_tls=over_tls, seal=seal)


def test_engines_own_challenge_is_answered_when_the_client_has_proved_itself() -> None:
    login = new_login()
    count, response = said(login.receive(greeting()))
    assert count == 1
    assert response.token == native_token(KEY, SALT, OTHER_SCRAMBLE)
    switched = login.receive(Packet(number=2, body=wire.switch_body(wire.NATIVE, SCRAMBLE + b"\0")))
    assert switched == Step(to_engine=wire.packet(3, native_token(KEY, SALT, SCRAMBLE)))
    assert login.receive(Packet(number=4, body=b"\0ok")) == Step(to_client=b"\0ok", is_last=True)


def test_tls_goes_before_the_login_when_the_client_came_with_it() -> None:
    login = new_login(over_tls=True)
    step = login.receive(greeting())
    assert step.starts_tls
    assert isinstance(wire.parse_start(step.to_engine[4:], OFFERED), wire.TlsWanted)
    count, response = said(login.secured())
    assert (count, response.user) == (2, b"ann")
    plain = new_login(over_tls=True).receive(greeting(OFFERED & ~Capability.SSL))
    assert not plain.starts_tls


def test_engine_asks_the_client_itself_when_nothing_is_proved() -> None:
    login = new_login(None)
    _, response = said(login.receive(greeting()))
    assert (response.plugin, response.token) == (UNKNOWN_PLUGIN, b"")
    switch = wire.switch_body("client_ed25519", b"nonce")
    assert login.receive(Packet(number=2, body=switch)) == Step(to_client=switch)
    assert login.answer(b"signature") == wire.packet(3, b"signature")
    denied = b"\xff\x15\x04#28000Access denied"
    assert login.receive(Packet(number=4, body=denied)) == Step(to_client=denied, is_last=True)


def test_engine_that_turns_everybody_away_is_heard_by_the_client() -> None:
    full = b"\xff\x10\x04#08004Too many connections"
    assert new_login().receive(Packet(number=0, body=full)) == Step(to_client=full, is_last=True)


def test_engine_that_offers_too_little_is_not_logged_in_to() -> None:
    with pytest.raises(EngineProblem):
        new_login().receive(greeting(OFFERED & ~(1 << 13)))


@given(packets=st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=60)), max_size=4), has_proof=st.booleans())
def test_engine_login_ends_as_documented_whatever_the_engine_says(
    packets: list[tuple[int, bytes]], has_proof: bool
) -> None:
    for first in ([], [greeting()]):
        login = new_login(PROVED if has_proof else None)
        with contextlib.suppress(EngineProblem):
            for packet in first + [Packet(number=count, body=body) for count, body in packets]:
                login.receive(packet)


FINGERPRINT = hashlib.sha256(b"certificate").digest()
SEAL = Seal(scramble=SCRAMBLE, fingerprint=FINGERPRINT)


@pytest.mark.parametrize(("tracks", "behind"), [(False, b""), (True, b""), (True, b"\3abc")])
def test_login_is_bound_to_the_certificate_that_the_client_has_seen(tracks: bool, behind: bytes) -> None:
    engines = b"\1" + b"A" * 64
    ours = b"\1" + hashlib.sha256(SALT + SCRAMBLE + FINGERPRINT).hexdigest().upper().encode()
    head = b"\0\0\0\2\0\0\0" + (bytes([65]) if tracks else b"")
    capabilities = USUAL | (Capability.SESSION_TRACK if tracks else 0)
    login = EngineLogin(replace(respond(RIGHT, SCRAMBLE), capabilities=capabilities), PROVED, over_tls=True, seal=SEAL)
    login.receive(greeting())
    login.secured()
    step = login.receive(Packet(number=3, body=head + engines + behind))
    assert step.to_client == head + ours + behind


@pytest.mark.parametrize("body", [b"\0\0\0\2\0\0\0", b"\0\0\0\2\0\0\0\5hello", b"\0", b"\0\0\0\2\0\0\0\1\1"])
def test_other_messages_pass_as_they_are(body: bytes) -> None:
    login = new_login(over_tls=True, seal=SEAL)
    login.receive(greeting())
    login.secured()
    assert login.receive(Packet(number=3, body=body)).to_client == body


def test_user_is_read_as_mariadb_reads_it() -> None:
    for written, read in ((b"'ann'", "ann"), (b"'", "'"), (b"''", ""), (b"x" * 200, "x" * 128), (b"\xff", "?")):
        assert authentication.read_user(respond(Attempt(user=written), SCRAMBLE)) == read
