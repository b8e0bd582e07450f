"""What a new user of MariaDB does: connect to a sleeping cluster, work, leave, see it pause, come back."""

import re

import pytest

from e2e.mariadb.clients import LOST, one, run
from harness import Server, is_gone
from waiting import wait_until

MARIADB = ("--engine", "mariadb")


def test_cluster_starts_when_a_client_connects_and_stops_when_it_leaves(server: Server) -> None:
    server.run("create", "shop", *MARIADB, "--pause-after", "1")
    assert server.show("shop")["compute"] == "stopped"
    with server.mysql() as session:
        run(session, "CREATE TABLE t AS SELECT 42 AS answer")
        wait_until(lambda: server.show("shop")["sessions"] == 1, "it is counted")
        shown = server.show("shop")
        assert shown["compute"] == "running"
        assert shown["engine_pid"] > 0
    shown = server.wait_for("stopped", "shop")
    assert (shown["sessions"], shown["capacity"], shown["engine_pid"]) == (0, 0, None)
    assert server.mysql_query("SELECT answer FROM t") == ((42,),)
    server.wait_for("stopped", "shop")
    assert server.besides_scaling("shop") == ["0170", *["0147", "0148", "0144", "0145"] * 2]


def test_show_and_list_tell_everything_that_they_tell_of_postgres(shop: Server) -> None:
    shown = shop.show("shop")
    assert set(shown) == set(shop.show("main"))
    assert (shown["engine"], shown["mode"], shown["status"], shown["compute"]) == (
        *("mariadb", "serverless", "available"),
        "stopped",
    )
    assert (shown["username"], shown["database"]) == ("zorya", "shop")
    assert re.match(r"1[0-9]\.\d+\.\d+", shown["engine_version"])
    for key in ("attach", "attach_reason", "endpoint_problem", "allow", "freeze_after_s", "pause_after_s"):
        assert shown[key] == shop.show("main")[key]
    printed = shop.run("show", "shop")
    assert f"MariaDB {shown['engine_version']}" in printed
    assert "MariaDB" in shop.run("list")


def test_engine_is_the_version_that_was_asked_for_or_the_user_is_told_which_there_are(server: Server) -> None:
    server.run("create", "shop", *MARIADB)
    version = server.show("shop")["engine_version"]
    series = ".".join(version.split(".")[:2])
    server.run("create", "other", *MARIADB, "--version", series)
    assert server.show("other")["engine_version"] == version
    refused = server.cli("create", "old", *MARIADB, "--version", "5.5")
    assert refused.returncode == 1
    assert "no MariaDB 5.5" in refused.stderr
    assert version in refused.stderr
    assert server.cli("show", "old").returncode == 1
    assert server.mysql_query("SELECT VERSION()", "other")[0][0].startswith(version)


def test_what_mariadb_clusters_cannot_do_is_refused_in_words(shop: Server) -> None:
    for words, told in (
        (("create", "six", *MARIADB, "--copies", "3"), "The volume of a MariaDB cluster has one copy, not 3."),
        (("modify", "shop", "--copies", "6"), "The volume of a MariaDB cluster has one copy, not 6."),
        (("verify", "shop"), "shop is a MariaDB cluster, whose data Zorya cannot verify."),
        (("url", "shop", "--reader"), "reader"),
        (("create", "bad", "--engine", "oracle"), "oracle"),
    ):
        refused = shop.cli(*words)
        assert refused.returncode != 0, words
        assert told in refused.stderr, refused.stderr
    assert {cluster["name"] for cluster in shop.json("list")} == {"main", "shop"}
    # What it has can be asked for as usual.
    assert shop.show("shop")["volume"]["copies"] == 1
    assert [set(copy) for copy in shop.json("copies", "shop")] == [set(copy) for copy in shop.json("copies", "main")]


def test_url_and_connect_lead_to_the_cluster(shop: Server) -> None:
    url = shop.run("url", "shop").strip()
    port = shop.show("shop")["endpoint"]["port"]
    assert re.fullmatch(rf"mysql://zorya:[^@/]+@127\.0\.0\.1:{port}/shop", url)
    done = shop.cli("connect", "shop", "--", "--batch", "-e", "SELECT 6 * 7 AS n, DATABASE(), CURRENT_USER()")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split("\t") == ["42", "shop", "zorya@%"]
    assert shop.besides_scaling("shop")[:3] == ["0170", "0147", "0148"]


def test_doctor_names_mariadb(server: Server) -> None:
    (found,) = [finding for finding in server.api.doctor() if finding["name"] == "MariaDB"]
    assert found["state"] == "ok"
    assert re.search(r"1\d\.\d+\.\d+ in /", found["found"])


def test_pause_and_resume_by_hand(shop: Server) -> None:
    assert shop.json("resume", "shop")["compute"] == "running"
    assert shop.json("resume", "shop")["compute"] == "running"
    assert shop.json("pause", "shop")["compute"] == "stopped"
    assert shop.json("pause", "shop")["compute"] == "stopped"
    assert shop.besides_scaling("shop") == ["0170", "0147", "0148", "0144", "0145"]


def test_pause_by_hand_is_refused_while_sessions_are_open_unless_forced(shop: Server) -> None:
    with shop.mysql() as session:
        refused = shop.cli("pause", "shop")
        assert refused.returncode == 1
        assert re.search(r"1 open session.*--force", refused.stderr)
        assert one(session, "SELECT 1") == 1
        shop.run("pause", "shop", "--force")
        with pytest.raises(LOST):
            one(session, "SELECT 1")
    assert shop.mysql_query("SELECT 1") == ((1,),)


def test_down_puts_every_cluster_to_sleep_and_up_finds_them_so(shop: Server) -> None:
    with shop.mysql() as session:
        run(session, "CREATE TABLE t AS SELECT 7 AS n")
        pid = shop.show("shop")["engine_pid"]
        shop.run("down")
        assert shop.process is not None
        assert shop.process.wait(60) == 0
        assert is_gone(pid)
        with pytest.raises(LOST):
            one(session, "SELECT 1")
    shop.start()
    assert {cluster["compute"] for cluster in shop.json("list")} == {"stopped"}
    log = (shop.home / "clusters" / shop.show("shop")["id"] / "log" / "engine.log").read_text()
    assert "Shutdown complete" in log
    assert "[ERROR]" not in log
    assert shop.mysql_query("SELECT n FROM t") == ((7,),)


def test_delete_removes_the_data_and_frees_name_and_port(shop: Server) -> None:
    shown = shop.show("shop")
    with shop.mysql() as session:
        assert one(session, "SELECT 1") == 1
        pid = shop.show("shop")["engine_pid"]
        shop.run("delete", "shop", "--yes")
        assert is_gone(pid)
    for folder in ("clusters", "run"):
        assert not (shop.home / folder / shown["id"]).exists()
    assert shop.cli("show", "shop").returncode == 1
    assert shop.besides_scaling("shop")[-1] == "0171"
    shop.run("create", "shop", *MARIADB, "--port", str(shown["endpoint"]["port"]))
    assert shop.mysql_query("SELECT 1") == ((1,),)


def test_engine_is_set_up_as_promised(shop: Server) -> None:
    names = (
        *("character_set_server", "default_storage_engine", "log_bin", "binlog_format", "sync_binlog"),
        *("innodb_flush_log_at_trx_commit", "innodb_doublewrite", "skip_name_resolve", "local_infile"),
    )
    with shop.mysql() as session:
        found = {name: one(session, f"SELECT @@{name}") for name in names}
        assert one(session, "SELECT CONCAT(DATABASE(), ' ', CURRENT_USER())") == "shop zorya@%"
    assert found == {
        "character_set_server": "utf8mb4",
        "default_storage_engine": "InnoDB",
        "log_bin": 1,
        "binlog_format": "ROW",
        "sync_binlog": 1,
        "innodb_flush_log_at_trx_commit": 1,
        "innodb_doublewrite": 1,
        "skip_name_resolve": 1,
        "local_infile": 1,
    }


def test_each_kind_has_clusters_of_the_same_server_side_by_side(shop: Server) -> None:
    assert shop.mysql_query("SELECT 1") == ((1,),)
    assert shop.query("SELECT 1") == [(1,)]
    assert {cluster["compute"] for cluster in shop.json("list")} == {"running"}
    shop.run("pause", "shop")
    assert (shop.show("shop")["compute"], shop.show("main")["compute"]) == ("stopped", "running")
