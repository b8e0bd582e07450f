"""A cluster's rules are changed while it sleeps, runs and is frozen, with its sessions open."""

import json

import psycopg

from harness import Server

LOOPBACK = ["127.0.0.0/8", "::1/128"]


def test_rules_are_chosen_at_the_creation_and_changed_later(server: Server) -> None:
    assert server.show()["allow"] == LOOPBACK
    server.run("create", "web", "--allow", "10.0.0.0/8", "--allow", "127.0.0.1", "--require-tls", "--max-clients", "7")
    shown = server.show("web")
    assert (shown["allow"], shown["require_tls"]) == (["10.0.0.0/8", "127.0.0.1/32"], True)
    assert (shown["wake_on"], shown["max_clients"]) == ("authenticated", 7)
    printed = server.run("modify", "web", "--no-require-tls", "--wake-on", "any", "--max-clients", "none")
    assert "may connect    10.0.0.0/8, 127.0.0.1/32\n" in printed
    assert "TLS            offered\n" in printed
    shown = server.show("web")
    assert (shown["require_tls"], shown["wake_on"], shown["max_clients"]) == (False, "any", None)
    assert server.events("web") == ["0170", "1010"]


def test_rules_are_changed_in_every_state_without_a_restart(server: Server) -> None:
    server.run("modify", "main", "--pause-after", "never", "--freeze-after", "never")
    with psycopg.connect(server.url(), autocommit=True) as session:
        pid = server.show()["engine_pid"]
        shown = server.json("modify", "main", "--max-clients", "50")
        assert (shown["compute"], shown["max_clients"]) == ("running", 50)
        server.run("modify", "main", "--freeze-after", "0.05")
        server.wait_for("frozen")
        shown = server.json("modify", "main", "--max-clients", "60", "--freeze-after", "never")
        assert (shown["max_clients"], shown["compute"]) == (60, "frozen")
        assert session.execute("SELECT 1").fetchone() == (1,)
        assert server.show()["engine_pid"] == pid
    server.run("modify", "main", "--pause-after", "1")
    server.wait_for("stopped")
    assert server.events().count("1010") == 5


def test_rules_outlive_the_server(server: Server) -> None:
    server.run("modify", "main", "--allow", "192.168.0.0/16", "--pause-after", "77")
    server.kill()
    server.start()
    shown = server.show()
    assert (shown["allow"], shown["pause_after_s"]) == (["192.168.0.0/16"], 77)


def test_nothing_is_changed_or_told_when_it_is_so_already_or_wrong(server: Server) -> None:
    server.run("modify", "main", "--wake-on", "authenticated", "--allow", "127.0.0.0/8", "--allow", "::1/128")
    for words, told in (
        ((), "Nothing to change was given."),
        (("--allow", "10.1.2.3/8"), "Write 10.0.0.0/8 for the network, 10.1.2.3 for the address."),
        (("--allow", "everybody"), "is no network"),
        (("--max-clients", "0"), "max_clients"),
        (("--pause-after", "soon"), "pause_after"),
    ):
        refused = server.cli("modify", "main", *words)
        assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
    assert server.show()["allow"] == LOOPBACK
    assert server.events() == ["0170"]


def test_who_may_come_has_to_be_said_where_the_server_listens_for_others(stopped_server: Server) -> None:
    server = stopped_server
    server.start(ZORYA_BIND="0.0.0.0")
    assert server.show()["allow"] == LOOPBACK
    refused = server.cli("create", "web")
    assert refused.returncode == 1
    assert "This server listens on 0.0.0.0, so a cluster has to say who may connect." in refused.stderr
    assert "--allow 10.0.0.0/8" in refused.stderr
    server.run("create", "web", "--allow", "10.0.0.0/8")
    (found,) = [one for one in json.loads(server.run("doctor", "--json")) if one["name"] == "reach"]
    assert found["state"] == "warning"
    assert "may connect to main." in found["found"]
    server.run("modify", "main", "--allow", "0.0.0.0/0")
    (found,) = [one for one in json.loads(server.run("doctor", "--json")) if one["name"] == "reach"]
    assert found["state"] == "ok"
