"""How a cluster is told in words."""

from zorya.cli import capacity, output, wire
from zorya.core.model import EngineKind, WakeOn

_NUMBERS = {2: "two", 3: "three", 4: "four", 6: "six"}


def headline(cluster: wire.Cluster) -> str:
    """Answer what it does and why, as a line."""
    state = cluster["compute"] if cluster["status"] == "available" else cluster["status"]
    return f"Cluster {cluster['name']} is {state}: {output.printable(cluster['reason'])}"


def everything(cluster: wire.Cluster, acu: wire.Acu) -> list[tuple[str, str]]:
    """Answer all that is told of a cluster, as names and values."""
    found = []
    operation = cluster["operation"]
    if operation:
        found.append(("operation", f"{operation['name']}: {operation['step']}"))
    if cluster["endpoint_problem"]:
        found.append(("endpoint problem", cluster["endpoint_problem"]))
    if cluster["reader_problem"]:
        found.append(("reader problem", cluster["reader_problem"]))
    found.append(("endpoint", endpoint(cluster["endpoint"])))
    if cluster["reader_endpoint"]:
        found.append(("readers", endpoint(cluster["reader_endpoint"])))
    found += [
        ("database", cluster["database"]),
        ("username", cluster["username"]),
        ("sessions", str(cluster["sessions"])),
        ("status", cluster["status"]),
        ("compute", cluster["compute"]),
        ("capacity", capacity.describe(cluster, acu)),
    ]
    if cluster["load"]:
        found.append(("load", capacity.describe_load(cluster["load"])))
    if cluster["last_scaling"]:
        found.append(("scaled", capacity.describe_scaling(cluster["last_scaling"])))
    found += volume(cluster)
    found += rules(cluster)
    if cluster["pauses_in_s"] is not None:
        found.append(("pauses in", output.duration(cluster["pauses_in_s"])))
    found += [
        ("engine", engine(cluster)),
        ("engine pid", "-" if cluster["engine_pid"] is None else str(cluster["engine_pid"])),
    ]
    if cluster["awake_reason"]:
        found.append(("kept awake", cluster["awake_reason"]))
    if cluster["resident_bytes"] is not None:
        found.append(("resident", output.mebibytes(cluster["resident_bytes"])))
    if cluster["storage_bytes"] is not None:
        found.append(("storage", output.size(cluster["storage_bytes"])))
    return [
        *found,
        ("engine log", cluster["engine_log"]),
        ("attach", f"{cluster['attach']}: {cluster['attach_reason']}"),
        ("id", cluster["id"]),
        ("created", output.local_time(cluster["created_at"])),
    ]


def volume(cluster: wire.Cluster) -> list[tuple[str, str]]:
    """Answer how the cluster's volume is: its health where it is not whole, and which copy is the primary."""
    seen = cluster["volume"]
    zone = seen["primary"].partition("_")[0]
    return [
        *([("volume", f"{seen['health']}: {seen['reason']}")] if is_unwell(cluster) else []),
        ("primary", f"{seen['primary']}, in zone {zone}"),
        ("epoch", str(seen["epoch"])),
    ]


def is_unwell(cluster: wire.Cluster) -> bool:
    """Whether its volume lacks copies."""
    return cluster["volume"]["health"] != "whole"


def copies(seen: wire.Volume) -> str:
    """Answer how many copies a volume has, and what that is good for."""
    if seen["copies"] == 1:
        return "one copy: what the disk loses is lost"
    placed = f"{_NUMBERS[seen['copies']]} copies in three zones"
    if seen["needed"] == 1:
        return f"{placed}; until all are made a commit is on the primary alone"
    return f"{placed}, a commit is on {_NUMBERS[seen['needed']]} before the client hears of it"


def rules(cluster: wire.Cluster) -> list[tuple[str, str]]:
    """Answer what `zorya modify` can change."""
    return [
        ("mode", capacity.describe_mode(cluster)),
        ("copies", copies(cluster["volume"])),
        ("may connect", ", ".join(cluster["allow"])),
        ("TLS", "required" if cluster["require_tls"] else "offered"),
        ("wakes for", "clients that have logged in" if cluster["wake_on"] == WakeOn.AUTHENTICATED else "any client"),
        ("max clients", "any number" if cluster["max_clients"] is None else str(cluster["max_clients"])),
        ("pauses after", _delay(cluster, cluster["pause_after_s"])),
        ("freezes after", _delay(cluster, cluster["freeze_after_s"])),
    ]


def _delay(cluster: wire.Cluster, seconds: float | None) -> str:
    if seconds is None:
        return "never"
    delay = output.delay(seconds)
    return f"never ({delay} when serverless)" if capacity.is_provisioned(cluster) else delay


def capacity_cell(cluster: wire.Cluster) -> str:
    """Answer its capacity for a table: `1.5 of 4`."""
    fixed = cluster["fixed_capacity"]
    if fixed is None:
        return f"{cluster['capacity']:g} of {cluster['max_capacity']:g}"
    return f"{cluster['capacity']:g} of {fixed:g}, provisioned"


def engine(cluster: wire.Cluster) -> str:
    """Answer its engine's name and version."""
    return f"{EngineKind(cluster['engine']).product} {cluster['engine_version']}"


def endpoint(endpoint: wire.Endpoint) -> str:
    """Answer where clients connect."""
    host = endpoint["host"]
    return f"[{host}]:{endpoint['port']}" if ":" in host else f"{host}:{endpoint['port']}"
