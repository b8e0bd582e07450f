"""Passwords: verifiers made here are PostgreSQL's own, are given to it without a trace, and let in who knows them."""

import asyncio
import contextlib
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from engines.base_cluster import PASSWORD, USER
from engines.clusters import Cluster
from waiting import wait_until
from zorya.core import errors
from zorya.core.model import Secret
from zorya.engines.postgres import verifiers

ODD = [
    "pässwörd",
    "I\u00adX",  # a soft hyphen, which SASLprep removes
    "\u2168 \u00aa",  # IX and a, after compatibility normalisation
    "a\u00a0b\u2003c",  # spaces that are made plain ones
    "\u0627\u0031",  # right to left with a digit at the end, which is not allowed, and taken as it is
    "bell\u0007",
    "bell\u0007ü",  # a control character that is not allowed
    "o\u0340",  # deprecated, not allowed before normalisation and gone after it
    "\u00ad",  # nothing is left of it
    "\U0001f40e",  # not assigned in Unicode 3.2
    "quote' \\ \" $",
    " ",
]


@contextlib.contextmanager
def set_back(cluster: Cluster) -> Iterator[None]:
    """Give the user its first password again at the end."""
    try:
        yield
    finally:
        asyncio.run(cluster.engine.set_password(cluster.folders, USER, cluster.verifier))


def test_verifiers_of_one_password_differ_and_have_postgresqls_form() -> None:
    first, second = verifiers.new(PASSWORD), verifiers.new(PASSWORD)
    assert first != second
    assert first.value.startswith("SCRAM-SHA-256$4096:")
    verifiers.check(first)


@pytest.mark.parametrize("text", ["", "hunter2", "md5" + 32 * "0", "SCRAM-SHA-256$4096:a$b", "'; DROP"])
def test_what_is_no_verifier_is_told(text: str) -> None:
    with pytest.raises(ValueError) as told:
        verifiers.check(Secret(text))
    assert text == "" or text not in str(told.value)


def test_first_password_lets_the_user_in_and_another_does_not(running: Cluster) -> None:
    running.connect().close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        running.connect(password="other")


def test_new_password_lets_the_user_in_and_the_old_does_not(running: Cluster) -> None:
    with running.connect() as session, set_back(running):
        new = running.engine.new_verifier(Secret("new"))
        asyncio.run(running.engine.set_password(running.folders, USER, new))
        running.connect(password="new").close()
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            running.connect()
        assert session.execute("SELECT 1").fetchall() == [(1,)]


def test_password_that_is_not_ascii_lets_in_as_if_postgresql_had_been_told_it(running: Cluster) -> None:
    with running.connect_as_admin() as session, set_back(running):
        for odd in ODD:
            new = running.engine.new_verifier(Secret(odd))
            asyncio.run(running.engine.set_password(running.folders, USER, new))
            running.connect(password=odd).close()
            # The other way round: the same client lets PostgreSQL make the verifier.
            session.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(USER), sql.Literal(odd)))
            running.connect(password=odd).close()


def test_password_is_set_for_a_role_of_any_name(running: Cluster) -> None:
    name = 'x" SUPERUSER; -- \n é'
    with running.connect_as_admin() as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        try:
            asyncio.run(running.engine.set_password(running.folders, name, running.verifier))
            with running.connect(user=name, dbname="postgres") as other:
                assert other.execute("SELECT current_user::text").fetchone() == (name,)
        finally:
            session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_setting_a_password_fails_without_a_trace_when_there_is_no_such_role(running: Cluster) -> None:
    mark = running.log_mark()
    with pytest.raises(errors.EngineProblem, match="does not exist") as raised:
        asyncio.run(running.engine.set_password(running.folders, "nobody", running.verifier))
    assert "SCRAM" not in str(raised.value)
    assert "SCRAM" not in running.log(mark)


def test_no_password_and_no_verifier_is_logged_or_shown_whatever_is_logged(running: Cluster) -> None:
    everything = {
        "log_statement": "all",
        "log_min_duration_statement": "0",
        "log_min_error_statement": "debug5",
        "log_transaction_sample_rate": "1",
        "debug_print_parse": "on",
        "debug_print_plan": "on",
        "debug_print_rewritten": "on",
    }
    mark = running.log_mark()
    with running.connect_as_admin() as session:
        try:
            for name, value in everything.items():
                session.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
            session.execute("SELECT pg_reload_conf()")
            wait_until(lambda: setting(running, "log_statement") == "all", "everything is logged")
            asyncio.run(running.engine.set_password(running.folders, USER, running.verifier))
            with pytest.raises(errors.EngineProblem):
                asyncio.run(running.engine.set_password(running.folders, "nobody", running.verifier))
        finally:
            session.execute("ALTER SYSTEM RESET ALL")
            session.execute("SELECT pg_reload_conf()")
    log = running.log(mark)
    assert "pg_reload_conf" in log
    assert "debug_print_raw_parse" in log  # what is set before is logged
    assert running.verifier.value not in log
    assert "ALTER ROLE" not in log


def setting(cluster: Cluster, name: str) -> str:
    with cluster.connect_as_admin() as session:
        row = session.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def test_role_with_an_md5_verifier_is_let_in_and_every_other_is_asked_by_scram(running: Cluster) -> None:
    with running.connect_as_admin() as session:
        try:
            session.execute("SET password_encryption = md5")
            session.execute("CREATE ROLE old LOGIN PASSWORD 'old'")
            running.connect(user="old", password="old", dbname="postgres").close()
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                running.connect(user="old", password="new", dbname="postgres")
            if psycopg.pq.version() >= 160000:
                # The client takes nothing but SCRAM.
                running.connect(require_auth="scram-sha-256").close()
                with pytest.raises(psycopg.OperationalError, match="auth"):
                    running.connect(user="old", password="old", dbname="postgres", require_auth="scram-sha-256")
                # Whether a role is there cannot be told from how it is asked.
                with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                    running.connect(user="nobody", require_auth="scram-sha-256")
        finally:
            session.execute("DROP ROLE IF EXISTS old")
