"""What a new user does: connect to a sleeping cluster, work, leave, see it pause, come back."""

import re

import psycopg
import pytest

from harness import Server


def test_cluster_starts_when_a_client_connects_and_stops_when_it_leaves(server: Server) -> None:
    server.run("create", "shop", "--pause-after", "1")
    assert server.show("shop")["compute"] == "stopped"
    with psycopg.connect(server.url("shop")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
        shown = server.show("shop")
        assert (shown["compute"], shown["sessions"]) == ("running", 1)
        assert shown["engine_pid"] > 0
    shown = server.wait_for("stopped", "shop")
    assert (shown["sessions"], shown["capacity"], shown["engine_pid"]) == (0, 0, None)
    assert server.query("SELECT answer FROM t", "shop") == [(42,)]
    server.wait_for("stopped", "shop")
    assert server.besides_scaling("shop") == ["0170", *["0147", "0148", "0144", "0145"] * 2]


def test_show_tells_everything_that_the_design_promises(server: Server) -> None:
    shown = server.show()
    assert set(shown) >= {
        *("name", "id", "engine", "engine_version", "mode", "status", "compute", "capacity", "min_capacity"),
        *("max_capacity", "pause_after_s", "freeze_after_s", "endpoint", "username", "database", "sessions"),
        *("engine_pid", "created_at"),
    }
    assert set(shown["endpoint"]) == {"host", "port"}
    assert (shown["mode"], shown["status"], shown["compute"]) == ("serverless", "available", "stopped")


def test_pause_and_resume_by_hand(server: Server) -> None:
    assert server.json("resume", "main")["compute"] == "running"
    assert server.json("resume", "main")["compute"] == "running"
    assert server.json("pause", "main")["compute"] == "stopped"
    assert server.json("pause", "main")["compute"] == "stopped"
    assert server.besides_scaling() == ["0170", "0147", "0148", "0144", "0145"]


def test_pause_by_hand_is_refused_while_sessions_are_open_unless_forced(server: Server) -> None:
    with psycopg.connect(server.url()) as connection:
        refused = server.cli("pause", "main")
        assert refused.returncode == 1
        assert re.search(r"1 open session.*--force", refused.stderr)
        connection.execute("SELECT 1")
        server.run("pause", "main", "--force")
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
    assert server.query("SELECT 1") == [(1,)]


def test_cluster_that_never_pauses_stays(server: Server) -> None:
    server.run("create", "always", "--pause-after", "never")
    assert server.query("SELECT 1", "always") == [(1,)]
    shown = server.show("always")
    assert (shown["compute"], shown["pause_after_s"]) == ("running", None)


def test_down_puts_every_cluster_to_sleep_and_up_finds_them_so(server: Server) -> None:
    server.run("create", "other")
    server.query("SELECT 1", "other")
    with psycopg.connect(server.url()) as connection:
        server.run("down")
        with pytest.raises(psycopg.errors.AdminShutdown):
            connection.execute("SELECT 1")
    server.start()
    assert {cluster["compute"] for cluster in server.json("list")} == {"stopped"}
    log = (server.home / "clusters" / server.show()["id"] / "log" / "engine.log").read_text()
    assert "database system is shut down" in log
    assert server.query("SELECT 1") == [(1,)]
    assert "0004" not in server.events()


def test_second_server_on_the_home_says_so_and_changes_nothing(server: Server) -> None:
    before = server.json("status")
    second = server.cli("up")
    assert second.returncode == 0
    assert "already up" in second.stdout
    assert str(before["pid"]) in second.stdout
    assert server.json("status")["pid"] == before["pid"]


def test_delete_removes_the_data_and_frees_name_and_port(server: Server) -> None:
    server.run("create", "gone")
    shown = server.show("gone")
    server.query("SELECT 1", "gone")
    server.run("delete", "gone", "--yes")
    assert not (server.home / "clusters" / shown["id"]).exists()
    assert not (server.home / "run" / shown["id"]).exists()
    assert server.cli("show", "gone").returncode == 1
    assert server.besides_scaling("gone")[-1] == "0171"
    server.run("create", "gone", "--port", str(shown["endpoint"]["port"]))
    assert server.query("SELECT 1", "gone") == [(1,)]


def test_endpoint_keeps_its_port_over_restarts(server: Server) -> None:
    port = server.show()["endpoint"]["port"]
    server.stop()
    server.start()
    assert server.show()["endpoint"]["port"] == port


def test_clusters_have_system_identifiers_of_their_own(server: Server) -> None:
    server.run("create", "other")
    sql = "SELECT system_identifier FROM pg_control_system()"
    assert server.query(sql) != server.query(sql, "other")


def test_engine_is_set_up_as_promised(server: Server) -> None:
    settings = dict(
        server.query(
            "SELECT name, setting FROM pg_settings"
            " WHERE name IN ('data_checksums', 'server_encoding', 'password_encryption', 'fsync', 'full_page_writes')"
        )
    )
    assert settings == {
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "password_encryption": "scram-sha-256",
        "fsync": "on",
        "full_page_writes": "on",
    }
    assert server.query("SELECT current_database(), current_user") == [("main", "zorya")]
