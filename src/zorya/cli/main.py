"""The `zorya` command.

Exit codes: 0 done; 1 refused or failed, with one line on standard error; 2 wrong usage; 130 interrupted. Where the
reader of standard output leaves early (`| head`), the command ends quietly with 1.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import zorya
from zorya.cli import ca, capacity, clusters, events, output, server, top, usage, volume
from zorya.cli.invocation import Invocation
from zorya.core.errors import ZoryaError


class _Groups(TyperGroup):
    """Help that lists the commands under the titles of their groups, in plain text of any width."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer calls it so; the types are its own
        """Write one section for each group, in the order of the first command of each."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            if isinstance(command, TyperCommand):
                line = command.get_short_help_str(limit=formatter.width)
                sections.setdefault(str(command.rich_help_panel), []).append((name, line))
        for title, lines in sections.items():
            with formatter.section(title):
                formatter.write_dl(lines)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.say(f"zorya {zorya.__version__}")
        raise typer.Exit


def _begin(
    context: typer.Context,
    *,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where the server keeps its state. [default: $ZORYA_HOME, else /var/lib/zorya for root, "
            "else ~/.local/share/zorya]",
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Zorya: serverless PostgreSQL and MariaDB on your own machine. They start when you connect."""
    if home is not None:
        invocation = context.ensure_object(Invocation)
        invocation.home = home.expanduser().absolute()
        invocation.home_given = True


app = typer.Typer(
    cls=_Groups, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, no_args_is_help=True
)
app.callback()(_begin)
_GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Server": {
        "up": server.up,
        "down": server.down,
        "status": server.show_status,
        "doctor": server.doctor,
        "ca": ca.show_ca,
    },
    "Clusters": {
        "create": clusters.create,
        "list": clusters.list_clusters,
        "show": clusters.show,
        "top": top.top,
        "modify": clusters.modify,
        "scale": capacity.scale,
        "capacity": capacity.set_capacity,
        "copies": volume.show_copies,
        "verify": volume.verify,
        "recover": volume.recover,
        "pause": clusters.pause,
        "resume": clusters.resume,
        "delete": clusters.delete,
        "events": events.show_events,
        "usage": usage.show_usage,
    },
    "Connecting": {"url": clusters.show_url, "password": clusters.change_password, "connect": clusters.connect},
}
for _title, _commands in _GROUPS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_title)(_command)


def main() -> None:
    """Run the command that the process was started with, and exit with its code."""
    invocation = Invocation()
    try:
        app(prog_name="zorya", obj=invocation)
    except ZoryaError as error:
        output.print_error(error, as_json=invocation.as_json)
        sys.exit(1)
