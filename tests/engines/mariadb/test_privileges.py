"""What the cluster's user may do, and what nobody but Zorya may."""

import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from engines.base_cluster import DATABASE, PASSWORD, USER
from engines.mariadb.clusters import Cluster, rows
from zorya.engines.mariadb import administrator, privileges

_DENIALS = {
    1044,  # to a database
    1045,  # to the server, FILE
    1095,  # to somebody else's thread
    1142,  # to a table
    1143,  # to a column
    1227,  # for want of a global right
    1370,  # to a routine
    1698,  # of a proxy
    1959,  # of a role
}
"""Why a statement is refused: each is one of rights, and not of what it names."""


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[Cluster]:
    """One running engine for all these tests."""
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
def user(server: Cluster) -> Iterator[Any]:
    """A session of the cluster's user."""
    with server.connect() as connection:
        yield connection


@pytest.fixture
def other(user: Any) -> Iterator[str]:
    """An account that the user has made, without rights, with an empty password."""
    name = f"other_{uuid.uuid4().hex[:8]}"
    rows(user, f"CREATE USER {name}@'%'")
    yield name
    rows(user, f"DROP USER IF EXISTS {name}@'%'")


def _refused(connection: Any, statement: str) -> bool:
    try:
        rows(connection, statement)
    except pymysql.MySQLError:
        return True
    return False


@pytest.mark.parametrize("name", ["a", "ab", "abc", "abcd", "maria", "mysqlx", "a_long_name", "Mysql", "MY_SQ", "äöü"])
def test_databases_are_the_users_when_they_are_not_the_systems(user: Any, other: str, name: str) -> None:
    rows(user, f"CREATE DATABASE `{name}`")
    try:
        rows(user, f"CREATE TABLE `{name}`.t (id INT PRIMARY KEY)")
        rows(user, f"GRANT SELECT ON `{privileges.escape(name)}`.* TO {other}@'%'")
        rows(user, f"GRANT INSERT ON `{name}`.t TO {other}@'%'")
    finally:
        rows(user, f"DROP DATABASE `{name}`")


@pytest.mark.parametrize(
    "pattern",
    [
        *("%", "mysql", "mysq_", "_ysql", "m%", "mysql%", "%l", "____l", "_____", "_%", "%_", "m____", "_y___"),
        *("mysq\\_%", "\\mysql", "m\\ysql", "mysq\\l", "mysql\\", "__s__", "___q_", "MYSQL", "%mysql%", "m__%"),
        *("______%%%", "____%", "_____%", "my\\ql", "m_s_l", "%%%%%", "\\_____", "m\\_sql%"),
    ],
)
@pytest.mark.parametrize("right", ["ALL PRIVILEGES", "SELECT", "INSERT"])
def test_no_right_in_the_systems_database_comes_of_a_pattern_when_it_is_passed_on(
    server: Cluster, user: Any, other: str, pattern: str, right: str
) -> None:
    _refused(user, f"GRANT {right} ON `{pattern}`.* TO {other}@'%' WITH GRANT OPTION")
    with server.connect(user=other, password="", database=None) as taken:
        for table in ("global_priv", "db", "plugin"):
            assert _refused(taken, f"SELECT * FROM mysql.{table}")
            assert _refused(taken, f"INSERT INTO mysql.{table} () VALUES ()")
        assert _refused(taken, "CREATE TABLE mysql.own (id INT)")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM mysql.global_priv",
        "SELECT * FROM mysql.user",
        "UPDATE mysql.db SET Db = 'x'",
        "INSERT INTO mysql.global_priv (Host, User, Priv) VALUES ('%', 'x', '{}')",
        "INSERT INTO mysql.plugin (name, dl) VALUES ('disks', 'disks.so')",
        "CREATE TABLE mysql.own (id INT)",
        "DROP TABLE mysql.db",
        "ALTER TABLE mysql.db ADD x INT",
        "CREATE PROCEDURE mysql.p() SELECT 1",
        "CREATE VIEW shop.v AS SELECT * FROM mysql.global_priv",
        "GRANT SUPER ON *.* TO zorya@'%'",
        "GRANT RELOAD ON *.* TO zorya@'%'",
        "GRANT CREATE USER ON *.* TO x@'%' IDENTIFIED BY 'x'",
        "GRANT SELECT ON *.* TO x@'%' IDENTIFIED BY 'x'",
        "GRANT PROXY ON ''@'' TO zorya@'%'",
        "GRANT SELECT ON mysql.global_priv TO zorya@'%'",
        "FLUSH PRIVILEGES",
        "FLUSH TABLES",
        "FLUSH TABLES WITH READ LOCK",
        "RESET MASTER",
        "SHUTDOWN",
        "SET GLOBAL max_connections = 1",
        "SET GLOBAL init_connect = 'x'",
        "SET SESSION sql_log_bin = 0",
        "SHOW BINARY LOGS",
        "SHOW BINLOG EVENTS",
        "PURGE BINARY LOGS TO 'x'",
        "SHOW ENGINE INNODB STATUS",
        "SELECT * FROM information_schema.INNODB_TRX",
        "INSTALL PLUGIN disks SONAME 'disks'",
        "INSTALL SONAME 'disks'",
        "UNINSTALL SONAME 'metadata_lock_info'",
        "CREATE FUNCTION f RETURNS INT SONAME 'x.so'",
        "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST 'x')",
        "SELECT 1 INTO OUTFILE '/tmp/zorya-must-not-be'",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE shop.x",
        "CHANGE MASTER TO MASTER_HOST = 'x'",
        "CREATE DEFINER = root@localhost PROCEDURE shop.p() SELECT 1",
        "CREATE DEFINER = 'x'@'y' VIEW shop.v AS SELECT 1",
        "SET ROLE x",
    ],
)
def test_a_statement_is_refused_when_it_would_reach_beyond_the_users_databases(user: Any, statement: str) -> None:
    with pytest.raises(pymysql.MySQLError) as refused:
        rows(user, statement)
    assert refused.value.args[0] in _DENIALS


def test_nobody_elses_session_is_ended_when_the_user_tries(server: Cluster, user: Any) -> None:
    with server.connect_as_admin() as admin:
        with pytest.raises(pymysql.MySQLError) as refused:
            rows(user, f"KILL {admin.thread_id()}")
        assert refused.value.args[0] in _DENIALS
        assert rows(admin, "SELECT 1") == [(1,)]


def test_no_file_of_the_host_is_read_when_load_file_is_called(user: Any) -> None:
    assert rows(user, "SELECT LOAD_FILE('/etc/passwd')") == [(None,)]


def test_a_table_stays_in_its_folder_when_it_is_to_be_elsewhere(server: Cluster, user: Any) -> None:
    elsewhere = server.folders.root / "tmp"
    for engine in ("InnoDB", "Aria", "MyISAM"):
        _refused(user, f"CREATE TABLE far_{engine} (id INT) ENGINE = {engine} DATA DIRECTORY = '{elsewhere}'")
        assert list(elsewhere.rglob("far_*")) == []
        rows(user, f"DROP TABLE IF EXISTS far_{engine}")


def _admin_works(server: Cluster) -> None:
    with server.connect_as_admin() as admin:
        (grants,) = rows(admin, "SHOW GRANTS")
        assert grants[0].startswith("GRANT ALL PRIVILEGES ON *.*")
        assert grants[0].endswith("WITH GRANT OPTION")


def test_the_administrator_is_nowhere_to_be_read_when_somebody_looks(server: Cluster, user: Any) -> None:
    name = administrator.read(server.folders.conf).name.value
    with server.connect_as_admin() as admin:
        assert rows(admin, f"SELECT COUNT(*) FROM mysql.global_priv WHERE User = '{name}'") == [(0,)]
        for question in (
            "SHOW FULL PROCESSLIST",
            "SELECT * FROM information_schema.PROCESSLIST",
            "SELECT * FROM information_schema.USER_PRIVILEGES",
            "SELECT * FROM information_schema.SCHEMA_PRIVILEGES",
            "SELECT * FROM information_schema.USER_STATISTICS",
            "SELECT * FROM information_schema.APPLICABLE_ROLES",
            "SHOW GLOBAL VARIABLES",
            "SHOW GLOBAL STATUS",
            "SHOW WARNINGS",
        ):
            assert name not in str(rows(user, question)), question
    tables = rows(
        user, "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'performance_schema'"
    )
    for schema, table in tables:
        try:
            assert name not in str(rows(user, f"SELECT * FROM {schema}.{table}")), table
        except pymysql.MySQLError:
            continue
    _admin_works(server)


def test_an_account_in_memory_only_can_be_taken_over_when_its_name_is_known(server: Cluster, user: Any) -> None:
    """Why the administrator's name is a secret."""
    with server.connect_as_admin() as admin:
        values = "('localhost', 'known', '{\"access\":18446744073709551615,\"version_id\":101100}')"
        rows(admin, f"INSERT INTO mysql.global_priv (Host, User, Priv) VALUES {values}")
        # As the init file does it, but for what takes rights back.
        for statement in (server.folders.conf / "init.sql").read_text().splitlines():
            if not statement.startswith("UPDATE"):
                rows(admin, statement.rstrip(";"))
        rows(admin, "DELETE FROM mysql.global_priv WHERE User = 'known'")
    rows(user, "RENAME USER known@localhost TO known@'127.0.0.1'")
    with server.connect(user="known", password="", database=None) as taken:
        assert "ALL PRIVILEGES ON *.*" in rows(taken, "SHOW GRANTS")[0][0]
    rows(user, "DROP USER known@'127.0.0.1'")
    _admin_works(server)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER USER {0}@localhost IDENTIFIED BY 'x'",
        "SET PASSWORD FOR {0}@localhost = PASSWORD('x')",
        "RENAME USER {0}@localhost TO own@'127.0.0.1'",
        "DROP USER {0}@localhost",
        "CREATE OR REPLACE USER {0}@localhost",
        "GRANT PROXY ON {0}@localhost TO zorya@'%'",
        "GRANT USAGE ON *.* TO {0}@localhost IDENTIFIED BY 'x'",
        "GRANT SELECT ON shop.* TO {0}@localhost IDENTIFIED BY 'x'",
        "CREATE USER {0}@'%'",
        "CREATE ROLE {0}",
        "CREATE USER ''@localhost",
        "CREATE USER '%'@localhost",
        "CREATE USER 'zorya%'@localhost",
    ],
)
def test_the_administrator_stays_who_it_is_when_others_are_given_names_like_its_own(
    server: Cluster, user: Any, statement: str
) -> None:
    names = ("zorya_admin", "root", "zorya-", "mariadb.sys", "zorya-%")
    for name in names:
        _refused(user, statement.format(f"`{name}`"))
    _admin_works(server)
    for name in (*names, "", "%", "zorya%", "own"):
        for host in ("localhost", "%", "127.0.0.1"):
            _refused(user, f"DROP USER `{name}`@`{host}`")
        _refused(user, f"DROP ROLE `{name}`")


def test_a_right_in_all_databases_is_taken_back_when_the_engine_starts(cluster: Cluster, server: Cluster) -> None:
    with server.connect_as_admin() as admin:
        rows(admin, "GRANT SUPER, SHOW DATABASES ON *.* TO gone_wrong@'%' IDENTIFIED BY 'x'")
    server.stop()
    server.start()
    with server.connect(user="gone_wrong", password="x", database=None) as found:
        assert rows(found, "SHOW GRANTS")[0][0].startswith("GRANT USAGE ON *.*")
    with server.connect_as_admin() as admin:
        rows(admin, "DROP USER gone_wrong@'%'")
    with server.connect() as connection:
        assert rows(connection, "SHOW GRANTS")[0][0].startswith("GRANT CREATE USER ON *.*")


def test_users_can_be_made_and_given_roles_when_the_user_wants_them(server: Cluster, user: Any, other: str) -> None:
    rows(user, "CREATE ROLE reader")
    try:
        rows(user, f"GRANT SELECT ON {DATABASE}.* TO reader")
        rows(user, f"GRANT reader TO {other}@'%'")
        with server.connect(user=other, password="", database=None) as connection:
            rows(connection, "SET ROLE reader")
            rows(connection, f"USE {DATABASE}")
    finally:
        rows(user, "DROP ROLE reader")


def test_a_dump_comes_back_whole_when_the_user_makes_it(server: Cluster, user: Any) -> None:
    rows(user, "CREATE TABLE kept (id INT PRIMARY KEY, word TEXT)")
    rows(user, "INSERT INTO kept VALUES (1, 'wörd'), (2, NULL)")
    rows(user, "CREATE FUNCTION twice(x INT) RETURNS INT RETURN x * 2")
    rows(user, "CREATE VIEW seen AS SELECT id FROM kept")
    access = [f"--host={server.address.host}", f"--port={server.address.port}", f"--user={USER}"]
    access += [f"--password={PASSWORD.value}", "--protocol=tcp"]
    dumped = subprocess.run(
        ["mariadb-dump", "--no-defaults", *access, "--routines", "--events", "--triggers", DATABASE],
        capture_output=True,
        check=True,
    )
    assert dumped.stderr == b""
    rows(user, "DROP TABLE kept")
    rows(user, "DROP FUNCTION twice")
    rows(user, "DROP VIEW seen")
    subprocess.run(["mariadb", "--no-defaults", *access, DATABASE], input=dumped.stdout, check=True)
    assert rows(user, "SELECT *, twice(id) FROM kept JOIN seen USING (id) ORDER BY id") == [
        (1, "wörd", 2),
        (2, None, 4),
    ]
    rows(user, "DROP TABLE kept")
    rows(user, "DROP FUNCTION twice")
    rows(user, "DROP VIEW seen")
