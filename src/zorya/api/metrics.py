"""What Prometheus is told: `GET /metrics`, in its text format or in that of OpenMetrics.

Names follow Prometheus: base units, `_total` for what only rises. The series of a cluster have its name as the label
`cluster`. A value that is not known, or that a cluster has only while it runs, has no series meanwhile. Each counter of
a cluster's load begins anew with its engine, which Prometheus takes for the reset of a counter.

The views are taken in the event loop. A thread writes the text, since that of 1,000 clusters takes 0.2 s.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import ProcessCollector, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from zorya.api.server_control import ServerControl
from zorya.control.facade import Clusters
from zorya.control.view import ClusterView, CopyView, LoadView, NodeView
from zorya.core.model import Compute
from zorya.core.volume import CopyState


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """What the metrics of one moment are made of."""

    version: str
    node: NodeView
    clusters: Sequence[ClusterView]
    copies: Mapping[str, Sequence[CopyView]]
    """Those of each cluster, by its name."""


def take(version: str, clusters: Clusters) -> Snapshot:
    """Answer what there is at this moment."""
    views = clusters.all()
    return Snapshot(
        version=version,
        node=clusters.node(),
        clusters=views,
        copies={one.name: clusters.copies(one.name) for one in views},
    )


def routes(server: ServerControl, clusters: Clusters) -> APIRouter:
    """Answer the route."""
    router = APIRouter(tags=["server"])

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def read_metrics(accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        """Metrics of the server, the node and every cluster, for Prometheus."""
        now = take(server.status().version, clusters)
        write, content_type = exposition.choose_encoder(accept)
        return Response(await asyncio.to_thread(write, Page(now)), media_type=content_type)

    return router


class Page:
    """All metrics of one moment, as the library collects them."""

    def __init__(self, now: Snapshot) -> None:
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Answer each metric with its series. Reads this process's folder in /proc; any thread may call it."""
        yield _info("zorya_build", "The version of Zorya.", [{"version": self._now.version}])
        yield from _node(self._now.node)
        yield from _clusters(self._now.clusters)
        yield _copies(self._now.copies)
        yield _lag(self._now.copies)
        yield from ProcessCollector(registry=None).collect()


def _info(name: str, meaning: str, labels: Iterable[Mapping[str, str]]) -> Metric:
    metric = InfoMetricFamily(name, meaning)
    for one in labels:
        metric.add_sample(f"{name}_info", dict(one), 1)
    return metric


def _node(node: NodeView) -> Iterable[Metric]:
    yield GaugeMetricFamily("zorya_node_capacity_acus", "ACUs that all clusters together may have.", node.capacity)
    yield GaugeMetricFamily("zorya_node_allotted_acus", "ACUs that clusters have now.", node.allotted)
    yield GaugeMetricFamily("zorya_node_cores", "Cores that this host has for clusters.", node.cores)
    yield GaugeMetricFamily("zorya_node_memory_bytes", "Memory that this host has for clusters.", node.memory_bytes)


def _clusters(clusters: Sequence[ClusterView]) -> Iterable[Metric]:
    labels = [{"cluster": cluster.name} for cluster in clusters]
    yield _info("zorya_cluster", "What the cluster is.", map(_description, clusters))
    yield _states(clusters)
    for row in _ROWS:
        metric = row.kind(row.name, row.meaning)
        for cluster, label in zip(clusters, labels, strict=True):
            value = row.read(cluster)
            if value is not None:
                # All metrics share one dictionary a cluster: `add_metric` would make one for each series.
                metric.add_sample(row.name, label, value)
        yield metric


def _description(cluster: ClusterView) -> Mapping[str, str]:
    return {
        "cluster": cluster.name,
        "id": cluster.id,
        "engine": cluster.engine,
        "version": cluster.engine_version,
        "mode": cluster.mode,
    }


def _states(clusters: Sequence[ClusterView]) -> Metric:
    name = "zorya_cluster_compute_state"
    metric = GaugeMetricFamily(name, "1 for the state that the cluster's engine is in, 0 for the others.")
    for cluster in clusters:
        for state in Compute:
            metric.add_sample(name, {"cluster": cluster.name, "state": state.value}, cluster.compute is state)
    return metric


def _copies(copies: Mapping[str, Sequence[CopyView]]) -> Metric:
    name = "zorya_cluster_copies"
    metric = GaugeMetricFamily(name, "How many copies of the cluster's volume are in the state.")
    for cluster, views in copies.items():
        states = [one.state for one in views]
        for state in CopyState:
            metric.add_sample(name, {"cluster": cluster, "state": state.value}, states.count(state))
    return metric


def _lag(copies: Mapping[str, Sequence[CopyView]]) -> Metric:
    name = "zorya_cluster_copy_lag_bytes"
    metric = GaugeMetricFamily(name, "How much of the primary's log the copy does not have yet.")
    for cluster, views in copies.items():
        for one in views:
            if not one.is_primary and one.lag_bytes is not None:
                metric.add_sample(name, {"cluster": cluster, "copy": one.name}, one.lag_bytes)
    return metric


_Read = Callable[[ClusterView], float | None]


@dataclass(frozen=True, slots=True)
class _Row:
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    meaning: str
    read: _Read


def _of_load(read: Callable[[LoadView], float | None]) -> _Read:
    return lambda cluster: None if cluster.load is None else read(cluster.load)


def _or_fixed(read: Callable[[ClusterView], float]) -> _Read:
    return lambda cluster: read(cluster) if cluster.fixed_capacity is None else cluster.fixed_capacity


def _memory(cluster: ClusterView) -> float | None:
    return cluster.resident_bytes if cluster.load is None else cluster.load.memory_bytes


_ROWS = (
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_capacity_acus",
        "Capacity that the cluster has now, 0 while it is stopped or frozen.",
        lambda cluster: cluster.capacity,
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_capacity_min_acus",
        "The lowest capacity that the cluster has while it runs.",
        _or_fixed(lambda cluster: cluster.min_capacity),
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_capacity_max_acus",
        "The highest capacity that the cluster may have.",
        _or_fixed(lambda cluster: cluster.max_capacity),
    ),
    _Row(
        CounterMetricFamily,
        "zorya_cluster_acu_seconds_total",
        "Capacity over all the time since the cluster was created.",
        lambda cluster: cluster.acu_s,
    ),
    _Row(
        CounterMetricFamily,
        "zorya_cluster_cpu_seconds_total",
        "Processor time since the engine started.",
        _of_load(lambda load: load.cpu_s),
    ),
    _Row(
        CounterMetricFamily,
        "zorya_cluster_cpu_throttled_seconds_total",
        "Time since the engine started in which the cap on cores kept something from running.",
        _of_load(lambda load: load.throttled_s),
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_memory_bytes",
        "Memory that is charged to the engine, page cache included.",
        _memory,
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_memory_in_use_bytes",
        "Memory that the engine cannot do without.",
        _of_load(lambda load: load.in_use_bytes),
    ),
    _Row(
        CounterMetricFamily,
        "zorya_cluster_oom_kills_total",
        "Processes that the kernel ended for want of memory since the engine started.",
        _of_load(lambda load: load.oom_kills),
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_sessions",
        "Clients connected or waiting to be.",
        lambda cluster: cluster.sessions,
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_sessions_active",
        "Sessions that do something or wait within a transaction.",
        _of_load(lambda load: load.at_work),
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_sessions_waiting",
        "Sessions that wait for a lock.",
        _of_load(lambda load: load.waiting),
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_cache_hit_ratio",
        "Of the blocks that the engine needed, the part that its own cache had, 0 to 1.",
        _of_load(lambda load: load.hit_ratio),
    ),
    _Row(
        GaugeMetricFamily,
        "zorya_cluster_storage_bytes",
        "The size of the cluster's files.",
        lambda cluster: cluster.storage_bytes,
    ),
)
