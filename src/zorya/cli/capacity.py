"""A cluster's capacity: the commands that change it, and how it is told."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from zorya.cli import output, wire
from zorya.cli.invocation import Invocation
from zorya.cli.options import MAX_CAPACITY_HELP, MIN_CAPACITY_HELP, AsJson, Name
from zorya.core import errors
from zorya.core.model import Mode


def scale(
    context: typer.Context,
    name: Name,
    *,
    min_capacity: Annotated[float | None, typer.Option(metavar="X", help=MIN_CAPACITY_HELP)] = None,
    max_capacity: Annotated[float | None, typer.Option(metavar="X", help=MAX_CAPACITY_HELP)] = None,
    as_json: AsJson = False,
) -> None:
    """Change between which capacities a cluster is kept. Takes effect at once; open sessions stay."""
    changes: wire.ModifyCluster = {}
    if min_capacity is not None:
        changes["min_capacity"] = min_capacity
    if max_capacity is not None:
        changes["max_capacity"] = max_capacity
    if not changes:
        raise errors.InvalidInput("Nothing to change was given.", hint="`zorya scale --help` lists the options.")
    invocation = context.ensure_object(Invocation)
    _tell(invocation, invocation.api.modify(name, changes), as_json=as_json)


def set_capacity(
    context: typer.Context,
    name: Name,
    capacity: Annotated[
        float, typer.Argument(metavar="X", help="ACUs, steps of 0.5, within its limits.", show_default=False)
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Give a running cluster this capacity now. After a while the load decides again."""
    invocation = context.ensure_object(Invocation)
    _tell(invocation, invocation.api.set_capacity(name, capacity), as_json=as_json)


def _tell(invocation: Invocation, cluster: wire.Cluster, *, as_json: bool) -> None:
    if as_json:
        output.print_json(cluster)
    else:
        output.say(f"Cluster {cluster['name']} has {describe(cluster, invocation.api.status()['acu'])}.")


def is_provisioned(cluster: wire.Cluster) -> bool:
    """Whether it always runs, with one capacity."""
    return cluster["mode"] == Mode.PROVISIONED


def describe(cluster: wire.Cluster, acu: wire.Acu) -> str:
    """Answer what it has: `1.5 of 0.5 to 4 ACUs (0.38 cores, 3 GiB)`, `2 ACUs, fixed (0.5 cores, 4 GiB)`."""
    now, fixed = cluster["capacity"], cluster["fixed_capacity"]
    if fixed is None:
        text = f"{now:g} of {cluster['min_capacity']:g} to {cluster['max_capacity']:g} ACUs"
    elif now == fixed:
        text = f"{acus(now)}, fixed"
    else:
        text = f"{now:g} of {acus(fixed)}, fixed"
    if now == 0:
        return text
    return f"{text} ({output.cores(now * acu['cores'])}, {output.size(now * acu['memory_bytes'])})"


def acus(capacity: float) -> str:
    """Answer a capacity with its unit."""
    return "1 ACU" if capacity == 1 else f"{capacity:g} ACUs"


def describe_mode(cluster: wire.Cluster) -> str:
    """Answer whether it scales by itself, and within which limits."""
    limits = f"{cluster['min_capacity']:g} to {cluster['max_capacity']:g} ACUs"
    if cluster["fixed_capacity"] is None:
        return f"{cluster['mode']}, {limits}"
    return f"{cluster['mode']}: it always runs, with {acus(cluster['fixed_capacity'])} ({limits} when serverless)"


def describe_load(load: wire.Load) -> str:
    """Answer what it uses now."""
    cores = output.cores(load["cores"])
    wanted = output.cores(load["cores_wanted"])
    if wanted != cores:
        cores += f" ({wanted.split()[0]} wanted)"
    cached = max(0, load["memory_bytes"] - load["in_use_bytes"])
    parts = [
        cores,
        f"{output.size(load['in_use_bytes'])} in use and {output.size(cached)} cached",
        f"{output.count(load['at_work'], 'session')} at work",
        f"{load['waiting']} waiting",
    ]
    if load["hit_ratio"] is not None:
        parts.append(f"{load['hit_ratio']:.1%} cache hits".replace("%", " %"))
    return ", ".join(parts)


def describe_scaling(change: wire.Scaling, *, now: datetime | None = None) -> str:
    """Answer the last change of capacity with its reason, and how long ago it was."""
    ago_s = ((now or datetime.now(UTC)) - datetime.fromisoformat(change["at"])).total_seconds()
    return (
        f"from {change['from_acu']:g} to {change['to_acu']:g} ACUs, {output.duration(max(0.0, ago_s))} ago, "
        f"in {_short(change['took_s'])}: {change['reason']}"
    )


def _short(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else f"{seconds * 1000:.1f} ms"
