"""Who may log in to a stopped MariaDB cluster: only they wake it, and all others hear what the engine would say."""

import json
import shutil
import subprocess
import threading
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.mariadb.clients import LOST, attempt, begin, one, run, start_with_shop, stays_asleep
from e2e.mariadb.raw_client import LoginRefused, RawClient
from harness import Server, kill_engine
from held import Held
from waiting import wait_until
from zorya.core.accounts import Account, Accounts
from zorya.core.identity import from_json

HERE = {"bind_address": "127.0.0.1"}
THERE = {"bind_address": "127.0.0.2"}


def file_of(server: Server) -> Path:
    return server.home / "clusters" / str(server.show("shop")["id"]) / "identities.json"


def saved(server: Server) -> dict[tuple[str, str], Account]:
    """Answer the accounts that are known, by user and host."""
    path = file_of(server)
    assert path.stat().st_mode & 0o777 == 0o600
    found = from_json(path.read_text())
    assert isinstance(found, Accounts)
    return {(account.user, account.host): account for account in found.accounts}


def put_to_sleep(server: Server) -> None:
    server.api.pause("shop", force=True)
    server.wait_for("stopped", "shop")


PEOPLE = (
    "CREATE USER app IDENTIFIED BY 'good', empty, one_table IDENTIFIED BY 'x'",
    "CREATE USER `locked` IDENTIFIED BY 'good' ACCOUNT LOCK",
    "CREATE USER far@'10.%' IDENTIFIED BY 'good', near@'127.0.0.2' IDENTIFIED BY 'good'",
    "CREATE USER tls IDENTIFIED BY 'good' REQUIRE SSL",
    "CREATE USER net@'127.0.0.0/255.0.0.0' IDENTIFIED BY 'good', sort@'127.%' IDENTIFIED BY 'wide'",
    "CREATE USER sort@'127.0.0.1' IDENTIFIED BY 'narrow'",
    "CREATE USER `it's \"quoted\"` IDENTIFIED BY 'good', `früh` IDENTIFIED BY 'gut', expired IDENTIFIED BY 'good'",
    "ALTER USER expired PASSWORD EXPIRE",
    "CREATE ROLE staff",
    "CREATE DATABASE other",
    "CREATE TABLE shop.t (n int)",
    "GRANT SELECT ON shop.* TO app, far@'10.%', near@'127.0.0.2', net@'127.0.0.0/255.0.0.0', tls, empty",
    "GRANT SELECT ON shop.* TO sort@'127.%', sort@'127.0.0.1'",
    'GRANT SELECT ON shop.* TO `it\'s "quoted"`, `früh`, `locked`',
    "GRANT SELECT ON shop.t TO one_table",
    "GRANT SELECT ON other.* TO staff",
)

REFUSED: dict[str, dict[str, Any]] = {
    "wrong password": {"password": "wrong"},
    "no password": {"password": ""},
    "wrong password, no database": {"password": "wrong", "database": None},
    "unknown user": {"user": "mallory", "password": "x"},
    "unknown user, no password": {"user": "mallory", "password": ""},
    "quotes in the user": {"user": "o'\"`\\", "password": "x"},
    "very long user": {"user": "x" * 100, "password": "x"},
    "other alphabet": {"user": "früh", "password": "x"},
    "locked": {"user": "locked", "password": "good"},
    "locked, wrong password": {"user": "locked", "password": "bad"},
    "password where there is none": {"user": "empty", "password": "x"},
    "from elsewhere": {"user": "far", "password": "good", **HERE},
    "from another address": {"user": "near", "password": "good", **HERE},
    "less specific password": {"user": "sort", "password": "wide", **HERE},
    "more specific password from elsewhere": {"user": "sort", "password": "narrow", **THERE},
    "no TLS": {"user": "tls", "password": "good"},
    "a role": {"user": "staff", "password": ""},
    "case": {"user": "APP", "password": "good"},
    "unknown database": {"database": "nowhere"},
    "unknown database, other user": {"user": "app", "password": "good", "database": "nowhere"},
    "no access": {"user": "app", "password": "good", "database": "other"},
    "no access to mysql": {"user": "app", "password": "good", "database": "mysql"},
    "odd database": {"user": "app", "password": "good", "database": "o'\"`"},
    "unknown database and wrong password": {"password": "wrong", "database": "nowhere"},
}


def test_who_is_refused_by_a_stopped_cluster_wakes_nothing_and_hears_what_the_engine_says(shop: Server) -> None:
    with shop.mysql() as session:
        run(session, *PEOPLE)
    put_to_sleep(shop)
    asleep = stays_asleep(shop, lambda: {case: attempt(shop, **options) for case, options in REFUSED.items()})
    shop.api.resume("shop")
    awake = {case: attempt(shop, **options) for case, options in REFUSED.items()}
    assert asleep == awake
    assert {number for number, _ in awake.values()} == {1044, 1045, 1049, 4151}
    assert all(number for number, _ in awake.values())


WOKEN: dict[str, dict[str, Any]] = {
    "app": {"user": "app", "password": "good"},
    "no database": {"user": "app", "password": "good", "database": None},
    "without a password": {"user": "empty", "password": ""},
    "near": {"user": "near", "password": "good", **THERE},
    "net": {"user": "net", "password": "good", **THERE},
    "wide": {"user": "sort", "password": "wide", **THERE},
    "narrow": {"user": "sort", "password": "narrow", **HERE},
    "table right": {"user": "one_table", "password": "x"},
    "quoted": {"user": 'it\'s "quoted"', "password": "good"},
    "alphabet": {"user": "früh", "password": "gut"},
    "information_schema": {"user": "app", "password": "good", "database": "information_schema"},
}


def test_who_is_let_in_wakes_it_and_is_who_the_engine_says(shop: Server) -> None:
    with shop.mysql() as session:
        run(session, *PEOPLE)
    for case, options in WOKEN.items():
        found = {}
        for state in ("asleep", "awake"):
            if state == "asleep":
                put_to_sleep(shop)
            with shop.mysql(**options) as session:
                found[state] = one(session, "SELECT CONCAT_WS('|', USER(), CURRENT_USER(), DATABASE())")
        assert found["asleep"] == found["awake"], case
        assert options["user"] in found["awake"]


def test_client_with_tls_wakes_it_where_its_account_requires_that(shop: Server, root: Path) -> None:
    with shop.mysql() as session:
        run(session, *PEOPLE)
    put_to_sleep(shop)
    with shop.mysql(user="tls", password="good", ssl_disabled=False, ssl_ca=str(root), ssl_verify_cert=True) as session:
        assert one(session, "SELECT CURRENT_USER()") == "tls@%"
        assert one(
            session, "SELECT VARIABLE_VALUE FROM information_schema.session_status WHERE VARIABLE_NAME='Ssl_cipher'"
        )


def test_states_of_refusals_are_those_of_the_engine(shop: Server) -> None:
    port = shop.show("shop")["endpoint"]["port"]
    said: dict[str, list[Any]] = {"asleep": [], "awake": []}
    password = shop.api.credentials("shop")["password"]
    for state, found in said.items():
        if state == "awake":
            shop.api.resume("shop")
        for user, proof, database in (("zorya", "x", ""), ("mallory", "", ""), ("zorya", password, "nowhere")):
            with RawClient(port) as client:
                greeting = client.greeting()
                found.append((greeting.version, greeting.capabilities, greeting.collation, greeting.plugin))
                with pytest.raises(LoginRefused) as refused:
                    client.prove(greeting, user, proof, database)
                found.append((refused.value.number, refused.value.state, refused.value.text))
                assert client.packet() is None
        assert state == "awake" or shop.show("shop")["compute"] == "stopped"
    assert said["asleep"] == said["awake"]


def test_account_whose_password_is_expired_is_let_in_as_the_engine_does(shop: Server) -> None:
    with shop.mysql() as session:
        run(session, *PEOPLE)
    put_to_sleep(shop)
    asleep = attempt(shop, user="expired", password="good", database=None)
    shop.api.resume("shop")
    assert asleep == attempt(shop, user="expired", password="good", database=None)


def test_they_are_known_from_the_creation_on_and_forgotten_while_an_engine_runs(shop: Server) -> None:
    assert set(saved(shop)) == {("zorya", "%")}
    shop.mysql_query("SELECT 1")
    assert not file_of(shop).exists()


def test_what_sessions_change_is_known_after_a_pause(shop: Server) -> None:
    with shop.mysql() as session:
        run(session, "CREATE USER app IDENTIFIED BY 'first', gone IDENTIFIED BY 'x'", "GRANT SELECT ON shop.* TO app")
        run(session, "CREATE DATABASE more", "GRANT SELECT ON more.* TO app")
    shop.run("pause", "shop")
    assert {("zorya", "%"), ("app", "%"), ("gone", "%")} == set(saved(shop))
    with shop.mysql(user="app", password="first", database="more") as session:
        run(session, "SET PASSWORD = PASSWORD('second')")
    with shop.mysql() as session:
        run(session, "DROP USER gone", "ALTER USER app ACCOUNT UNLOCK", "REVOKE SELECT ON more.* FROM app")
        run(session, "RENAME USER app TO app@'127.%'", "CREATE ROLE staff", "DROP DATABASE more")
    assert not file_of(shop).exists()
    shop.run("pause", "shop")
    assert {("zorya", "%"), ("app", "127.%")} == set(saved(shop))
    refused = stays_asleep(
        shop,
        lambda: [
            attempt(shop, user="app", password="first")[0],
            attempt(shop, user="gone", password="x")[0],
            attempt(shop, user="app", password="second", database="more")[0],
        ],
    )
    assert refused == [1045, 1045, 1044]
    with shop.mysql(user="app", password="second") as session:
        assert one(session, "SELECT CURRENT_USER()") == "app@127.%"


def test_administrators_account_is_not_among_them(shop: Server) -> None:
    shop.mysql_query("SELECT 1")
    shop.run("pause", "shop")
    values = json.loads(file_of(shop).read_text())
    assert values["kind"] == "mariadb"
    assert [account["user"] for account in values["accounts"]] == ["zorya"]
    for user in ("root", "zorya_admin", "mariadb.sys", "mysql"):
        assert stays_asleep(shop, partial(attempt, shop, user=user, password=""))[0] == 1045


def test_what_comes_during_a_forced_pause_is_kept_or_not_done(shop: Server) -> None:
    shop.mysql_query("CREATE USER app IDENTIFIED BY 'p0'")
    done: list[int] = [0]

    def change() -> None:
        with suppress(*LOST), closing(shop.mysql()) as session:
            while True:
                run(session, f"ALTER USER app IDENTIFIED BY 'p{len(done)}'")
                done.append(len(done))

    changing = threading.Thread(target=change)
    changing.start()
    wait_until(lambda: len(done) > 10, "an account is changed again and again")
    shop.run("pause", "shop", "--force")
    changing.join(30)
    assert not changing.is_alive()
    # The last one may have been done without being answered.
    good = [n for n in (done[-1], done[-1] + 1) if attempt(shop, user="app", password=f"p{n}", database=None)[0] == 0]
    assert len(good) == 1
    assert attempt(shop, user="app", password=f"p{good[0] - 1}", database=None)[0] == 1045


def test_accounts_can_be_changed_again_when_a_pause_was_given_up(stopped_server: Server) -> None:
    server = stopped_server
    held = Held(server, "pause.held")
    start_with_shop(server, **held.env)
    server.mysql_query("SELECT 1")
    asked = begin(server, "pause", "shop")
    held.wait()
    with server.mysql() as session:
        held.release()
        assert asked.wait(60) == 1
        run(session, "CREATE USER app IDENTIFIED BY 'x'", "CREATE DATABASE more", "CREATE TABLE t (n int)")
    server.wait_for("running", "shop")
    assert not file_of(server).exists()


def test_there_are_none_when_the_engine_was_killed_and_the_engine_decides(shop: Server) -> None:
    shop.allow("engine lost")
    shop.mysql_query("SELECT 1")
    kill_engine(shop.show("shop")["engine_pid"])
    shop.wait_for("stopped", "shop")
    assert not file_of(shop).exists()
    assert attempt(shop, password="wrong")[0] == 1045
    assert shop.show("shop")["compute"] == "running"
    shop.run("pause", "shop")
    assert file_of(shop).exists()


@pytest.mark.parametrize("how", ["removed", "cut off", "of the other kind", "of nobody"])
def test_engine_decides_when_the_file_was_damaged(shop: Server, how: str) -> None:
    shop.allow("who may log in is not known")
    path = file_of(shop)
    shop.stop()
    whole = path.read_text()
    values = json.loads(whole)
    if how == "removed":
        path.unlink()
    elif how == "cut off":
        path.write_text(whole[:-3])
    elif how == "of the other kind":
        path.write_text(json.dumps({**values, "kind": "postgres"}))
    else:
        path.write_text(json.dumps({**values, "accounts": None}))
    shop.start()
    assert not path.exists()
    assert attempt(shop, password="wrong")[0] == 1045
    assert shop.show("shop")["compute"] == "running"
    assert shop.mysql_query("SELECT 1") == ((1,),)


def test_they_do_not_count_when_a_backup_of_the_data_was_put_in_its_place(shop: Server) -> None:
    data = file_of(shop).with_name("data")
    backup = file_of(shop).with_name("backup")
    with shop.mysql() as session:
        run(session, "CREATE USER app IDENTIFIED BY 'then'", "GRANT SELECT ON shop.* TO app")
    shop.run("pause", "shop")
    subprocess.run(["cp", "-a", str(data), str(backup)], check=True)
    shop.mysql_query("ALTER USER app IDENTIFIED BY 'now'")
    shop.run("pause", "shop")
    subprocess.run(["rm", "-r", str(data)], check=True)
    backup.rename(data)
    with shop.mysql(user="app", password="then") as session:
        assert one(session, "SELECT 1") == 1


def test_what_a_session_has_not_committed_is_not_kept_when_a_pause_ends_it(shop: Server) -> None:
    shop.mysql_query("CREATE TABLE t (n int)")
    session = shop.mysql(autocommit=False)
    run(session, "INSERT INTO t VALUES (1)")
    shop.run("pause", "shop", "--force")
    with suppress(*LOST):
        session.close()
    assert shop.mysql_query("SELECT COUNT(*) FROM t") == ((0,),)


def test_a_pause_succeeds_when_they_cannot_be_saved(stopped_server: Server) -> None:
    server = stopped_server
    server.allow("who may log in could not be saved")
    start_with_shop(server, ZORYA_FAILPOINTS="identities.kept=enospc")
    server.mysql_query("SELECT 1")
    server.run("pause", "shop")
    assert server.show("shop")["compute"] == "stopped"
    assert not file_of(server).exists()


def program(server: Server, user: str, password: str, *words: str) -> tuple[int, str]:
    """Log in with the program `mariadb`, which has plugins that PyMySQL has not; answer its code and what it said."""
    found = shutil.which("mariadb")
    if found is None:
        pytest.skip("this host has no mariadb client")
    endpoint = server.show("shop")["endpoint"]
    where = [f"--host={endpoint['host']}", f"--port={endpoint['port']}", "--protocol=tcp", f"--user={user}"]
    done = subprocess.run(
        [found, "--no-defaults", *where, *words, "--skip-column-names", "-e", "SELECT CURRENT_USER()"],
        env={**server.env, "MYSQL_PWD": password},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("choice", ["wake", "refuse"])
def test_setting_says_whether_an_account_that_only_the_engine_can_verify_wakes_it(
    stopped_server: Server, choice: str
) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_WAKE_UNVERIFIED=choice)
    with server.mysql() as session:
        if not one(session, "SELECT COUNT(*) FROM information_schema.plugins WHERE plugin_name = 'ed25519'"):
            pytest.skip("this MariaDB has no ed25519")
        run(session, "CREATE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('good')")
    tls = ("--ssl", f"--ssl-ca={server.home / 'tls' / 'ca.pem'}")
    for password, words in (("good", ()), ("bad", ()), ("good", tls), ("bad", tls)):
        put_to_sleep(server)
        code, said = program(server, "ed", password, *words)
        if choice == "wake" and password == "good":
            assert (code, said) == (0, "ed@%\n")
        else:
            assert code == 1
            assert "ERROR 1045 (28000): Access denied for user 'ed'@'127.0.0.1' (using password: YES)" in said
        assert server.show("shop")["compute"] == ("running" if choice == "wake" else "stopped")
        server.api.resume("shop")
        assert program(server, "ed", password, *words)[0] == (0 if password == "good" else 1)
    # Whoever can be verified wakes it, whatever the setting says.
    put_to_sleep(server)
    assert server.mysql_query("SELECT 1") == ((1,),)


@pytest.mark.parametrize("choice", ["wake", "refuse"])
def test_account_that_has_to_show_a_certificate_is_told_to_come_again_once_the_engine_runs(
    stopped_server: Server, choice: str
) -> None:
    server = stopped_server
    start_with_shop(server, ZORYA_WAKE_UNVERIFIED=choice)
    server.mysql_query("CREATE USER cert IDENTIFIED BY 'good' REQUIRE X509")
    tls = {"ssl_disabled": False, "ssl_ca": str(server.home / "tls" / "ca.pem"), "ssl_verify_cert": True}
    options: dict[str, Any] = {"user": "cert", "database": None}
    put_to_sleep(server)
    # Without the password, or without TLS, it could not be let in anyway.
    assert stays_asleep(server, partial(attempt, server, password="bad", **tls, **options))[0] == 1045
    assert stays_asleep(server, partial(attempt, server, password="good", **options))[0] == 1045
    number, text = attempt(server, password="good", **tls, **options)
    assert (number, server.show("shop")["compute"]) == ((1053, "running") if choice == "wake" else (1045, "stopped"))
    assert ("connect again" in text) is (choice == "wake")


def test_anyone_wakes_it_where_the_cluster_says_so(shop: Server) -> None:
    shop.run("modify", "shop", "--wake-on", "any")
    assert attempt(shop, password="wrong")[0] == 1045
    assert shop.show("shop")["compute"] == "running"
