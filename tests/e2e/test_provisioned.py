"""A provisioned cluster: one capacity, and it always runs."""

from typing import Any

import psycopg
import pytest

from harness import Server, kill_engine
from waiting import wait_until
from zorya.core import errors


def test_provisioned_cluster_always_runs_with_its_capacity(stopped_server: Server) -> None:
    server = stopped_server
    server.env |= {"ZORYA_FREEZE_AFTER": "0.05", "ZORYA_PAUSE_AFTER": "1"}
    server.allow("engine lost")
    server.start()
    shown = server.json("create", "shop", "--provisioned", "--capacity", "1.5")
    assert (shown["mode"], shown["fixed_capacity"]) == ("provisioned", 1.5)
    shown = server.wait_for("running", "shop")
    assert (shown["capacity"], shown["sessions"], shown["pauses_in_s"]) == (1.5, 0, None)

    # A cluster beside it that sleeps shows how long it has not.
    assert server.query("SELECT 1") == [(1,)]
    server.wait_for("stopped", "main")
    assert server.show("shop")["engine_pid"] == shown["engine_pid"]
    assert server.events("shop") == ["0170", "0147", "0148"]

    refused = server.cli("pause", "shop")
    assert refused.returncode == 1
    assert "Cluster shop is provisioned: it always runs." in refused.stderr
    assert "`zorya modify shop --serverless`" in refused.stderr
    with pytest.raises(errors.ZoryaError, match="it always runs"):
        server.api.pause("shop", force=True)

    assert server.query("SELECT 1", "shop") == [(1,)]
    kill_engine(shown["engine_pid"])
    again = wait_until(lambda: is_another(server, shown["engine_pid"]), "it is started again by itself")
    assert again["capacity"] == 1.5
    assert server.events("shop") == ["0170", "0147", "0148", "1003", "0147", "0148"]

    server.run("down")
    assert server.process is not None
    assert server.process.wait(60) == 0
    server.start()
    assert server.wait_for("running", "shop")["capacity"] == 1.5
    assert server.show("main")["compute"] == "stopped"


def is_another(server: Server, pid: int) -> Any:
    shown = server.show("shop")
    return shown["compute"] == "running" and shown["engine_pid"] not in {pid, None} and shown


def test_conversion_keeps_all_that_holds_for_the_other_mode_and_every_session(server: Server) -> None:
    bounds = {"min_capacity": 1.0, "max_capacity": 3.0, "pause_after_s": 60, "freeze_after_s": 0.05}
    server.api.create(
        {
            "name": "shop",
            "min_capacity": 1,
            "max_capacity": 3,
            "pause_after": "60",
            "freeze_after": "0.05",
        }
    )
    with psycopg.connect(server.url("shop")) as session:
        session.execute("CREATE TEMPORARY TABLE mine AS SELECT 1 AS one")
        shown = server.json("modify", "shop", "--provisioned", "--capacity", "5")
        assert (shown["mode"], shown["capacity"], shown["fixed_capacity"]) == ("provisioned", 5, 5)
        assert {key: shown[key] for key in bounds} == bounds
        shown = server.json("capacity", "shop", "2.5")
        assert (shown["capacity"], shown["fixed_capacity"]) == (2.5, 2.5)
        assert shown["last_scaling"]["part"] == "bounds"
        session.commit()
        pid = shown["engine_pid"]

        shown = server.json("modify", "shop", "--serverless")
        assert (shown["mode"], shown["fixed_capacity"]) == ("serverless", None)
        assert {key: shown[key] for key in bounds} == bounds
        # It may have frozen again before it was shown.
        assert shown["capacity"] == 0 or 1 <= shown["capacity"] <= 3
        assert server.wait_for("frozen", "shop")["capacity"] == 0
        # What always runs is not left frozen.
        server.api.modify("shop", {"mode": "provisioned"})
        shown = wait_until(lambda: (found := server.show("shop"))["capacity"] == 2.5 and found, "it has its capacity")
        assert (shown["compute"], shown["fixed_capacity"], shown["engine_pid"]) == ("running", 2.5, pid)
        assert session.execute("SELECT one FROM mine").fetchone() == (1,)
    with pytest.raises(errors.ZoryaError, match="only a provisioned cluster has a fixed capacity"):
        server.api.modify("shop", {"mode": "serverless", "capacity": 2})

    # One that sleeps is started by the conversion.
    server.api.modify("main", {"mode": "provisioned", "capacity": 0.5})
    assert server.wait_for("running", "main")["capacity"] == 0.5
    server.api.modify("main", {"mode": "serverless"})
    assert server.api.pause("main", force=False)["compute"] == "stopped"
