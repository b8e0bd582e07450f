"""Proving who one is, by value. That it is as PostgreSQL does it is for test_login.py."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from gateway import hostile
from gateway.fakes import packet, startup
from gateway.hostile import BOUND, CLIENT_KEY, END_POINT_HASH, NOW, SCRAM_PROOF, Client, begin, read_startup
from zorya.core.errors import ProtocolViolation
from zorya.core.identity import Database
from zorya.core.model import Secret
from zorya.gateway.postgres import authentication, messages, pgwire, scram
from zorya.gateway.postgres.authentication import Authentication, Md5Proof, ScramProof
from zorya.gateway.postgres.messages import Request

WRONG = Client(client_key=bytes(32))


def converse(login: Authentication, client: Client, chunk: int = 10_000) -> list[bytes]:
    """Have the client log in and answer all that it was sent, in turn."""
    sent = [login.begin()]
    while login.outcome is None:
        said = client.answer(sent[-1])
        answers = [login.receive(said[start : start + chunk]) for start in range(0, len(said), chunk)]
        assert not any(answers[:-1])
        sent.append(answers[-1])
    return sent


def refusal(login: Authentication, client: Client) -> tuple[str, str]:
    converse(login, client)
    assert isinstance(login.outcome, pgwire.Refusal)
    return login.outcome.sqlstate, login.outcome.message


def sasl(data: bytes, mechanism: bytes = messages.SCRAM) -> bytes:
    return messages.first_sasl_response(mechanism, data)


# SCRAM.


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("client", "end_point_hash"),
    [
        (Client(), None),
        (Client(b"y,,"), None),
        (Client(), END_POINT_HASH),
        (Client(BOUND), END_POINT_HASH),
    ],
    ids=["plain", "plain, would bind", "tls, not bound", "tls, bound"],
)
def test_client_leaves_its_key_when_it_has_the_password(
    client: Client, end_point_hash: bytes | None, chunk: int
) -> None:
    login = begin(end_point_hash=end_point_hash)
    *_, last = converse(login, client, chunk)
    assert login.outcome == SCRAM_PROOF
    assert last[:1] == b"R"
    assert last[5:9] == Request.SASL_FINAL.to_bytes(4)


def test_exchange_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    # RFC 7677, section 3.
    first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final = (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    signature = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    monkeypatch.setattr(scram, "_make_nonce", lambda: b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    verifier = scram.parse_verifier(hostile.make_verifier(b"pencil", salt, 4096).value)
    assert verifier is not None
    server = scram.ServerExchange(verifier, is_doomed=False, end_point_hash=None)
    assert server.challenge(first, is_bound=False) == challenge
    assert server.verify(final) == (hostile.make_keys(b"pencil", salt, 4096)[0], signature)


def test_proof_does_not_show_itself() -> None:
    shown = repr([SCRAM_PROOF, hostile.MD5_PROOF, begin()])
    assert repr(CLIENT_KEY) not in shown
    assert hostile.MD5_VERIFIER.value not in shown


def test_channel_binding_is_offered_when_the_client_came_with_tls() -> None:
    assert begin().begin() == messages.request(Request.SASL, b"SCRAM-SHA-256\0\0")
    offered = begin(end_point_hash=END_POINT_HASH).begin()
    assert offered == messages.request(Request.SASL, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")


def test_login_is_refused_when_tls_ends_somewhere_else() -> None:
    login = begin(end_point_hash=hashlib.sha256(b"another certificate").digest())
    assert refusal(login, Client(BOUND)) == ("28000", "SCRAM channel binding check failed")


def test_login_is_refused_when_somebody_took_the_offer_of_channel_binding_away() -> None:
    login = begin(end_point_hash=END_POINT_HASH)
    assert refusal(login, Client(b"y,,")) == ("28000", "SCRAM channel binding negotiation error")


def test_first_message_may_come_after_the_choice_of_mechanism() -> None:
    login, client = begin(), Client()
    login.begin()
    asked = login.receive(messages.response(b"SCRAM-SHA-256\0" + b"\xff" * 4))
    assert asked == messages.request(Request.SASL_CONTINUE)
    login.receive(client.answer(login.receive(client.answer(asked))))
    assert login.outcome == SCRAM_PROOF


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (b"n,a=ann,n=,r=x", "client uses authorization identity, but it is not supported"),
        (b"n,,m=1,n=,r=x", "client requires an unsupported SCRAM extension"),
    ],
)
def test_login_is_refused_when_it_needs_what_there_is_not(first: bytes, message: str) -> None:
    login = begin()
    login.begin()
    assert login.receive(sasl(first)) == b""
    assert isinstance(login.outcome, pgwire.Refusal)
    assert (login.outcome.sqlstate, login.outcome.message) == ("0A000", message)


@pytest.mark.parametrize("first", [b"n,,n=,r=x", b"n,,n=someone,r=x", b"n,,n=,r=x,a=1,b=", b"n,,n=,r=x,", b"n,,n=,r="])
def test_first_message_is_taken_when_postgresql_takes_it(first: bytes) -> None:
    login = begin()
    login.begin()
    assert login.receive(sasl(first))[5:9] == Request.SASL_CONTINUE.to_bytes(4)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=,r=x",
        b"nn,,n=,r=x",
        b"n,b=,n=,r=x",
        b"n,,n=",
        b"n,,r=x,n=",
        b"n,,n=,r=\xff",
        b"n,,n=,r=a b",
        b"n,,n=,r=x\0",
        b"n,,n=,r=x,1=2",
        b"n,,n=,r=x,,",
        b"n,,n=,r=x,ab",
        BOUND + b"n=,r=x",
    ],
)
def test_first_message_is_a_violation_when_malformed(first: bytes) -> None:
    login = begin()
    login.begin()
    with pytest.raises(ProtocolViolation):
        login.receive(sasl(first))


@pytest.mark.parametrize(
    "first", [b"n,,n=,r=x", b"y,,n=,r=x", b"p=tls-unique,,n=,r=x", b"p=tls-server-end-point", b"p,,n=,r=x"]
)
def test_first_message_is_a_violation_when_it_is_not_bound_though_that_was_chosen(first: bytes) -> None:
    login = begin(end_point_hash=END_POINT_HASH)
    login.begin()
    with pytest.raises(ProtocolViolation):
        login.receive(sasl(first, messages.SCRAM_PLUS))


def changed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(final: bytes) -> bytes:
        assert old in final
        return final.replace(old, new)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda final: final[:-1],
        lambda final: final + b"AAAA",
        lambda final: final + b",a=1",
        lambda final: final + b",p=" + base64.b64encode(bytes(32)),
        lambda final: final + b"\0",
        lambda final: final.partition(b",p=")[0],
        changed(b"c=biws", b"c=eSws"),
        changed(b"c=biws", b"c="),
        changed(b"c=biws,", b""),
        changed(b"r=nonce", b"r=other"),
        changed(b",p=", b"x,p="),
        changed(b",p=", b",p=!"),
        changed(b",p=", b",1=,p="),
    ],
)
def test_last_message_is_a_violation_when_malformed_or_not_of_this_exchange(change: Callable[[bytes], bytes]) -> None:
    login, client = begin(), Client()
    final = client.answer(login.receive(client.answer(login.begin())))
    with pytest.raises(ProtocolViolation):
        login.receive(messages.response(change(final[5:])))
    assert login.outcome is None


def test_last_message_may_have_extensions_when_they_are_signed() -> None:
    login, client = begin(), Client()
    client.extensions = b",x=1,y="
    converse(login, client)
    assert login.outcome == SCRAM_PROOF


def test_login_is_refused_when_an_extension_was_added_on_the_way() -> None:
    login, client = begin(), Client()
    final = client.answer(login.receive(client.answer(login.begin())))[5:]
    login.receive(messages.response(final.replace(b",p=", b",x=1,p=")))
    assert isinstance(login.outcome, pgwire.Refusal)
    assert login.outcome.sqlstate == "28P01"


@pytest.mark.parametrize(
    "body", [b"", b"SCRAM-SHA-256", b"SCRAM-SHA-1\0\0\0\0\0", b"SCRAM-SHA-256-PLUS\0\0\0\0\0", b"\0\0\0\0\0"]
)
def test_mechanism_is_a_violation_when_it_was_not_offered(body: bytes) -> None:
    login = begin()
    login.begin()
    with pytest.raises(ProtocolViolation):
        login.receive(messages.response(body))


@pytest.mark.parametrize(
    "told", [b"", b"\0\0\0", b"\0\0\0\2n", b"\0\0\0\0n", b"\xff\xff\xff\xfe", b"\xff\xff\xff\xffn"]
)
def test_length_of_the_first_message_is_a_violation_when_it_does_not_fit(told: bytes) -> None:
    login = begin()
    login.begin()
    with pytest.raises(ProtocolViolation):
        login.receive(messages.response(b"SCRAM-SHA-256\0" + told))


@pytest.mark.parametrize(("iterations", "salt"), [(1, b"s"), (4096, bytes(64)), (100_000, b"0123456789")])
def test_verifier_serves_whatever_its_salt_and_iterations(iterations: int, salt: bytes) -> None:
    verifier = hostile.make_verifier(b"right", salt, iterations)
    client_key, _, server_key = hostile.make_keys(b"right", salt, iterations)
    identities = replace(hostile.IDENTITIES, roles={"ann": hostile.make_role(verifier)})
    login = begin(identities=identities)
    challenge = converse(login, Client(client_key=client_key))[1]
    assert challenge.endswith(b",s=%b,i=%d" % (base64.b64encode(salt), iterations))
    assert login.outcome == ScramProof(client_key=client_key, server_key=server_key)


@pytest.mark.parametrize(
    "verifier",
    [
        "",
        "right",
        "md5",
        "md5" + "g" * 32,
        "md5" + "a" * 31,
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$99999999999:AAAA$AAAA:AAAA",
        "SCRAM-SHA-256$2147483648:AAAA${key}:{key}",
        "SCRAM-SHA-256$4096:AAA${key}:{key}",
        "SCRAM-SHA-256$4096:AAAA${key}:AAAA",
        "SCRAM-SHA-1$4096:AAAA${key}:{key}",
        "SCRAM-SHA-256$\u0664096:AAAA${key}:{key}",
        "SCRAM-SHA-256$4096:\udcff${key}:{key}",
    ],
)
def test_unreadable_verifier_looks_like_a_wrong_password(verifier: str) -> None:
    key = base64.b64encode(bytes(32)).decode()
    roles = {"ann": hostile.make_role(Secret(verifier.replace("{key}", key)))}
    login = begin(identities=replace(hostile.IDENTITIES, roles=roles))
    assert refusal(login, Client()) == ("28P01", 'password authentication failed for user "ann"')


# What nobody may find out.


@pytest.mark.parametrize("user", ["bare", "broken", "expired", "nobody"])
@pytest.mark.parametrize("client", [Client(), WRONG], ids=["right", "wrong"])
def test_role_cannot_be_told_from_one_with_another_password_when_it_cannot_log_in(user: str, client: Client) -> None:
    login, ordinary = begin(user, "nowhere"), begin("ann", "nowhere")
    heard, expected = converse(login, client), converse(ordinary, WRONG)
    assert [len(one) for one in heard[:1]] == [len(one) for one in expected[:1]]
    salt, iterations = heard[1].split(b",")[1:]
    made_up = hashlib.sha256(user.encode() + hostile.IDENTITIES.mock_nonce).digest()[:16]
    assert (salt, iterations) == (b"s=" + base64.b64encode(made_up), b"i=4096")
    assert heard[2:] == expected[2:] == [b""]
    assert isinstance(login.outcome, pgwire.Refusal)
    assert isinstance(ordinary.outcome, pgwire.Refusal)
    assert login.outcome == replace(ordinary.outcome, message=f'password authentication failed for user "{user}"')


def test_doomed_exchange_fails_even_with_the_right_password() -> None:
    verifier = scram.parse_verifier(hostile.make_verifier(b"right").value)
    assert verifier is not None
    for is_doomed in (False, True):
        server, client = scram.ServerExchange(verifier, is_doomed=is_doomed, end_point_hash=None), Client()
        challenge = server.challenge(client.binding + client.bare, is_bound=False)
        assert isinstance(challenge, bytes)
        assert (server.verify(client.prove(challenge)) is None) == is_doomed


def test_password_is_good_to_the_last_moment() -> None:
    for since, is_good in ((timedelta(0), True), (timedelta(microseconds=1), False)):
        role = hostile.make_role(hostile.make_verifier(b"right"), valid_until=NOW - since)
        login = begin(identities=replace(hostile.IDENTITIES, roles={"ann": role}))
        converse(login, Client())
        assert isinstance(login.outcome, ScramProof) == is_good


# md5.


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_md5_leaves_the_verifier(chunk: int) -> None:
    login = begin("old")
    assert converse(login, Client(), chunk)[1:] == [b""]
    assert login.outcome == Md5Proof(verifier=hostile.MD5_VERIFIER)


def test_md5_salt_is_another_each_time() -> None:
    assert begin("old").begin() != begin("old").begin()


@pytest.mark.parametrize(
    ("password", "message"),
    [
        (b"md5" + b"0" * 32, 'password authentication failed for user "old"'),
        (b"right", 'password authentication failed for user "old"'),
        (b"\xff" * 60_000, 'password authentication failed for user "old"'),
        (b"", "empty password returned by client"),
    ],
)
def test_md5_is_refused_when_the_answer_is_wrong(password: bytes, message: str) -> None:
    login = begin("old")
    login.begin()
    assert login.receive(messages.response(password + b"\0")) == b""
    assert isinstance(login.outcome, pgwire.Refusal)
    assert (login.outcome.sqlstate, login.outcome.message) == ("28P01", message)


@pytest.mark.parametrize("body", [b"", b"md5", b"md5\0\0", b"\0md5\0"])
def test_md5_is_a_violation_when_its_terminator_is_not_its_last_byte(body: bytes) -> None:
    login = begin("old")
    login.begin()
    with pytest.raises(ProtocolViolation, match="invalid password packet size"):
        login.receive(messages.response(body))


# Framing.


@pytest.mark.parametrize(("user", "most"), [("ann", 1024), ("old", 65535)])
def test_message_is_a_violation_before_it_comes_when_it_is_too_long(user: str, most: int) -> None:
    for length in (0, 3, most + 1, 0xFFFFFFFF):
        login = begin(user)
        login.begin()
        with pytest.raises(ProtocolViolation, match="invalid message length"):
            login.receive(b"p" + length.to_bytes(4))
    login = begin(user)
    login.begin()
    assert login.receive(b"p" + most.to_bytes(4)) == b""


@pytest.mark.parametrize("user", ["ann", "old"])
def test_message_is_a_violation_at_its_first_byte_when_of_another_type(user: str) -> None:
    for kind in b"QXRG\0":
        login = begin(user)
        login.begin()
        with pytest.raises(ProtocolViolation, match=f"response, got message type {kind}"):
            login.receive(bytes([kind]))


@pytest.mark.parametrize("user", ["ann", "old", "nobody"])
@pytest.mark.parametrize("turn", [0, 1])
def test_bytes_behind_a_message_are_a_violation_and_prove_nothing(user: str, turn: int) -> None:
    login, client = begin(user), Client()
    said = client.answer(login.begin())
    if turn and user != "old":
        said = client.answer(login.receive(said))
    with pytest.raises(ProtocolViolation, match="bytes behind"):
        login.receive(said + b"Q")
    assert login.outcome is None


@pytest.mark.parametrize("client", [Client(), WRONG], ids=["right", "wrong"])
def test_bytes_after_the_last_message_are_a_violation(client: Client) -> None:
    login = begin()
    converse(login, client)
    outcome = login.outcome
    assert login.receive(b"") == b""
    assert login.outcome is outcome
    with pytest.raises(ProtocolViolation):
        login.receive(b"Q")


def test_nothing_is_taken_after_a_violation() -> None:
    login = begin()
    right = Client().answer(login.begin())
    with pytest.raises(ProtocolViolation, match="message type 81"):
        login.receive(b"Q")
    with pytest.raises(ProtocolViolation, match="message type 81"):
        login.receive(right)


# Who may have a session.

CLOSED = Database(allows_connections=False, connection_limit=0)


@pytest.mark.parametrize(
    ("may_log_in", "limit", "database", "expected"),
    [
        (False, 0, None, "28000"),
        (True, 0, None, "53300"),
        (True, 1, None, "3D000"),
        (True, 1, replace(CLOSED, connection_limit=-2), "55000"),
        (True, 1, CLOSED, "55000"),
        (True, 1, replace(CLOSED, allows_connections=True), "53300"),
    ],
)
def test_first_reason_counts_when_there_are_many(
    may_log_in: bool, limit: int, database: Database | None, expected: str
) -> None:
    role = hostile.make_role(hostile.make_verifier(b"right"), may_log_in=may_log_in)
    identities = replace(
        hostile.IDENTITIES,
        roles={"ann": replace(role, connection_limit=limit)},
        databases={"shop": database} if database is not None else {},
    )
    assert refusal(begin(identities=identities), Client())[0] == expected


@pytest.mark.parametrize(("user", "sent"), [("ann", Request.SASL_FINAL), ("old", None)])
def test_client_hears_that_its_password_is_right_before_it_is_refused(user: str, sent: Request | None) -> None:
    login = begin(user, "nowhere")
    last = converse(login, Client())[-1]
    assert last.endswith(messages.request(Request.OK))
    assert isinstance(login.outcome, pgwire.Refusal)
    assert login.outcome.message == 'database "nowhere" does not exist'
    assert (sent is not None) == (len(last) > len(messages.request(Request.OK)))


def test_database_is_that_of_the_users_name_when_none_is_named() -> None:
    for told in ({}, {"database": ""}):
        login = Authentication(
            read_startup(startup(user="ann", **told)),
            hostile.IDENTITIES,
            address="192.0.2.1",
            now=NOW,
            end_point_hash=None,
        )
        assert (login.user, login.database) == ("ann", "ann")


def test_names_are_cut_by_bytes_when_too_long() -> None:
    login = begin("\u00e9" * 40, "d" * 64)
    assert login.user.encode("utf-8", "surrogateescape") == ("\u00e9" * 40).encode()[:63]
    assert login.database == "d" * 63


def test_refusal_carries_a_name_that_is_not_utf8_as_it_came() -> None:
    login = Authentication(
        read_startup(packet((3 << 16).to_bytes(4) + b"user\0\xff\0\0")),
        hostile.IDENTITIES,
        address="192.0.2.1",
        now=NOW,
        end_point_hash=None,
    )
    converse(login, Client())
    assert isinstance(login.outcome, pgwire.Refusal)
    assert b'for user "\xff"' in pgwire.error_response(login.outcome)


@pytest.mark.parametrize("end_point_hash", [None, END_POINT_HASH])
def test_administrator_is_rejected_without_being_asked(end_point_hash: bytes | None) -> None:
    login = begin("zorya_admin", end_point_hash=end_point_hash)
    assert login.begin() == b""
    encryption = "no encryption" if end_point_hash is None else "SSL encryption"
    assert login.outcome == pgwire.Refusal(
        sqlstate=pgwire.Sqlstate.INVALID_AUTHORIZATION_SPECIFICATION,
        message='pg_hba.conf rejects connection for host "192.0.2.1", user "zorya_admin", database "shop", '
        + encryption,
        hint="",
    )


@pytest.mark.parametrize("value", ["true", "t", "TRUE", "yes", "y", "on", "ON", "1"])
def test_replication_is_rejected_without_being_asked(value: str) -> None:
    login = begin(replication=value)
    assert login.begin() == b""
    assert isinstance(login.outcome, pgwire.Refusal)
    assert login.outcome.message == (
        'no pg_hba.conf entry for replication connection from host "192.0.2.1", user "ann", no encryption'
    )


@pytest.mark.parametrize("value", ["", "false", "off", "no", "0", "database", "o", "11", "truer", "nonsense"])
def test_replication_is_left_to_the_engine_when_it_is_not_plainly_that(value: str) -> None:
    login = begin(replication=value)
    converse(login, Client())
    assert login.outcome == SCRAM_PROOF


# Negotiation.


def negotiated(raw: bytes, major: int) -> tuple[bytes, bytes]:
    to_client, accepted = authentication.negotiate(read_startup(raw), major)
    assert read_startup(accepted.raw) == accepted
    return to_client, accepted.raw


@pytest.mark.parametrize(("minor", "major"), [(0, 15), (0, 18), (1, 18), (2, 18)])
def test_nothing_is_negotiated_when_the_engine_knows_the_version(minor: int, major: int) -> None:
    raw = startup(3 << 16 | minor, user="ann")
    assert negotiated(raw, major) == (b"", raw)


@pytest.mark.parametrize(("minor", "major", "known"), [(2, 17, 0), (1, 14, 0), (3, 18, 2), (9999, 18, 2)])
def test_version_is_lowered_when_the_engine_does_not_know_it(minor: int, major: int, known: int) -> None:
    to_client, raw = negotiated(startup(3 << 16 | minor, user="ann"), major)
    assert raw == startup(3 << 16 | known, user="ann")
    assert to_client == b"v\0\0\0\x0c" + (3 << 16 | known).to_bytes(4) + bytes(4)


def test_options_of_the_protocol_are_taken_out_and_listed() -> None:
    to_client, raw = negotiated(startup(user="ann", **{"_pq_.b": "1", "options": "-c a=b", "_pq_.a": ""}), 17)
    assert raw == startup(user="ann", options="-c a=b")
    assert to_client == b"v\0\0\0\x1a\0\3\0\0\0\0\0\2_pq_.b\0_pq_.a\0"


def test_client_may_not_be_bound_without_tls() -> None:
    login = begin()
    login.begin()
    with pytest.raises(ProtocolViolation, match="invalid SASL authentication mechanism"):
        login.receive(sasl(BOUND + b"n=,r=x", messages.SCRAM_PLUS))
