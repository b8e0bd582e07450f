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
