"""The commands that make, show, use and remove clusters."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated
from urllib.parse import urlsplit

import typer

from zorya.cli import capacity, facts, output, programs, wire
from zorya.cli.client import Api
from zorya.cli.invocation import Invocation
from zorya.cli.options import (
    COPIES_HELP,
    MAX_CAPACITY_HELP,
    MAX_CLIENTS_HELP,
    MIN_CAPACITY_HELP,
    WAKE_ON_HELP,
    Allow,
    AsJson,
    FreezeAfter,
    Name,
    PauseAfter,
    Reader,
)
from zorya.core import errors
from zorya.core.capacity import USUAL
from zorya.core.model import EngineKind, Mode, WakeOn


def create(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="1 to 63 letters, digits and single hyphens, a letter first.", show_default=False)
    ],
    *,
    engine: Annotated[EngineKind, typer.Option(help="The database engine.")] = EngineKind.POSTGRES,
    version: Annotated[
        str | None,
        typer.Option(help="The engine's major version, such as 16 or 10.11. [default: the newest installed]"),
    ] = None,
    min_capacity: Annotated[float, typer.Option(metavar="X", help=MIN_CAPACITY_HELP)] = USUAL.least,
    max_capacity: Annotated[float, typer.Option(metavar="X", help=MAX_CAPACITY_HELP)] = USUAL.most,
    provisioned: Annotated[
        bool, typer.Option("--provisioned", help="Always run, with one capacity, and never sleep.")
    ] = False,
    fixed_capacity: Annotated[
        float | None,
        typer.Option(
            "--capacity", metavar="X", help="The capacity of a provisioned cluster, in ACUs. [default: the highest]"
        ),
    ] = None,
    pause_after: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|never",
            help="Pause after so many seconds without a session. [default: the server's setting]",
        ),
    ] = None,
    freeze_after: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS|never",
            help="Freeze after so many seconds of quiet, sessions kept. [default: the server's setting]",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR",
            help="Clients may connect from this network; repeatable. "
            "[default: this host alone; must be given where the server listens for others]",
        ),
    ] = None,
    require_tls: Annotated[bool, typer.Option("--require-tls", help="Refuse clients without TLS.")] = False,
    wake_on: Annotated[WakeOn, typer.Option(help=WAKE_ON_HELP)] = WakeOn.AUTHENTICATED,
    max_clients: Annotated[int | None, typer.Option(metavar="N", help=MAX_CLIENTS_HELP + " [default: any]")] = None,
    copies: Annotated[
        int | None, typer.Option(metavar="1|3|6", help=COPIES_HELP + " [default: the server's setting]")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the endpoint. [default: a free one]")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a cluster, and show how to connect to it."""
    invocation = context.ensure_object(Invocation)
    api = invocation.api
    request: wire.CreateCluster = {
        "name": name,
        "engine": engine.value,
        "min_capacity": min_capacity,
        "max_capacity": max_capacity,
        "mode": (Mode.PROVISIONED if provisioned else Mode.SERVERLESS).value,
        "require_tls": require_tls,
        "wake_on": wake_on.value,
    }
    if fixed_capacity is not None:
        request["capacity"] = fixed_capacity
    if version is not None:
        request["version"] = version
    if pause_after is not None:
        request["pause_after"] = pause_after
    if freeze_after is not None:
        request["freeze_after"] = freeze_after
    if allow:
        request["allow"] = allow
    if max_clients is not None:
        request["max_clients"] = max_clients
    if copies is not None:
        request["copies"] = copies
    if port is not None:
        request["port"] = port
    with output.progress(f"Creating cluster {name}", step_of(api, name)):
        cluster = api.create(request)
    if as_json:
        output.print_json(cluster)
        return
    credentials = api.credentials(cluster["name"])
    doing = "It always runs" if capacity.is_provisioned(cluster) else "It sleeps until you connect"
    output.say(f"Cluster {cluster['name']} is ready ({facts.engine(cluster)}). {doing}:")
    output.say()
    output.say(f"    {credentials['url']}")
    output.say()
    output.say(f"    {programs.command_line(invocation, cluster['name'], cluster['engine'])}")


def list_clusters(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the clusters."""
    invocation = context.ensure_object(Invocation)
    clusters = invocation.api.clusters()
    if as_json:
        output.print_json(clusters)
    elif not clusters:
        output.say(f"There is no cluster. Make one with `{invocation.command('create')} NAME`.")
    else:
        _print_list(clusters)


def _print_list(clusters: Sequence[wire.Cluster]) -> None:
    # Nothing is said of volumes as long as all are whole.
    with_volume = any(facts.is_unwell(cluster) for cluster in clusters)
    output.print_table(
        (
            *("NAME", "ENGINE", "STATUS", "COMPUTE", "CAPACITY", "SESSIONS", "ENDPOINT", "PAUSES IN"),
            *(("VOLUME",) if with_volume else ()),
        ),
        [
            (
                cluster["name"],
                facts.engine(cluster),
                cluster["status"],
                cluster["compute"],
                facts.capacity_cell(cluster),
                str(cluster["sessions"]),
                facts.endpoint(cluster["endpoint"]),
                "-" if cluster["pauses_in_s"] is None else output.duration(cluster["pauses_in_s"]),
                *((cluster["volume"]["health"],) if with_volume else ()),
            )
            for cluster in clusters
        ],
    )


def show(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show one cluster: what it does, why, and how it is set up."""
    api = context.ensure_object(Invocation).api
    cluster = api.cluster(name)
    if as_json:
        output.print_json(cluster)
    else:
        output.say(facts.headline(cluster))
        output.say()
        output.print_facts(facts.everything(cluster, api.status()["acu"]))


def modify(
    context: typer.Context,
    name: Name,
    *,
    allow: Allow = None,
    require_tls: Annotated[
        bool | None, typer.Option("--require-tls/--no-require-tls", help="Refuse clients without TLS, or serve them.")
    ] = None,
    wake_on: Annotated[WakeOn | None, typer.Option(help=WAKE_ON_HELP)] = None,
    max_clients: Annotated[str | None, typer.Option(metavar="N|none", help=MAX_CLIENTS_HELP)] = None,
    copies: Annotated[int | None, typer.Option(metavar="1|3|6", help=COPIES_HELP)] = None,
    pause_after: PauseAfter = None,
    freeze_after: FreezeAfter = None,
    provisioned: Annotated[
        bool | None,
        typer.Option("--provisioned/--serverless", help="Always run, with one capacity, or scale and sleep again."),
    ] = None,
    fixed_capacity: Annotated[
        float | None, typer.Option("--capacity", metavar="X", help="The capacity of a provisioned cluster, in ACUs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change who may connect, when it sleeps and how many copies it has. Takes effect at once; open sessions stay."""
    changes: wire.ModifyCluster = {}
    if allow:
        changes["allow"] = allow
    if require_tls is not None:
        changes["require_tls"] = require_tls
    if wake_on is not None:
        changes["wake_on"] = wake_on.value
    if max_clients is not None:
        changes["max_clients"] = int(max_clients) if max_clients.isascii() and max_clients.isdigit() else max_clients
    if copies is not None:
        changes["copies"] = copies
    if pause_after is not None:
        changes["pause_after"] = pause_after
    if freeze_after is not None:
        changes["freeze_after"] = freeze_after
    if provisioned is not None:
        changes["mode"] = (Mode.PROVISIONED if provisioned else Mode.SERVERLESS).value
    if fixed_capacity is not None:
        changes["capacity"] = fixed_capacity
    if not changes:
        raise errors.InvalidInput("Nothing to change was given.", hint="`zorya modify --help` lists the options.")
    api = context.ensure_object(Invocation).api
    with output.progress(f"Modifying cluster {name}", step_of(api, name)):
        cluster = api.modify(name, changes)
    if as_json:
        output.print_json(cluster)
    else:
        output.say(f"Cluster {cluster['name']}:")
        output.print_facts(facts.rules(cluster))


def change_password(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Give a cluster's user a new password, and print the new URL. Open sessions stay."""
    api = context.ensure_object(Invocation).api
    with output.progress(f"Changing the password of cluster {name}", step_of(api, name)):
        credentials = api.change_password(name)
    _print_url(credentials, as_json=as_json)


def show_url(context: typer.Context, name: Name, *, reader: Reader = False, as_json: AsJson = False) -> None:
    """Print a cluster's URL, password included."""
    _print_url(_credentials(context.ensure_object(Invocation).api, name, reader=reader), as_json=as_json)


def _credentials(api: Api, name: str, *, reader: bool) -> wire.Credentials:
    """Answer what a client needs to connect, as a reader if it is to be one. Raises Conflict where there are none."""
    credentials = api.credentials(name)
    if not reader:
        return credentials
    cluster = api.cluster(name)
    endpoint = cluster["reader_endpoint"]
    if endpoint is None:
        can_have_more = cluster["engine"] == EngineKind.POSTGRES
        raise errors.Conflict(
            f"Cluster {name} has one copy, and so no reader endpoint.",
            hint=f"`zorya modify {name} --copies 6` makes more." if can_have_more else "",
        )
    url = urlsplit(credentials["url"])
    user, _, _ = url.netloc.rpartition("@")
    return {
        **credentials,
        "endpoint": endpoint,
        "url": url._replace(netloc=f"{user}@{facts.endpoint(endpoint)}").geturl(),
    }


def _print_url(credentials: wire.Credentials, *, as_json: bool) -> None:
    if as_json:
        output.print_json(credentials)
    else:
        output.say(credentials["url"])


def connect(
    context: typer.Context,
    name: Name,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGS]", help="Passed to psql or mariadb.", show_default=False)
    ] = None,
    *,
    reader: Reader = False,
) -> None:
    """Open psql, or mariadb, on a cluster."""
    api = context.ensure_object(Invocation).api
    credentials = _credentials(api, name, reader=reader)
    argv, environment = programs.session(api.cluster(name)["engine"], credentials, arguments or [])
    os.execve(argv[0], argv, environment)  # noqa: S606 - the program takes over this terminal


def pause(
    context: typer.Context,
    name: Name,
    *,
    force: Annotated[bool, typer.Option("--force", help="End open sessions rather than refuse.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop a cluster's engine now. The next connection starts it again."""
    api = context.ensure_object(Invocation).api
    with output.progress(f"Pausing cluster {name}", step_of(api, name)):
        cluster = api.pause(name, force=force)
    _tell_result(cluster, as_json=as_json)


def resume(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Start a cluster's engine now, ahead of the first connection."""
    api = context.ensure_object(Invocation).api
    with output.progress(f"Resuming cluster {name}", step_of(api, name)):
        cluster = api.resume(name)
    _tell_result(cluster, as_json=as_json)


def delete(
    context: typer.Context,
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a cluster with all its data."""
    api = context.ensure_object(Invocation).api
    cluster = api.cluster(name)["name"]
    if not yes and not _confirmed(cluster):
        raise errors.InvalidInput("Nothing was deleted.")
    with output.progress(f"Deleting cluster {cluster}", step_of(api, cluster)):
        api.delete(cluster)
    output.say(f"Cluster {cluster} and its data are deleted.")


def _confirmed(cluster: str) -> bool:
    if not sys.stdin.isatty():
        raise errors.InvalidInput(
            f"Deleting {cluster} needs a confirmation, and there is no terminal to ask on.",
            hint="Repeat it with --yes.",
        )
    return typer.confirm(f"Delete cluster {cluster} and all its data?", err=True)


def step_of(api: Api, name: str) -> Callable[[], str | None]:
    """Answer what tells the present step of a cluster's operation, for `output.progress`."""

    def read_step() -> str | None:
        try:
            operation = api.cluster(name)["operation"]
        except errors.ZoryaError:
            # Not registered yet, or already gone: the request that is waited for will tell.
            return None
        return operation["step"] if operation else None

    return read_step


def _tell_result(cluster: wire.Cluster, *, as_json: bool) -> None:
    if as_json:
        output.print_json(cluster)
    else:
        output.say(facts.headline(cluster))
