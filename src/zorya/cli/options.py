"""The arguments and options that several commands share."""

from typing import Annotated

import typer

from zorya.cli.invocation import Invocation


def _note_json(context: typer.Context, value: bool) -> bool:
    context.ensure_object(Invocation).as_json = value
    return value


Name = Annotated[str, typer.Argument(help="The cluster's name.", show_default=False)]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON, and errors as JSON on standard error.", callback=_note_json)
]
Allow = Annotated[
    list[str] | None, typer.Option(metavar="CIDR", help="Clients may connect from this network; repeatable.")
]
PauseAfter = Annotated[
    str | None, typer.Option(metavar="SECONDS|never", help="Pause after so many seconds without a session.")
]
FreezeAfter = Annotated[
    str | None, typer.Option(metavar="SECONDS|never", help="Freeze after so many seconds of quiet, sessions kept.")
]
Reader = Annotated[bool, typer.Option("--reader", help="The reader endpoint: the other full copies, to read alone.")]
MIN_CAPACITY_HELP = "Lowest capacity while running, in ACUs, steps of 0.5."
MAX_CAPACITY_HELP = "Highest capacity, in ACUs, steps of 0.5."
WAKE_ON_HELP = "Start for clients that have logged in (authenticated), or for any."
MAX_CLIENTS_HELP = "Serve so many clients at once at most."
COPIES_HELP = "Copies of its data and log: six or three in three zones, or one."
