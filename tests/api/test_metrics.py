"""What `/metrics` answers, read by the parsers of Prometheus's own client library."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from api.fakes import LOAD, a_busy_cluster, a_frozen_cluster, a_request, make_cluster
from api.served import Served
from zorya.core.model import Mode

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"


def _values(metrics: Iterable[Metric]) -> dict[tuple[str, str, str], float]:
    """Answer each series's value by its name, its cluster and what else tells it apart: its state, or its copy."""
    return {
        (sample.name, sample.labels.get("cluster", ""), sample.labels.get("state", sample.labels.get("copy", ""))): (
            sample.value
        )
        for metric in metrics
        for sample in metric.samples
    }


def _labels(metrics: Iterable[Metric], name: str) -> list[Mapping[str, str]]:
    return [sample.labels for metric in metrics for sample in metric.samples if sample.name == name]


def _put_some(served: Served) -> None:
    served.clusters.put(a_busy_cluster("busy"))
    served.clusters.put(a_frozen_cluster("cold"))
    served.clusters.put(make_cluster("fixed", replace(a_request("fixed"), mode=Mode.PROVISIONED, fixed_capacity=2)))


async def test_metrics_tell_what_the_views_say(served: Served) -> None:
    _put_some(served)
    response = await served.unix.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    metrics = list(read_text(response.text))
    values = _values(metrics)
    busy = {name: value for (name, cluster, state), value in values.items() if cluster == "busy" and not state}
    assert busy == {
        "zorya_cluster_info": 1,
        "zorya_cluster_capacity_acus": 1.5,
        "zorya_cluster_capacity_min_acus": 0.5,
        "zorya_cluster_capacity_max_acus": 4,
        "zorya_cluster_acu_seconds_total": 5400.25,
        "zorya_cluster_cpu_seconds_total": 71.3,
        "zorya_cluster_cpu_throttled_seconds_total": 0.4,
        "zorya_cluster_memory_bytes": LOAD.memory_bytes,
        "zorya_cluster_memory_in_use_bytes": LOAD.in_use_bytes,
        "zorya_cluster_oom_kills_total": 0,
        "zorya_cluster_sessions": 1,
        "zorya_cluster_sessions_active": 3,
        "zorya_cluster_sessions_waiting": 1,
        "zorya_cluster_cache_hit_ratio": 0.9921,
        "zorya_cluster_storage_bytes": 52_428_800,
    }
    states = {
        state: value
        for (name, cluster, state), value in values.items()
        if (name, cluster) == ("zorya_cluster_compute_state", "busy")
    }
    assert states == {"running": 1, "frozen": 0, "stopped": 0, "resuming": 0, "pausing": 0, "failed": 0}
    assert (values["zorya_node_capacity_acus", "", ""], values["zorya_node_allotted_acus", "", ""]) == (8, 1.5)
    assert (values["zorya_node_cores", "", ""], values["zorya_node_memory_bytes", "", ""]) == (2, 16 * 2**30)
    assert values["process_start_time_seconds", "", ""] > 0
    assert _labels(metrics, "zorya_build_info") == [{"version": "0.1.0"}]
    assert _labels(metrics, "zorya_cluster_info")[1] == {
        "cluster": "cold",
        "id": served.clusters.get("cold").id,
        "engine": "postgres",
        "version": "17.10",
        "mode": "serverless",
    }


async def test_metrics_of_clusters_that_do_not_run_or_are_provisioned(served: Served) -> None:
    _put_some(served)
    metrics = list(read_text((await served.unix.get("/metrics")).text))
    values = _values(metrics)
    assert values["zorya_cluster_compute_state", "cold", "frozen"] == 1
    assert values["zorya_cluster_memory_bytes", "cold", ""] == 5_347_738
    assert ("zorya_cluster_cpu_seconds_total", "cold", "") not in values
    assert ("zorya_cluster_memory_bytes", "fixed", "") not in values
    assert ("zorya_cluster_storage_bytes", "fixed", "") not in values
    assert values["zorya_cluster_capacity_acus", "fixed", ""] == 0
    assert values["zorya_cluster_capacity_min_acus", "fixed", ""] == 2
    assert values["zorya_cluster_capacity_max_acus", "fixed", ""] == 2
    assert _labels(metrics, "zorya_cluster_info")[2]["mode"] == "provisioned"
    await served.clusters.delete("busy")
    left = _values(read_text((await served.unix.get("/metrics")).text))
    assert {cluster for _, cluster, _ in left} == {"", "cold", "fixed"}


async def test_metrics_count_copies_and_tell_how_far_each_is_behind(served: Served) -> None:
    served.clusters.put(make_cluster("hurt", a_request("hurt")))
    served.clusters.put(make_cluster("small", replace(a_request("small"), copies=1)))
    metrics = _values(read_text((await served.unix.get("/metrics")).text))

    def series(name: str, cluster: str) -> dict[str, float]:
        return {last: value for (one, of, last), value in metrics.items() if (one, of) == (name, cluster)}

    assert series("zorya_cluster_copies", "hurt") == {"current": 4, "behind": 1, "building": 1, "lost": 0}
    assert series("zorya_cluster_copies", "small") == {"current": 1, "behind": 0, "building": 0, "lost": 0}
    # The primary, c_full, is behind nobody, and of b_full it is not known.
    assert series("zorya_cluster_copy_lag_bytes", "hurt") == {"a_full": 0, "a_tail": 0, "b_tail": 300_000, "c_tail": 0}
    assert series("zorya_cluster_copy_lag_bytes", "small") == {}


async def test_both_formats_say_the_same(served: Served) -> None:
    _put_some(served)
    plain = await served.unix.get("/metrics", headers={"Accept": "text/plain"})
    open_ = await served.unix.get("/metrics", headers={"Accept": OPENMETRICS})
    assert open_.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_.text.endswith("# EOF\n")
    ours = [
        {series: value for series, value in _values(metrics).items() if series[0].startswith("zorya_")}
        for metrics in (read_text(plain.text), read_openmetrics(open_.text))  # type: ignore[no-untyped-call]
    ]
    assert ours[0] == ours[1]


async def test_a_label_keeps_what_the_format_would_take_for_its_own(served: Served) -> None:
    odd = 'a"b\\c\nd {e="f"} 7'
    served.clusters.put(replace(a_busy_cluster("busy"), engine_version=odd))
    for accept, read in (("", read_text), (OPENMETRICS, read_openmetrics)):
        text = (await served.unix.get("/metrics", headers={"Accept": accept})).text
        (labels,) = _labels(read(text), "zorya_cluster_info")
        assert labels["version"] == odd


async def test_metrics_need_the_token_over_tcp(served: Served) -> None:
    assert (await served.tcp.get("/metrics")).status_code == 200
    assert (await served.tcp.get("/metrics", headers={"Authorization": "Bearer wrong"})).status_code == 401
    assert (await served.tcp.get("/metrics", headers={"Host": "elsewhere"})).status_code == 421
