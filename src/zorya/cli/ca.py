"""The root certificate with which clients verify the server, and the renewal of the server's own."""

from typing import Annotated

import typer

from zorya.cli import output
from zorya.cli.invocation import Invocation
from zorya.cli.options import AsJson
from zorya.core import errors


def show_ca(
    context: typer.Context,
    *,
    renew: Annotated[
        bool, typer.Option("--renew", help="Make a new server certificate now. The root and open sessions stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the root certificate with which clients verify the server, in PEM."""
    api = context.ensure_object(Invocation).api
    certificate = api.renew_certificate() if renew else api.certificate()
    if as_json:
        output.print_json(certificate)
    elif renew:
        until = output.local_time(certificate["not_after"])
        output.say(f"The server has a new certificate, good until {until}.")
    elif certificate["root_pem"] is None:
        raise errors.Conflict(
            f"The server certificate comes from {certificate['source']}, not from Zorya's own authority.",
            hint="Clients need the root that signed that one. `zorya ca --json` describes it.",
        )
    else:
        for line in certificate["root_pem"].splitlines():
            output.say(line)
