"""MariaDB clusters that always run, the conversion there and back, and what is counted of either."""

from typing import Any

import pytest

from e2e.mariadb.clients import one, run, wait_frozen
from harness import Server, kill_engine
from waiting import wait_until
from zorya.core import errors


def is_another(server: Server, pid: int) -> Any:
    shown = server.show("shop")
    return shown["compute"] == "running" and shown["engine_pid"] not in {pid, None} and shown


def test_provisioned_cluster_always_runs(server: Server) -> None:
    server.allow("engine lost")
    server.run("create", "shop", "--engine", "mariadb", "--provisioned", "--capacity", "1.5")
    shown = server.wait_for("running", "shop")
    assert (shown["mode"], shown["capacity"], shown["fixed_capacity"]) == ("provisioned", 1.5, 1.5)
    refused = server.cli("pause", "shop")
    assert refused.returncode == 1
    assert "Cluster shop is provisioned: it always runs." in refused.stderr
    assert server.mysql_query("SELECT 1") == ((1,),)
    kill_engine(shown["engine_pid"])
    again = wait_until(lambda: is_another(server, shown["engine_pid"]), "it is started again by itself")
    assert again["capacity"] == 1.5
    assert server.events("shop") == ["0170", "0147", "0148", "1003", "0147", "0148"]
    server.run("down")
    assert server.process is not None
    assert server.process.wait(60) == 0
    server.start()
    assert server.wait_for("running", "shop")["capacity"] == 1.5


def test_conversion_keeps_every_session(server: Server) -> None:
    server.api.create(
        {"name": "shop", "engine": "mariadb", "min_capacity": 1, "max_capacity": 3, "freeze_after": "0.05"}
    )
    with server.mysql() as session:
        run(session, "CREATE TEMPORARY TABLE mine AS SELECT 1 AS one")
        pid = server.show("shop")["engine_pid"]
        shown = server.json("modify", "shop", "--provisioned", "--capacity", "5")
        assert (shown["mode"], shown["capacity"], shown["fixed_capacity"]) == ("provisioned", 5, 5)
        shown = server.json("capacity", "shop", "2.5")
        assert (shown["capacity"], shown["fixed_capacity"]) == (2.5, 2.5)
        shown = server.json("modify", "shop", "--serverless")
        assert (shown["mode"], shown["fixed_capacity"], shown["min_capacity"]) == ("serverless", None, 1)
        assert wait_frozen(server)["capacity"] == 0
        server.api.modify("shop", {"mode": "provisioned"})
        shown = wait_until(lambda: (found := server.show("shop"))["capacity"] == 2.5 and found, "it has its capacity")
        assert (shown["compute"], shown["engine_pid"]) == ("running", pid)
        assert one(session, "SELECT one FROM mine") == 1
    with pytest.raises(errors.ZoryaError, match="only a provisioned cluster has a fixed capacity"):
        server.api.modify("shop", {"mode": "serverless", "capacity": 2})


def used(server: Server) -> dict[str, float]:
    """Answer all that the cluster "metered" has used. There were others of the usual name on this server."""
    report = server.api.usage("metered", since="2020-01-01T00:00:00Z", until="2100-01-01T00:00:00Z", by="total")
    (row,) = report["rows"]
    return {key: row[key] for key in ("seconds", "awake_s", "acu_s", "storage_byte_s", "peak_acu")}


def used_later(server: Server, before: dict[str, float]) -> dict[str, float]:
    """Wait until half a second more is metered, and answer the same."""
    wait_until(lambda: used(server)["seconds"] >= before["seconds"] + 0.5, "time is metered")
    return used(server)


def test_awake_time_and_capacity_are_counted_and_sleep_costs_nothing(quick_shop: Server) -> None:
    shop = quick_shop
    shop.api.create({"name": "metered", "engine": "mariadb"})
    with shop.mysql("metered") as session:
        assert one(session, "SELECT SLEEP(1.2)") == 0
        wait_frozen(shop, "metered")
        # The last of its time awake is written a moment after it froze.
        frozen = used_later(shop, used(shop))
        assert frozen["awake_s"] >= 1.2
        assert 0.5 * frozen["awake_s"] - 0.01 <= frozen["acu_s"] <= frozen["peak_acu"] * frozen["awake_s"] + 0.01
        later = used_later(shop, frozen)
        assert (later["awake_s"], later["acu_s"]) == (frozen["awake_s"], frozen["acu_s"])
        assert one(session, "SELECT SLEEP(0.5)") == 0
        wait_frozen(shop, "metered")
        assert used(shop)["awake_s"] >= frozen["awake_s"] + 0.5
    shop.run("pause", "metered", "--force")
    # A kill may cost what was not written yet, which is a tenth of a second.
    stopped = used_later(shop, used(shop))
    shop.kill()
    shop.start()
    later = used_later(shop, stopped)
    assert (later["awake_s"], later["acu_s"]) == (stopped["awake_s"], stopped["acu_s"])
    assert later["storage_byte_s"] > stopped["storage_byte_s"] > 0
    printed = shop.run("usage", "metered")
    assert "metered" in printed
