"""What a cluster's own user may do and may not, on every installed major version."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from fix_home import running_for_a_file
from harness import Server
from zorya.engines.postgres import installations

MAJORS = sorted({one.major for one in installations.find(None)})

DENIED: tuple[type[psycopg.Error], ...] = (
    errors.InsufficientPrivilege,
    errors.UndefinedObject,  # a role or an extension that is not there cannot be had
    errors.ReservedName,
    errors.FeatureNotSupported,  # an extension that this installation does not bring
    errors.InvalidGrantOperation,
    errors.CantChangeRuntimeParam,
    errors.UndefinedFile,  # the same in PostgreSQL 14
    errors.InvalidParameterValue,  # SET ROLE to one that is not there
)
DENIED_BY_OLDER: tuple[type[psycopg.Error], ...] = (*DENIED, errors.SyntaxError)


@dataclass(frozen=True)
class Tenant:
    """A cluster of one major version, and a session of its own user."""

    server: Server
    major: int
    name: str
    url: str
    session: psycopg.Connection


@pytest.fixture(scope="module")
def shared_server(templates: Path) -> Iterator[Server]:
    """A server for all tests of this file: they try to break out, not to break."""
    with running_for_a_file(templates) as started:
        yield started


@pytest.fixture(scope="module", params=MAJORS)
def tenant(shared_server: Server, request: pytest.FixtureRequest) -> Iterator[Tenant]:
    """The cluster of one major version."""
    name = f"v{request.param}"
    shared_server.run("create", name, "--version", request.param)
    url = shared_server.url(name)
    with psycopg.connect(url, autocommit=True) as session:
        assert str(session.info.server_version // 10000) == request.param
        yield Tenant(server=shared_server, major=int(request.param), name=name, url=url, session=session)
    shared_server.run("delete", name, "--yes")


def allowed(tenant: Tenant, *statements: str) -> None:
    """Run statements that have to succeed."""
    for statement in statements:
        tenant.session.execute(statement)


def refuses(session: psycopg.Connection, statement: str) -> None:
    """Run a statement that has to be denied."""
    with pytest.raises(DENIED):
        session.execute(statement)


# What it may.


def test_user_has_no_right_beyond_making_databases_and_roles(tenant: Tenant) -> None:
    row = tenant.session.execute(
        "SELECT rolsuper, rolreplication, rolbypassrls, rolcreatedb, rolcreaterole FROM pg_roles"
        " WHERE rolname = current_user"
    ).fetchone()
    assert row == (False, False, False, True, True)
    member_of = tenant.session.execute(
        "SELECT array_agg(g.rolname::text ORDER BY 1) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid"
        " WHERE m.member = 'zorya'::regrole AND g.rolname IN ("
        " SELECT rolname FROM pg_roles WHERE rolsuper OR rolname ~ '^pg_')"
    ).fetchone()
    assert member_of == (["pg_monitor", "pg_signal_backend"],)


def test_user_owns_its_database(tenant: Tenant) -> None:
    row = tenant.session.execute(
        "SELECT current_database(), pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    assert row == (tenant.name, "zorya")
    allowed(tenant, "CREATE SCHEMA mine", "CREATE TABLE public.here (n int)", "DROP TABLE here", "DROP SCHEMA mine")


def test_user_may_make_databases_and_clients_reach_them(tenant: Tenant) -> None:
    allowed(tenant, "CREATE DATABASE second")
    with psycopg.connect(tenant.url, dbname="second", autocommit=True) as session:
        session.execute("CREATE TABLE t (n int)")
    allowed(tenant, "DROP DATABASE second")


def test_user_may_make_roles_and_they_can_log_in(tenant: Tenant) -> None:
    allowed(
        tenant,
        "CREATE ROLE clerk LOGIN PASSWORD 'secret'",
        "CREATE ROLE staff",
        "GRANT staff TO clerk",
        "CREATE TABLE ledger (n int)",
        "GRANT SELECT ON ledger TO staff",
    )
    with psycopg.connect(tenant.url, user="clerk", password="secret", autocommit=True) as session:
        assert session.execute("SELECT * FROM ledger").fetchall() == []
        refuses(session, "INSERT INTO ledger VALUES (1)")
        refuses(session, "CREATE ROLE other")
    allowed(tenant, "DROP TABLE ledger", "ALTER ROLE clerk PASSWORD 'other'", "DROP ROLE clerk", "DROP ROLE staff")


@pytest.mark.parametrize("extension", ["pgcrypto", "hstore", "citext", "pg_trgm", "btree_gist", "uuid-ossp"])
def test_user_may_make_trusted_extensions(tenant: Tenant, extension: str) -> None:
    known = "SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = %s"
    [trusted] = tenant.session.execute(known, [extension]).fetchone() or [None]
    if not trusted:
        pytest.skip(f"PostgreSQL {tenant.major} of this host has no trusted extension {extension}")
    allowed(tenant, f'CREATE EXTENSION "{extension}"', f'DROP EXTENSION "{extension}"')


def test_user_reads_the_statistics_of_other_roles_and_ends_their_sessions(tenant: Tenant) -> None:
    allowed(tenant, "CREATE ROLE busy LOGIN PASSWORD 'secret'")
    with psycopg.connect(tenant.url, user="busy", password="secret", autocommit=True) as other:
        other.execute("SELECT 'what it does'")
        pid = other.info.backend_pid
        seen = tenant.session.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
        assert seen == ("SELECT 'what it does'",)
        assert tenant.session.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone() == (True,)
        with pytest.raises(psycopg.errors.AdminShutdown):
            other.execute("SELECT 1")
    allowed(tenant, "DROP ROLE busy")


def test_user_may_end_its_own_session(tenant: Tenant) -> None:
    with psycopg.connect(tenant.url, autocommit=True) as session, pytest.raises(errors.AdminShutdown):
        session.execute("SELECT pg_terminate_backend(pg_backend_pid())")


# What it may not.

HOST_FILES = [
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_file('postmaster.pid')",
    "SELECT pg_read_binary_file('/etc/passwd')",
    "SELECT pg_read_file('PG_VERSION', 0, 2)",
    "SELECT pg_stat_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT pg_ls_dir('.')",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT pg_current_logfile(), pg_read_file('log/engine.log')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(lo_from_bytea(0, 'x'), '/tmp/zorya-broken-out')",
    "CREATE TEMP TABLE a (t text); COPY a FROM '/etc/passwd'",
    "CREATE TEMP TABLE b (t text); COPY b FROM '../conf/pg_hba.conf'",
    "COPY (SELECT 1) TO '/tmp/zorya-broken-out'",
    "CREATE TABLESPACE t LOCATION '/tmp'",
    "CREATE TABLESPACE t LOCATION ''",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_reload_conf()",
    "SELECT pg_switch_wal()",
    "SELECT pg_promote()",
    "SELECT pg_create_restore_point('x')",
    "SELECT pg_log_backend_memory_contexts(pg_backend_pid())",
]
PROGRAMS = [
    "CREATE TEMP TABLE c (t text); COPY c FROM PROGRAM 'id'",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "CREATE FUNCTION run(cstring) RETURNS int LANGUAGE c AS 'libc.so.6', 'system'",
    "CREATE FUNCTION run(text) RETURNS text LANGUAGE internal AS 'pg_read_file_all'",
    "LOAD '/lib/x86_64-linux-gnu/libc.so.6'",
    "LOAD 'libc.so.6'",
    "LOAD '$libdir/../../../../../../tmp/zorya.so'",
    "CREATE LANGUAGE plpython3u",
    "CREATE EXTENSION plpython3u",
    "CREATE EXTENSION plperlu",
    "CREATE EXTENSION pltclu",
]
UNTRUSTED = [
    f"CREATE EXTENSION {name}"
    for name in (
        *("file_fdw", "adminpack", "dblink", "postgres_fdw", "pageinspect", "pg_buffercache", "pg_visibility"),
        *(
            "pg_surgery",
            "pg_walinspect",
            "amcheck",
            "pgstattuple",
            "pg_freespacemap",
            "pg_prewarm",
            "pg_stat_statements",
        ),
        *("xml2", "sslinfo", "pgrowlocks", "test_decoding"),
    )
]
RIGHTS = [
    *(
        statement.format(role)
        for role in ("pg_read_server_files", "pg_write_server_files", "pg_execute_server_program", "zorya_admin")
        for statement in (
            "GRANT {} TO zorya",
            "GRANT {} TO zorya WITH ADMIN OPTION",
            "CREATE ROLE broken_out IN ROLE {}",
            "CREATE ROLE broken_out ADMIN zorya; GRANT {} TO broken_out",
            "SET ROLE {}",
            "ALTER GROUP {} ADD USER zorya",
            "CREATE ROLE {}",
            "CREATE ROLE broken_out; ALTER ROLE broken_out RENAME TO {}",
        )
        if not (role == "zorya_admin" and statement.startswith(("CREATE ROLE {}", "CREATE ROLE broken_out; ALTER")))
    ),
    "ALTER ROLE zorya SUPERUSER",
    "ALTER ROLE zorya REPLICATION",
    "ALTER ROLE zorya BYPASSRLS",
    "CREATE ROLE broken_out SUPERUSER",
    "CREATE ROLE broken_out REPLICATION",
    "CREATE ROLE broken_out BYPASSRLS",
    "ALTER ROLE zorya_admin PASSWORD 'x'",
    "ALTER ROLE zorya_admin RENAME TO nobody",
    "ALTER ROLE zorya_admin NOSUPERUSER",
    "ALTER ROLE zorya_admin NOLOGIN",
    "ALTER ROLE zorya_admin SET search_path = public",
    "ALTER ROLE ALL SET session_preload_libraries = 'x'",
    "DROP ROLE zorya_admin",
    "DROP OWNED BY zorya_admin",
    "REASSIGN OWNED BY zorya_admin TO zorya",
    "SET SESSION AUTHORIZATION zorya_admin",
    "UPDATE pg_authid SET rolsuper = true WHERE rolname = 'zorya'",
    "DELETE FROM pg_authid WHERE rolname = 'zorya_admin'",
    "UPDATE pg_database SET datdba = 'zorya'::regrole",
    "INSERT INTO pg_auth_members (roleid, member, grantor) VALUES (10, 'zorya'::regrole, 10)",
    "UPDATE pg_proc SET prosecdef = true WHERE proname = 'pg_read_file'",
    "UPDATE pg_language SET lanpltrusted = true",
    "CREATE TABLE pg_catalog.pg_trap (n int)",
    "CREATE FUNCTION pg_catalog.trap() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER FUNCTION pg_read_file(text) SECURITY DEFINER",
    "ALTER FUNCTION pg_read_file(text) OWNER TO zorya",
    "GRANT EXECUTE ON FUNCTION pg_reload_conf() TO zorya; SELECT pg_reload_conf()",
    "CREATE FUNCTION trap() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION trap() OWNER TO zorya_admin",
    "CREATE TABLE trap (n int); ALTER TABLE trap OWNER TO zorya_admin",
    "CREATE SCHEMA trap AUTHORIZATION zorya_admin",
    "CREATE DATABASE trap OWNER zorya_admin",
    "ALTER DATABASE postgres OWNER TO zorya",
    "ALTER DATABASE postgres SET search_path = public",
    "ALTER DATABASE postgres RENAME TO trap",
    "ALTER DATABASE postgres ALLOW_CONNECTIONS false",
    "DROP DATABASE postgres",
    "ALTER DATABASE template1 SET session_preload_libraries = 'x'",
    "ALTER DATABASE template1 IS_TEMPLATE false",
    "ALTER DATABASE template1 OWNER TO zorya",
]
SETTINGS = [
    *(
        f"{statement} SET {setting}"
        for statement in ("ALTER SYSTEM", "ALTER ROLE zorya", "ALTER ROLE zorya IN DATABASE {database}", "")
        for setting in (
            "session_preload_libraries = '/tmp/zorya.so'",
            "dynamic_library_path = '/tmp'",
            "allow_system_table_mods = on",
            "lc_messages = 'C'",
            "log_statement = 'none'",
            "ignore_checksum_failure = on",
            "zero_damaged_pages = on",
        )
    ),
    "ALTER SYSTEM SET archive_command = 'id'",
    "ALTER SYSTEM SET shared_preload_libraries = '/tmp/zorya.so'",
    "ALTER SYSTEM SET work_mem = '64MB'",
    "ALTER SYSTEM RESET ALL",
    "ALTER DATABASE {database} SET session_preload_libraries = '/tmp/zorya.so'",
    "SET archive_command = 'id'",
    "SET ssl_passphrase_command = 'id'",
    "SET hba_file = '/tmp/x'",
    "SET data_directory = '/tmp'",
    "SET fsync = off",
    "GRANT SET ON PARAMETER dynamic_library_path TO zorya; SET dynamic_library_path = '/tmp'",
    "GRANT ALTER SYSTEM ON PARAMETER archive_command TO zorya; ALTER SYSTEM SET archive_command = 'id'",
]
OBJECTS = [
    "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1' PUBLICATION p",
    "CREATE SUBSCRIPTION s CONNECTION 'dbname=postgres' PUBLICATION p WITH (connect = false)",
    "CREATE PUBLICATION p FOR ALL TABLES",
    "SELECT pg_create_physical_replication_slot('s')",
    "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
    "SELECT pg_drop_replication_slot('s')",
    "CREATE FOREIGN DATA WRAPPER w",
    "CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
    "CREATE ACCESS METHOD m TYPE index HANDLER bthandler",
    "CREATE TYPE shell; CREATE TYPE shell (INPUT = int4in, OUTPUT = int4out)",
    "CREATE OPERATOR CLASS c FOR TYPE int USING btree AS OPERATOR 1 <",
    "CREATE TEXT SEARCH TEMPLATE t (LEXIZE = dsimple_lexize)",
    "CREATE CAST (bytea AS text) WITHOUT FUNCTION",
    "CREATE FUNCTION trap() RETURNS int LANGUAGE sql SUPPORT generate_series_int4_support AS 'SELECT 1'",
    "COMMENT ON ROLE zorya_admin IS 'x'",
]


@pytest.mark.parametrize("statement", [*HOST_FILES, *PROGRAMS, *UNTRUSTED, *RIGHTS, *SETTINGS, *OBJECTS])
def test_statement_that_would_lead_out_of_the_cluster_is_denied(tenant: Tenant, statement: str) -> None:
    refuse_all_but_preparations(tenant, statement.replace("{database}", tenant.name).strip())


def refuse_all_but_preparations(tenant: Tenant, statement: str) -> None:
    """Run the last of some statements, which has to be denied, after the others, and undo those."""
    *preparations, last = statement.split("; ")
    if not preparations:
        refuses(tenant.session, last)
        return
    with psycopg.connect(tenant.url) as session:
        for preparation in preparations:
            try:
                session.execute(preparation)
            except DENIED_BY_OLDER:  # older versions do not know every statement
                session.rollback()
                return
        refuses(session, last)
        session.rollback()


def test_text_search_and_xml_do_not_read_files_of_the_host(tenant: Tenant) -> None:
    with pytest.raises(errors.InvalidParameterValue, match="file name"):
        tenant.session.execute("CREATE TEXT SEARCH DICTIONARY d (TEMPLATE = synonym, SYNONYMS = '../../etc/passwd')")
    entity = "'<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><x>&e;</x>'"
    try:
        found = tenant.session.execute(f"SELECT xpath('string(/x)', xmlparse(document {entity}))::text").fetchone()
    except psycopg.Error as error:
        assert "root:" not in str(error)
    else:
        assert found is not None
        assert "root:" not in found[0]


def test_templates_of_databases_are_not_the_users_to_change(tenant: Tenant) -> None:
    with psycopg.connect(tenant.url, dbname="template1", autocommit=True) as session:
        refuses(session, "CREATE EXTENSION hstore")
        refuses(session, "CREATE SCHEMA trap")
        if tenant.major >= 15:
            refuses(session, "CREATE TABLE public.trap (n int)")


def test_database_that_zorya_works_in_is_not_the_users_to_change(tenant: Tenant) -> None:
    with psycopg.connect(tenant.url, dbname="postgres", autocommit=True) as session:
        refuses(session, "CREATE SCHEMA trap")
        refuses(session, "CREATE EXTENSION hstore")
        refuses(session, "CREATE FUNCTION pg_catalog.trap() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        if tenant.major >= 15:
            refuses(session, "CREATE FUNCTION public.trap() RETURNS int LANGUAGE sql AS 'SELECT 1'")


@pytest.mark.parametrize("password", ["", "zorya_admin", "x", None])
def test_administrator_cannot_log_in_through_the_endpoint(tenant: Tenant, password: str | None) -> None:
    # None is the user's own password, out of the URL.
    own = psycopg.conninfo.conninfo_to_dict(tenant.url)["password"]
    for database in (tenant.name, "postgres"):
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
            psycopg.connect(tenant.url, user="zorya_admin", password=password or own, dbname=database)


@pytest.mark.parametrize("system_user", ["postgres", "root", ""])
def test_system_users_are_nobody_to_the_engine(tenant: Tenant, system_user: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"password authentication failed|no PostgreSQL user name"):
        psycopg.connect(tenant.url, user=system_user or "zorya_admin ", dbname="postgres")


def test_role_that_is_set_for_every_session_is_not_taken_when_it_is_the_administrator(tenant: Tenant) -> None:
    allowed(tenant, "CREATE ROLE sly LOGIN PASSWORD 'secret'", "ALTER ROLE sly SET role = 'zorya_admin'")
    try:
        with psycopg.connect(tenant.url, user="sly", password="secret") as session:
            assert session.execute("SELECT current_user, session_user").fetchone() == ("sly", "sly")
    except psycopg.OperationalError as error:
        assert "permission denied" in str(error)
    allowed(tenant, "DROP ROLE sly")


@pytest.mark.parametrize("replication", ["true", "database"])
def test_replication_connection_is_refused(tenant: Tenant, replication: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf|permission denied|must be superuser"):
        psycopg.connect(tenant.url, replication=replication)


@pytest.mark.parametrize(
    "option",
    [
        *("role=zorya_admin", "session_authorization=zorya_admin", "session_preload_libraries=/tmp/zorya.so"),
        *("local_preload_libraries=/tmp/zorya.so", "allow_system_table_mods=on", "dynamic_library_path=/tmp"),
        *("unix_socket_directories=/tmp", "hba_file=/tmp/x", "log_connections=on"),
    ],
)
def test_option_of_the_connection_cannot_raise_its_rights(tenant: Tenant, option: str) -> None:
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(tenant.url, options=f"-c {option}")


def test_unix_socket_is_for_zorya_alone(tenant: Tenant) -> None:
    shown = tenant.server.show(tenant.name)
    folder = tenant.server.home / "run" / shown["id"]
    assert folder.stat().st_mode & 0o777 == 0o700
    [port] = tenant.session.execute("SELECT current_setting('port')").fetchone() or [""]
    for user in ("zorya", "postgres"):
        with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
            psycopg.connect(tenant.url, host=str(folder), port=port, user=user)


def test_administrator_is_refused_on_the_engines_own_port(tenant: Tenant) -> None:
    [port] = tenant.session.execute("SELECT current_setting('port')").fetchone() or [""]
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf rejects connection"):
        psycopg.connect(tenant.url, port=port, user="zorya_admin")


def test_session_of_the_administrator_cannot_be_ended_by_the_user(tenant: Tenant) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root is the administrator's system user here")
    folder = tenant.server.home / "run" / tenant.server.show(tenant.name)["id"]
    [port] = tenant.session.execute("SELECT current_setting('port')").fetchone() or [""]
    with psycopg.connect(host=str(folder), port=port, user="zorya_admin", dbname="postgres") as administrator:
        pid = administrator.info.backend_pid
        for function in ("pg_terminate_backend", "pg_cancel_backend"):
            refuses(tenant.session, f"SELECT {function}({pid})")
        hidden = tenant.session.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
        assert hidden is not None
        assert administrator.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (True,)


def test_nothing_was_left_behind_on_the_host(tenant: Tenant) -> None:
    assert not Path("/tmp/zorya-broken-out").exists()
