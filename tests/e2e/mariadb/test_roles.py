"""What the user of a MariaDB cluster may do and may not: all with its databases and users, nothing with the server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

from e2e.mariadb.clients import LOST, number_of, one, rows, run
from fix_home import running_for_a_file
from harness import Server
from zorya.engines.mariadb import administrator

DENIED = {
    *(1044, 1045, 1095, 1465, 1142, 1143, 1227, 1370, 1372, 1396, 1410, 1419, 1699, 1145, 1147, 1290, 1193, 1238),
    *(1470, 1141, 1959, 1960, 1982, 1698, 1356, 1449, 1924, 1229, 1728, 1231, 1275, 4166, 1305, 1133),
}
"""MariaDB's numbers for what an account may not do, or what it may not because something is not there."""


@pytest.fixture(scope="module")
def server(templates: Path) -> Iterator[Server]:
    """A server for all tests of this file: they try to break out, not to break."""
    with running_for_a_file(templates, ZORYA_FREEZE_AFTER="never", ZORYA_PAUSE_AFTER="never") as started:
        started.api.create({"name": "shop", "engine": "mariadb"})
        yield started


@pytest.fixture
def session(server: Server) -> Iterator[Any]:
    """A session of the cluster's own user."""
    with server.mysql() as opened:
        yield opened


def refuses(session: Any, statement: str) -> int:
    """Run a statement that has to be denied; answer the error's number."""
    with pytest.raises(pymysql.err.MySQLError) as denied:
        rows(session, statement)
    number = int(denied.value.args[0])
    assert number in DENIED, f"{statement}: {denied.value.args}"
    return number


# What it may.


def test_user_may_make_databases_of_any_name_and_everything_in_them(session: Any) -> None:
    for name in ("maria", "a", "ab", "abc", "abcd", "mysqx", "nysql", "my_database", "sysdata", "früh", "a-b.c d"):
        run(
            session,
            f"CREATE DATABASE `{name}`",
            f"CREATE TABLE `{name}`.t (id int AUTO_INCREMENT PRIMARY KEY, x varchar(20), KEY (x))",
            f"CREATE VIEW `{name}`.v AS SELECT x FROM `{name}`.t",
            f"INSERT INTO `{name}`.t (x) VALUES ('here')",
            f"ALTER TABLE `{name}`.t ADD y int",
        )
        assert one(session, f"SELECT x FROM `{name}`.v") == "here"
        run(session, f"DROP DATABASE `{name}`")


def test_user_may_have_routines_triggers_and_events(session: Any) -> None:
    run(
        session,
        "CREATE TABLE t (n int)",
        "CREATE PROCEDURE p() BEGIN INSERT INTO t VALUES (1); SELECT * FROM t; END",
        "CREATE FUNCTION f(x int) RETURNS int DETERMINISTIC RETURN x + 1",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.n = f(NEW.n)",
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO INSERT INTO t VALUES (9)",
        "CALL p()",
    )
    assert one(session, "SELECT n FROM t") == 2
    run(session, "DROP EVENT e", "DROP TRIGGER g", "DROP PROCEDURE p", "DROP FUNCTION f", "DROP TABLE t")


def test_user_may_make_users_and_roles_and_give_them_rights(server: Server, session: Any) -> None:
    run(
        session,
        "CREATE DATABASE ledger",
        "CREATE TABLE ledger.t AS SELECT 1 AS n",
        "CREATE USER clerk IDENTIFIED BY 'secret', boss IDENTIFIED BY 'secret'",
        "CREATE ROLE staff",
        "GRANT SELECT ON ledger.* TO staff",
        "GRANT staff TO clerk",
        "GRANT ALL ON ledger.* TO boss WITH GRANT OPTION",
    )
    with server.mysql(user="clerk", password="secret", database=None) as clerk:
        run(clerk, "SET ROLE staff", "SET DEFAULT ROLE staff")
    with server.mysql(user="clerk", password="secret", database="ledger") as clerk:
        assert one(clerk, "SELECT n FROM t") == 1
        refuses(clerk, "INSERT INTO t VALUES (2)")
        refuses(clerk, "CREATE USER other")
    with server.mysql(user="boss", password="secret", database="ledger") as boss:
        run(boss, "INSERT INTO t VALUES (2)", "GRANT INSERT ON ledger.t TO clerk")
        refuses(boss, "CREATE DATABASE beyond")
    run(session, "ALTER USER clerk IDENTIFIED BY 'other'", "REVOKE staff FROM clerk", "RENAME USER boss TO head")
    run(session, "DROP USER clerk, head", "DROP ROLE staff", "DROP DATABASE ledger")


def test_user_may_ask_what_clients_ask(session: Any) -> None:
    for statement in (
        "SHOW DATABASES",
        "SHOW VARIABLES",
        "SHOW STATUS",
        "SHOW PROCESSLIST",
        "SHOW GRANTS",
        "SHOW ENGINES",
        "SHOW COLLATION",
        "SHOW CHARACTER SET",
        "SHOW TABLE STATUS",
        "SHOW WARNINGS",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM information_schema.user_privileges",
        "EXPLAIN SELECT 1",
        "SELECT @@version, @@sql_mode, @@tx_isolation, @@time_zone",
    ):
        rows(session, statement)
    assert "shop" in {row[0] for row in rows(session, "SHOW DATABASES")}


def test_user_sees_and_ends_its_own_sessions(server: Server, session: Any) -> None:
    with server.mysql() as other:
        listed = {row[0] for row in rows(session, "SELECT id FROM information_schema.processlist")}
        assert {number_of(session), number_of(other)} <= listed
        run(session, f"KILL {number_of(other)}")


# What it may not.

SERVERS_OWN = (
    "SHUTDOWN",
    "SET GLOBAL max_connections = 1",
    "SET GLOBAL general_log = 1",
    "SET GLOBAL general_log_file = '/tmp/x.log'",
    "SET GLOBAL slow_query_log_file = '/tmp/x.log'",
    "SET GLOBAL init_connect = 'SELECT 1'",
    "SET GLOBAL local_infile = 0",
    "SET GLOBAL read_only = 1",
    "SET GLOBAL innodb_buffer_pool_size = 8388608",
    "SET GLOBAL secure_file_priv = ''",
    "SET GLOBAL plugin_dir = '/tmp'",
    "SET GLOBAL require_secure_transport = 0",
    "SET GLOBAL proxy_protocol_networks = '*'",
    "SET SESSION sql_log_bin = 0",
    "SET SESSION binlog_format = STATEMENT",
    "SET SESSION server_id = 7",
    "SET SESSION gtid_seq_no = 7",
    "INSTALL PLUGIN x SONAME 'x.so'",
    "INSTALL SONAME 'auth_ed25519'",
    "UNINSTALL PLUGIN InnoDB",
    "CREATE FUNCTION sys_exec RETURNS int SONAME 'lib_mysqludf_sys.so'",
    "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1')",
    "FLUSH PRIVILEGES",
    "FLUSH TABLES WITH READ LOCK",
    "FLUSH LOGS",
    "FLUSH SSL",
    "RESET MASTER",
    "PURGE BINARY LOGS BEFORE NOW()",
    "SHOW BINARY LOGS",
    "SHOW BINLOG EVENTS",
    "SHOW MASTER STATUS",
    "CHANGE MASTER TO MASTER_HOST = '127.0.0.1'",
    "START SLAVE",
    "BACKUP STAGE START",
    "SET GLOBAL event_scheduler = OFF",
    "SHOW ENGINE INNODB STATUS",
)
FILES = (
    "SELECT 1 INTO OUTFILE '/tmp/zorya-of-a-tenant'",
    "SELECT 1 INTO DUMPFILE '/tmp/zorya-of-a-tenant'",
    "LOAD DATA INFILE '/etc/passwd' INTO TABLE shop.t",
)
SYSTEM_TABLES = (
    "SELECT * FROM mysql.global_priv",
    "SELECT * FROM mysql.user",
    "SELECT * FROM mysql.proxies_priv",
    "INSERT INTO mysql.global_priv VALUES ('%', 'evil', '{}')",
    "UPDATE mysql.global_priv SET priv = '{}'",
    "DELETE FROM mysql.db",
    "CREATE TABLE mysql.mine (n int)",
    "DROP TABLE mysql.db",
    "DROP DATABASE mysql",
    "CREATE VIEW shop.v AS SELECT * FROM mysql.global_priv",
    "CREATE TRIGGER mysql.g BEFORE INSERT ON mysql.db FOR EACH ROW SET @x = 1",
    "LOCK TABLES mysql.global_priv WRITE",
    "RENAME TABLE shop.t TO mysql.t",
    "CREATE PROCEDURE mysql.p() SELECT 1",
    "ALTER DATABASE mysql CHARACTER SET latin1",
)
RIGHTS = (
    "GRANT SUPER ON *.* TO friend",
    "GRANT FILE ON *.* TO friend",
    "GRANT ALL ON *.* TO friend",
    "GRANT SELECT ON *.* TO friend",
    "GRANT PROCESS ON *.* TO zorya",
    "GRANT RELOAD, SHUTDOWN ON *.* TO zorya",
    "GRANT ALL ON mysql.* TO friend",
    "GRANT SELECT ON mysql.global_priv TO friend",
    "GRANT ALL ON `mysq_`.* TO friend",
    "GRANT ALL ON `m%`.* TO friend",
    "GRANT ALL ON `%`.* TO friend",
    "GRANT ALL ON `mysql%`.* TO friend",
    "GRANT ALL ON `%mysql`.* TO friend",
    "GRANT ALL ON `_____`.* TO friend",
    "GRANT ALL ON `____l`.* TO friend",
    "GRANT SELECT ON `my%l`.* TO friend",
    "GRANT PROXY ON ''@'%' TO friend",
    "GRANT PROXY ON root@localhost TO friend",
)


@pytest.mark.parametrize("kind", ["server", "files", "system tables", "rights"])
def test_user_may_not_reach_beyond_its_databases(session: Any, kind: str) -> None:
    run(session, "CREATE TABLE IF NOT EXISTS shop.t (line text)", "CREATE OR REPLACE USER friend IDENTIFIED BY 'x'")
    statements = {"server": SERVERS_OWN, "files": FILES, "system tables": SYSTEM_TABLES, "rights": RIGHTS}[kind]
    allowed = []
    for statement in statements:
        try:
            refuses(session, statement)
        except (AssertionError, pytest.fail.Exception) as error:
            allowed.append(f"{statement}: {error}")
    assert allowed == []
    run(session, "DROP TABLE shop.t", "DROP USER friend")


def test_name_like_that_of_the_system_tables_in_other_letters_is_another_database(server: Server, session: Any) -> None:
    run(session, "CREATE OR REPLACE USER friend IDENTIFIED BY 'x'", "GRANT ALL ON `MYSQL`.* TO friend")
    with server.mysql(user="friend", password="x", database=None) as friend:
        for statement in SYSTEM_TABLES:
            refuses(friend, statement)
    run(session, "DROP USER friend")


def test_files_of_the_host_cannot_be_read(session: Any) -> None:
    assert one(session, "SELECT LOAD_FILE('/etc/passwd')") is None


def test_no_other_accounts_sessions_are_seen_or_ended(server: Server, session: Any) -> None:
    run(session, "CREATE USER other IDENTIFIED BY 'x'")
    with server.mysql(user="other", password="x", database=None) as other:
        listed = {row[0] for row in rows(session, "SELECT user FROM information_schema.processlist")}
        assert listed == {"zorya"}
        refuses(session, f"KILL {number_of(other)}")
        own = number_of(session)
        for number in range(1, 40):
            if number != own:
                with pytest.raises(pymysql.err.MySQLError):
                    run(session, f"KILL {number}")
        assert one(other, "SELECT 1") == 1
    run(session, "DROP USER other")
    # Zorya's own session is among those that it could not end.
    assert server.show("shop")["sessions"] >= 1


ADMINISTRATORS = ("zorya-admin", "root", "mariadb.sys", "mysql", "nobody")
"""Names that Zorya's own account might have. Its real name is a secret of each cluster."""


def test_nothing_that_the_user_may_ask_tells_the_name_of_zoryas_own_account(server: Server, session: Any) -> None:
    conf = server.home / "clusters" / str(server.show("shop")["id"]) / "conf"
    secret = administrator.read(conf).name.value
    tables = [row[0] for row in rows(session, "SHOW TABLES FROM information_schema")]
    questions = [f"SELECT * FROM information_schema.`{table}`" for table in tables]
    questions += ["SHOW PROCESSLIST", "SHOW VARIABLES", "SHOW STATUS", "SHOW GRANTS", "SHOW ENGINES", "SHOW PLUGINS"]
    answered = 0
    for question in questions:
        with contextlib.suppress(pymysql.err.MySQLError):
            assert secret not in repr(rows(session, question)), question
            answered += 1
    assert answered > 40


def test_zoryas_own_account_cannot_be_seen_changed_or_taken_over(server: Server, session: Any) -> None:
    allowed = []
    for name in ADMINISTRATORS:
        for host in ("localhost", "%"):
            account = f"`{name}`@`{host}`"
            for statement in (
                f"SHOW GRANTS FOR {account}",
                f"SHOW CREATE USER {account}",
                f"SET PASSWORD FOR {account} = PASSWORD('x')",
                f"ALTER USER {account} IDENTIFIED BY 'x'",
                f"RENAME USER {account} TO mine",
                f"DROP USER {account}",
                f"GRANT SELECT ON shop.* TO {account}",
                f"GRANT `{name}` TO zorya",
                f"GRANT PROXY ON {account} TO zorya",
                f"SET ROLE `{name}`",
                f"CREATE DEFINER = {account} PROCEDURE shop.evil() SQL SECURITY DEFINER SELECT USER()",
                f"CREATE DEFINER = {account} VIEW shop.evil AS SELECT * FROM mysql.global_priv",
                f"CREATE DEFINER = {account} EVENT shop.evil ON SCHEDULE EVERY 1 SECOND DO SET GLOBAL read_only = 1",
            ):
                try:
                    refuses(session, statement)
                except (AssertionError, pytest.fail.Exception) as error:
                    allowed.append(f"{statement}: {error}")
    assert allowed == []
    server.run("password", "shop")


def test_account_of_the_administrators_name_has_no_more_rights_than_its_maker(server: Server, session: Any) -> None:
    made = []
    for name in ADMINISTRATORS:
        for host in ("localhost", "%"):
            with contextlib.suppress(pymysql.err.MySQLError):
                run(session, f"CREATE OR REPLACE USER `{name}`@`{host}` IDENTIFIED BY 'x'")
                made.append((name, host))
    run(session, "CREATE TABLE IF NOT EXISTS shop.t (line text)")
    for name, host in made:
        if host == "%":
            with server.mysql(user=name, password="x", database=None) as own:
                for statement in (*FILES, "SHUTDOWN", "SET GLOBAL read_only = 1", "SELECT * FROM mysql.global_priv"):
                    refuses(own, statement)
    # Zorya goes on to administer the cluster, now and after a start.
    server.run("password", "shop")
    with server.mysql() as woken:
        server.run("pause", "shop", "--force")
        with contextlib.suppress(*LOST):
            one(woken, "SELECT 1")
    server.run("password", "shop")
    with server.mysql() as after:
        for name, host in made:
            with contextlib.suppress(pymysql.err.MySQLError):
                run(after, f"DROP USER `{name}`@`{host}`")
        run(after, "DROP TABLE shop.t")


def test_rights_stay_so_after_a_pause(server: Server, session: Any) -> None:
    run(session, "CREATE TABLE IF NOT EXISTS shop.t (line text)")
    before = sorted(rows(session, "SHOW GRANTS FOR CURRENT_USER"))
    server.run("pause", "shop", "--force")
    with server.mysql() as woken:
        assert sorted(rows(woken, "SHOW GRANTS FOR CURRENT_USER")) == before
        for statement in (*FILES, "SHUTDOWN", "SELECT * FROM mysql.global_priv", "GRANT ALL ON *.* TO zorya"):
            refuses(woken, statement)
        run(woken, "DROP TABLE shop.t", "CREATE DATABASE after_it", "DROP DATABASE after_it")


def test_user_that_a_user_made_may_make_no_more_of_itself(server: Server, session: Any) -> None:
    run(session, "CREATE OR REPLACE USER friend IDENTIFIED BY 'x'", "GRANT ALL ON shop.* TO friend WITH GRANT OPTION")
    run(session, "CREATE TABLE IF NOT EXISTS shop.t (line text)")
    with server.mysql(user="friend", password="x") as friend:
        for statement in (*FILES, *RIGHTS, "CREATE USER more", "CREATE DATABASE beyond"):
            refuses(friend, statement)
    run(session, "DROP USER friend", "DROP TABLE shop.t")
