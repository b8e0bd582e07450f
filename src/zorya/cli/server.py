"""The commands that start, stop and examine the server."""

import os
import select
import time
from typing import Annotated

import typer

from zorya.cli import launch, output, wire
from zorya.cli.client import Api
from zorya.cli.invocation import Invocation
from zorya.cli.options import AsJson
from zorya.core import errors

_LEFT_RUNNING = ("resuming", "running", "frozen")
"""The states in which a cluster has an engine that goes on without the server."""


def up(
    context: typer.Context,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the server is up; it logs to a file.")] = False,
    bind: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Listen here for clients; repeatable. [default: 127.0.0.1]"),
    ] = None,
    port_range: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="Ports for new clusters. [default: 7400-7999]")
    ] = None,
    api_port: Annotated[int | None, typer.Option(help="TCP port of the REST API. [default: 7399]")] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error. [default: info; warning on a terminal]"),
    ] = None,
) -> None:
    """Start the server, and cluster main where there is none."""
    invocation = context.ensure_object(Invocation)
    if _tell_if_up(invocation):
        return
    given = {
        name: value
        for name, value in {
            "bind": bind,
            "port_range": port_range,
            "api_port": api_port,
            "log_level": log_level,
        }.items()
        if value is not None
    }
    try:
        if detach:
            launch.in_background(invocation, given)
        else:
            launch.in_foreground(invocation, given)
    except errors.AlreadyRunning:
        if not _tell_if_up(invocation):
            raise


def down(
    context: typer.Context,
    *,
    leave_running: Annotated[
        bool, typer.Option("--leave-running", help="Leave engines and their sessions running, for the next server.")
    ] = False,
) -> None:
    """Put every cluster to sleep and stop the server."""
    api = context.ensure_object(Invocation).api
    try:
        status = api.stop(leave_running=leave_running)
    except errors.ServerUnreachable:
        output.say("Zorya is not up.")
        return
    awake = sum(number for state, number in status["clusters"].items() if state != "stopped")
    doing = "Stopping Zorya" if leave_running else f"Putting {output.count(awake, 'cluster')} to sleep"
    with output.progress(doing, lambda: None):
        _wait_until_gone(api, status["pid"])
    left = sum(status["clusters"].get(state, 0) for state in _LEFT_RUNNING) if leave_running else 0
    if left:
        go_on = "1 engine goes on" if left == 1 else f"{left} engines go on"
        output.say(f"Zorya is down; {go_on}, and clients that connect wait for the next server.")
    else:
        output.say("Zorya is down.")


def show_status(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show whether the server is up, where, and what it has to do."""
    status = context.ensure_object(Invocation).api.status()
    if as_json:
        output.print_json(status)
        return
    output.say(f"Zorya {status['version']} is up since {output.local_time(status['started_at'])}.")
    output.say()
    output.print_facts(
        [
            ("up for", output.duration(status["uptime_s"])),
            ("home", status["home"]),
            ("pid", str(status["pid"])),
            ("API", f"{status['api_socket']} and {status['api_url']}"),
            ("listens on", ", ".join(status["bind"])),
            ("clusters", ", ".join(f"{n} {state}" for state, n in status["clusters"].items() if n) or "none"),
            ("sessions", str(status["sessions"])),
            ("node", _node(status["node"])),
        ]
    )


def _node(node: wire.Node) -> str:
    has = f"{output.cores(node['cores'])}, {output.size(node['memory_bytes'])}"
    return f"{node['allotted']:g} of {node['capacity']:g} ACUs allotted ({has})"


def doctor(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Say what this host can do and what to change. The exit code is 1 if something is missing."""
    findings = _examine(context.ensure_object(Invocation))
    if as_json:
        output.print_json(findings)
    else:
        for finding in findings:
            output.say(f"{finding['state'].ljust(7)}  {finding['name']}: {output.printable(finding['found'])}")
            if finding["advice"]:
                output.say(f"{'':7}  {output.printable(finding['advice'])}")
    if any(finding["state"] == "missing" for finding in findings):
        raise typer.Exit(1)


def _examine(invocation: Invocation) -> list[wire.Finding]:
    try:
        return invocation.api.doctor()
    except errors.ServerUnreachable:
        from zorya import server

        return [
            {"name": one.name, "state": one.state.value, "found": one.found, "advice": one.advice}
            for one in server.inspect_host(invocation.home)
        ]


def _tell_if_up(invocation: Invocation) -> bool:
    try:
        status = invocation.api.status()
    except errors.ServerUnreachable:
        return False
    output.say(f"Zorya is already up (home {status['home']}, pid {status['pid']}); nothing was changed.")
    return True


def _wait_until_gone(api: Api, pid: int) -> None:
    """Return when the server's process has ended, and with it its lock and its sockets."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        # It ended already, or it runs in another pid namespace, where its socket is all that can be seen of it.
        pass
    else:
        with os.fdopen(process):
            select.select([process], [], [])
    while _answers(api):
        time.sleep(output.POLL_S)


def _answers(api: Api) -> bool:
    try:
        api.status()
    except errors.ServerUnreachable:
        return False
    return True
