"""Logging in to an engine, by value; test_login.py has real engines."""

import pytest

from gateway import hostile
from gateway.fakes import parse_error
from gateway.hostile import MD5_PROOF, SCRAM_PROOF, Engine
from zorya.core.errors import EngineProblem
from zorya.gateway.postgres import messages
from zorya.gateway.postgres.authentication import Proof, ScramProof
from zorya.gateway.postgres.engine_login import EngineLogin
from zorya.gateway.postgres.messages import Request

OK = messages.request(Request.OK)
SASL = messages.request(Request.SASL, b"SCRAM-SHA-256\0\0")


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def log_in(engine: Engine, login: EngineLogin, chunk: int = 10_000) -> bytes:
    """Answer what the client was sent."""
    to_engine, to_client = login.begin(), b""
    while to_engine:
        said, to_engine = engine.answer(to_engine), b""
        for piece in pieces(said, chunk):
            for_engine, for_client = login.receive(piece)
            to_engine, to_client = to_engine + for_engine, to_client + for_client
    return to_client


def new_login(proof: Proof = SCRAM_PROOF) -> EngineLogin:
    return EngineLogin(b"startup", "ann", proof)


def challenged(login: EngineLogin) -> bytes:
    """Let the engine ask for SCRAM; answer the client's nonce."""
    to_engine, to_client = login.receive(SASL)
    assert to_client == b""
    return to_engine.partition(b",r=")[2]


@pytest.mark.parametrize("chunk", [1, 3, 10_000])
@pytest.mark.parametrize(("user", "proof"), [("ann", SCRAM_PROOF), ("old", MD5_PROOF)])
def test_client_hears_nothing_but_of_its_session(user: str, proof: Proof, chunk: int) -> None:
    login = new_login(proof)
    assert login.begin() == b"startup"
    assert log_in(Engine(user), login, chunk) == Engine.SESSION
    assert login.is_over


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_client_hears_the_engines_error_when_it_is_turned_down(chunk: int) -> None:
    login = new_login(ScramProof(client_key=bytes(32), server_key=bytes(32)))
    error = log_in(Engine("ann"), login, chunk)
    assert parse_error(error)["C"] == "28P01"
    assert login.is_over


def test_session_begins_at_once_when_the_engine_asks_nothing() -> None:
    login = new_login()
    assert login.receive(Engine.SESSION) == (b"", Engine.SESSION)
    assert login.is_over


def test_everything_is_for_the_client_once_it_is_over() -> None:
    login = new_login()
    assert login.receive(Engine.SESSION + b"anything") == (b"", Engine.SESSION + b"anything")
    assert login.receive(b"at all") == (b"", b"at all")


def test_it_is_not_over_before_the_last_message_is_whole() -> None:
    login = new_login()
    login.receive(Engine.SESSION[:-1])
    assert not login.is_over
    login.receive(Engine.SESSION[-1:])
    assert login.is_over


def test_notice_of_any_length_is_passed_on_without_being_kept() -> None:
    login = new_login()
    notice = messages.message(b"N", b"SNOTICE\0M" + b"x" * 1_000_000 + b"\0\0")
    heard = b""
    for piece in pieces(OK + notice, 50_000):
        to_engine, to_client = login.receive(piece)
        assert (to_engine, to_client) == (b"", piece)
        heard += to_client
    assert heard == OK + notice
    assert not login.is_over


@pytest.mark.parametrize(
    "asked",
    [
        b"R\0\0\0\x08\0\0\0\3",  # a password in the clear
        b"R\0\0\0\x08\0\0\0\7",  # GSSAPI
        b"R\0\0\0\x08\0\0\0\x09",  # SSPI
        messages.request(Request.MD5_PASSWORD, b"salt"),
        messages.request(Request.SASL, b"SCRAM-SHA-256-PLUS\0\0"),
        messages.request(Request.SASL, b""),
        messages.request(Request.SASL_CONTINUE, b"r=x,s=AAAA,i=1"),
        messages.request(Request.SASL_FINAL, b"v=AAAA"),
        messages.request(Request.SASL, b"SCRAM-SHA-256\0" * 200),
        b"R\0\0\0\4",
        b"R\0\0\0\3",
        b"E\0\0\0\0",
        b"Z\0\0\0\5I",
        b"v\0\0\0\x0c\0\3\0\0\0\0\0\0",
        b"H",
    ],
)
def test_engine_is_given_up_when_it_asks_for_what_the_proof_cannot_answer(asked: bytes) -> None:
    login = new_login()
    with pytest.raises(EngineProblem):
        login.receive(asked.ljust(5, b"\0"))


def test_engine_is_given_up_when_it_asks_for_scram_and_there_is_an_md5_proof() -> None:
    with pytest.raises(EngineProblem):
        new_login(MD5_PROOF).receive(SASL)


def test_engine_is_given_up_when_it_does_not_know_the_password() -> None:
    login = new_login(ScramProof(client_key=SCRAM_PROOF.client_key, server_key=bytes(32)))
    with pytest.raises(EngineProblem, match="does not know the client's password verifier"):
        log_in(Engine("ann"), login)


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"r={nonce},s=AAAA,i=1",
        b"r=other,s=AAAA,i=1",
        b"r={nonce}more,s=,i=1",
        b"r={nonce}more,s=AAAA,i=x",
        b"r={nonce}more,s=AAAA",
        b"m=1,r={nonce}more,s=AAAA,i=1",
        b"r={nonce}\xff,s=AAAA,i=1",
        b"r={nonce}more,s=AAAA,i=1,",
        b"e=other-error",
    ],
)
def test_engine_is_given_up_when_its_challenge_is_not_for_this_client(challenge: bytes) -> None:
    login = new_login()
    nonce = challenged(login)
    with pytest.raises(EngineProblem):
        login.receive(messages.request(Request.SASL_CONTINUE, challenge.replace(b"{nonce}", nonce)))


@pytest.mark.parametrize(
    "sent",
    [
        OK,
        SASL,
        messages.request(Request.SASL_FINAL, b""),
        messages.request(Request.SASL_FINAL, b"v="),
        messages.request(Request.SASL_FINAL, b"v=!"),
        messages.request(Request.SASL_FINAL, b"v=AAAA"),
        messages.request(Request.SASL_FINAL, b"e=invalid-proof"),
    ],
)
def test_engine_is_given_up_when_it_does_not_end_scram_with_its_signature(sent: bytes) -> None:
    login = new_login()
    nonce = challenged(login)
    to_engine, _ = login.receive(messages.request(Request.SASL_CONTINUE, b"r=%bmore,s=AAAA,i=1" % nonce))
    assert to_engine.startswith(b"p")
    with pytest.raises(EngineProblem):
        login.receive(sent)


def test_engine_is_given_up_when_it_asks_again_after_it_let_the_client_in() -> None:
    login = new_login()
    login.receive(OK)
    with pytest.raises(EngineProblem):
        login.receive(SASL)


def test_problem_names_the_role_and_no_secret() -> None:
    with pytest.raises(EngineProblem, match="'ann'") as caught:
        new_login().receive(b"R\0\0\0\x08\0\0\0\3")
    assert "ann" not in caught.value.client_message
    assert repr(hostile.CLIENT_KEY) not in str(caught.value)
