"""Both halves of a login with real PostgreSQL and real clients: nobody can tell it from the engine's own."""

from collections.abc import Iterator
from functools import cache

import psycopg
import pytest

from gateway.real_postgres import LONG, LONG_ODD, ODD_PASSWORD, PASSWORD, RealPostgres, serving
from gateway.stand_in import Attempt, StandIn, converse, standing_in
from zorya.engines.base import Installation
from zorya.engines.postgres import configuration, installations


@cache
def installation(major: int) -> Installation | None:
    return next((one for one in installations.find(None) if one.version.startswith(f"{major}.")), None)


@pytest.fixture(scope="module", params=[15, 17])
def engine(request: pytest.FixtureRequest) -> Iterator[RealPostgres]:
    found = installation(request.param)
    if found is None:
        pytest.skip(f"PostgreSQL {request.param} is not installed")
    with serving(found) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(engine: RealPostgres) -> Iterator[StandIn]:
    with standing_in(engine) as server:
        yield server


def attempt(user: str = "ann", database: str = "shop", password: str = PASSWORD, **more: str) -> Attempt:
    return Attempt(parameters={"user": user, "database": database, **more}, password=password)


ATTEMPTS = {
    "scram": attempt(),
    "md5": attempt("old"),
    "odd password": attempt("odd", password=ODD_PASSWORD),
    "odd name": attempt("na, me="),
    "not yet expired": attempt("lasting"),
    "session variables": attempt(options="-c work_mem=5MB", application_name="test"),
    "bad session variable": attempt(options="-c no_such_thing=1"),
    "wrong password": attempt(password="wrong"),
    "wrong password, md5": attempt("old", password="wrong"),
    "wrong password, no login": attempt("group_", password="wrong"),
    "wrong password, no database": attempt(database="nowhere", password="wrong"),
    "unknown role": attempt("nobody"),
    "unknown role with a strange name": attempt("n\u00f6b\u00f6dy"),
    "no password": attempt("bare"),
    "expired": attempt("expired"),
    "expired, md5": attempt("old_expired"),
    "unreadable verifier": attempt("broken"),
    "password in place of a verifier": attempt("plain"),
    "no login": attempt("group_"),
    "no login, md5": attempt("old_group"),
    "no login, no database": attempt("group_", "nowhere"),
    "role limit": attempt("shut_out"),
    "role limit, no database": attempt("shut_out", "nowhere"),
    "role limit, superuser": attempt("chief"),
    "no database": attempt(database="nowhere"),
    "database by default": attempt(database=""),
    "closed database": attempt(database="closed"),
    "closed database, superuser": attempt("chief", "closed"),
    "database limit": attempt(database="crowded"),
    "database limit, superuser": attempt("chief", "crowded"),
    "database half removed": attempt(database="half_gone"),
    "long names": attempt(LONG + "more", LONG + "more"),
    "long unknown names": attempt("u" * 70, "d" * 70),
    "long unknown database": attempt(database="d" * 70),
    "long name cut within a letter": attempt(LONG_ODD + "\u00e9\u00e9"),
    "administrator": attempt(configuration.ADMIN),
    "administrator, replication": attempt(configuration.ADMIN, replication="true"),
    "replication": attempt(replication="1"),
    "replication, in short": attempt(replication="T"),
    "replication, unknown role": attempt("nobody", replication="on"),
    "replication of a database": attempt(replication="database"),
    "replication, but not": attempt(replication="off"),
    "replication, ambiguous": attempt(replication="o"),
    "newer protocol": Attempt(
        parameters={"user": "ann", "_pq_.b": "1", "database": "shop", "_pq_.a": ""},
        password=PASSWORD,
        version=3 << 16 | 9,
    ),
    "option of the protocol, wrong password": attempt(password="wrong", **{"_pq_.odd": "1"}),
}

# A parameter that is wrong in itself PostgreSQL refuses before it asks for a password, and the gateway leaves to it.
REFUSED_LATER = {"replication, ambiguous"}


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("name", ATTEMPTS)
def test_client_hears_the_same_as_from_the_engine(
    engine: RealPostgres, gateway: StandIn, name: str, is_tls: bool
) -> None:
    tried = Attempt(**{**vars(ATTEMPTS[name]), "is_tls": is_tls})
    expected, heard = converse(engine.port, tried), converse(gateway.port, tried)
    assert expected
    if name in REFUSED_LATER:
        expected, heard = expected[-1:], heard[-1:]
    assert heard == expected


@pytest.mark.parametrize(("user", "password"), [("ann", PASSWORD), ("odd", ODD_PASSWORD), ("old", PASSWORD)])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_libpq_gets_a_session(gateway: StandIn, user: str, password: str, sslmode: str) -> None:
    with psycopg.connect(
        host="127.0.0.1", port=gateway.port, user=user, password=password, dbname="shop", sslmode=sslmode
    ) as connection:
        row = connection.execute("SELECT session_user, current_database(), repeat('x', 1000000)").fetchone()
    assert row == (user, "shop", "x" * 1_000_000)


def test_libpq_gets_a_session_when_it_insists_on_channel_binding(gateway: StandIn) -> None:
    with psycopg.connect(
        host="127.0.0.1",
        port=gateway.port,
        user="ann",
        password=PASSWORD,
        dbname="shop",
        sslmode="require",
        channel_binding="require",
    ) as connection:
        assert connection.execute("SELECT 6 * 7").fetchone() == (42,)


@pytest.mark.parametrize("name", [name for name in ATTEMPTS if "protocol" not in name])
def test_libpq_shows_the_same_as_with_the_engine(engine: RealPostgres, gateway: StandIn, name: str) -> None:
    def error(port: int) -> str:
        tried = ATTEMPTS[name]
        told = {"dbname" if key == "database" else key: value for key, value in tried.parameters.items()}
        conninfo = psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=port, password=tried.password, sslmode="disable", **told
        )
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError as problem:
            return str(problem).replace(str(port), "PORT")
        return ""

    assert error(gateway.port) == error(engine.port)


def test_engine_has_the_last_word_when_the_password_is_another_by_now(engine: RealPostgres, gateway: StandIn) -> None:
    engine.run("ALTER ROLE changing PASSWORD 'changed'")
    *_, last = converse(gateway.port, attempt("changing"))
    assert isinstance(last, tuple)
    kind, fields = last
    assert (kind, fields[b"S"], fields[b"C"]) == (b"E", b"FATAL", b"28P01")
    assert fields[b"M"] == b'password authentication failed for user "changing"'
