"""All places at which others can read what a server says."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from harness import Server

_ROUTES = ("/v1/status", "/v1/doctor", "/v1/clusters", "/v1/events", "/v1/ca", "/openapi.json")
_COMMANDS = (["list"], ["status"], ["doctor"], ["events", "--all"], ["ca", "--json"], ["--help"])


def said(server: Server, name: str) -> Iterator[tuple[str, str]]:
    """Answer where something can be read, and what; cluster `name` runs."""
    for path in (server.log, *server.home.glob("log/*"), *server.home.glob("clusters/*/log/*")):
        yield str(path), path.read_text(errors="replace")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield f"{process}/cmdline", (process / "cmdline").read_text(errors="replace")
    environment = Path(f"/proc/{server.show(name)['engine_pid']}/environ")
    yield str(environment), environment.read_text(errors="replace")
    transport = httpx.HTTPTransport(uds=str(server.home / "run" / "zorya.sock"))
    with httpx.Client(transport=transport, base_url="http://zorya", trust_env=False) as api:
        for route in (*_ROUTES, f"/v1/clusters/{name}"):
            answer = api.get(route)
            assert answer.status_code == 200, route
            yield route, answer.text
    for command in (*_COMMANDS, ["show", name]):
        done = server.cli(*command)
        yield " ".join(command), done.stdout + done.stderr
