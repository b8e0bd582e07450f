"""How this program prints: results on standard output, errors and progress on standard error.

On a terminal tables have colours and follow its width; elsewhere they are plain text of whatever width they need. Text
that came from elsewhere (an engine's log, a client's user name) cannot move the cursor or add a line.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import typer

from zorya.cli import wire
from zorya.core.errors import ZoryaError

POLL_S = 0.15
ERROR_PREFIX = "zorya: "

STYLES = {
    "running": "green",
    "available": "green",
    "ok": "green",
    "resuming": "yellow",
    "pausing": "yellow",
    "creating": "yellow",
    "deleting": "yellow",
    "warning": "yellow",
    "frozen": "cyan",
    "stopped": "dim",
    "failed": "red",
    "missing": "red",
    "whole": "green",
    "current": "green",
    "degraded": "yellow",
    "behind": "yellow",
    "building": "yellow",
    "waiting": "red",
    "lost": "red",
}
"""How words look on a terminal."""


def printable(text: str) -> str:
    """Answer `text` in one line, with its control characters escaped."""
    return _escape(" ".join(text.split()))


def _escape(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(line: str = "") -> None:
    """Print one line on standard output."""
    typer.echo(_escape(line))


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print one JSON document; without indentation it takes one line."""
    typer.echo(json.dumps(value, indent=indent))


def print_error(error: ZoryaError, *, as_json: bool) -> None:
    """Print one line on standard error: `zorya: MESSAGE HINT`, or the API's error object.

    JSON errors go to standard error too, so that standard output holds a result or nothing.
    """
    if as_json:
        problem = {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "retry_can_help": error.retry_can_help,
        }
        typer.echo(json.dumps({"error": problem}), err=True)
    else:
        typer.echo(f"{ERROR_PREFIX}{printable(str(error))}", err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells under their columns' names."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich_table(columns, cells)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values, the values aligned."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        say(f"{name.ljust(width)}  {printable(value)}")


def event_line(event: wire.Event) -> str:
    """Answer one event as a line: local time, cluster, message."""
    return f"{local_time(event['at'])}  {event['cluster']}  {printable(event['message'])}"


def local_time(text: str) -> str:
    """Answer an ISO time as the clock on the user's wall shows it."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Answer a duration in its two largest units, such as `4 min 10 s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    d, h = divmod(hours, 24)
    parts = [f"{number} {unit}" for number, unit in ((d, "d"), (h, "h"), (m, "min"), (s, "s")) if number]
    return " ".join(parts[:2]) or "0 s"


def delay(seconds: float) -> str:
    """Answer a delay that somebody chose as `duration` does, but below a minute with its fraction: `0.05 s`."""
    return f"{seconds:g} s" if seconds < 60 else duration(seconds)


def mebibytes(size: int) -> str:
    """Answer a size of memory, such as `41.3 MiB`."""
    return f"{size / 2**20:.1f} MiB"


def size(number: float) -> str:
    """Answer a number of bytes with three digits at most: `412 MiB`, `1.6 GiB`, `3 GiB`."""
    value, unit = number / 2**20, "MiB"
    for larger in ("GiB", "TiB"):
        # What would be shown as 1000 or more takes the larger unit.
        if value >= 999.5:
            value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 99.95 else f"{value:.1f}".removesuffix(".0") + f" {unit}"


def cores(number: float) -> str:
    """Answer a number of cores, such as `0.38 cores` or `1 core`."""
    shown = f"{number:.2f}".rstrip("0").rstrip(".")
    return f"{shown} core" if shown == "1" else f"{shown} cores"


def count(number: int, noun: str) -> str:
    """Answer a number with its noun: `1 cluster`, `2 clusters`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def progress(text: str, read_step: Callable[[], str | None]) -> Iterator[None]:
    """Show a spinner with `text` and the present step while the block runs; nothing where there is no terminal.

    `read_step` is called from another thread. It answers None when there is no step to tell.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    done = threading.Event()
    with Console(stderr=True).status(Text(text)) as status:

        def watch() -> None:
            while not done.wait(POLL_S):
                step = read_step()
                status.update(Text(f"{text}: {printable(step)}" if step else text))

        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
