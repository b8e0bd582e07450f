"""What happened to clusters, and what is happening."""

from collections.abc import Iterator
from itertools import chain
from typing import Annotated

import typer

from zorya.cli import output, wire
from zorya.cli.client import Api
from zorya.cli.invocation import Invocation
from zorya.cli.options import AsJson

_WAIT_S = 30.0
_SCALING = "ZORYA-EVENT-0141"
_MOST = 1000
"""The most events that the server gives at once."""


def show_events(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Only this cluster's, which may be deleted.", show_default=False)
    ] = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Freezes, thaws and beginnings of changes of capacity too.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Then print new ones as they happen.")] = False,
    limit: Annotated[int, typer.Option(help="How many of the newest to print.", min=1, max=_MOST)] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what happened, oldest first, without freezes and thaws. JSON is a list, one object a line with --follow."""
    shown = everything or as_json
    api = context.ensure_object(Invocation).api
    past = api.events(name, after=0, limit=limit, wait_s=0, sleep=everything)
    if as_json and not follow:
        output.print_json(past)
        return
    news = following(api, name, after=past[-1]["seq"] if past else 0, sleep=everything) if follow else ()
    for event in chain(past, news):
        if shown or is_news(event):
            _print_event(event, as_json=as_json)


def is_news(event: wire.Event) -> bool:
    """Whether a person wants to read it: a change of capacity is told when it is done, a few ms after its beginning."""
    return event["kind"] != _SCALING


def following(api: Api, name: str | None, *, after: int, sleep: bool) -> Iterator[wire.Event]:
    """Yield each event after `after` as it happens, freezes and thaws only with `sleep`.

    Ends only by the client's errors, such as ServerUnreachable.
    """
    while True:
        for event in api.events(name, after=after, limit=_MOST, wait_s=_WAIT_S, sleep=sleep):
            after = event["seq"]
            yield event


def _print_event(event: wire.Event, *, as_json: bool) -> None:
    if as_json:
        output.print_json(event, indent=None)
    else:
        output.say(output.event_line(event))
