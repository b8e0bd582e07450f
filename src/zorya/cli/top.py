"""`zorya top`: all clusters at a glance, once or again and again. `top_view` says how it looks."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from zorya.cli import output
from zorya.cli.client import Api
from zorya.cli.invocation import Invocation
from zorya.cli.options import AsJson
from zorya.core import errors

if TYPE_CHECKING:
    # rich is slow to load, and only this command's process needs it.
    from rich.console import Console

    from zorya.cli.top_view import Costs, Snapshot

_COSTS_S = 10.0
"""How long costs are shown before they are asked for again."""
_WIDEST = 500


def top(
    context: typer.Context,
    *,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="How often to look.", min=0.1, max=3600)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, as where there is no terminal.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch what clusters have, use and cost, those with the most capacity first. q or Ctrl-C ends it."""
    from rich.console import Console

    look = Looker(context.ensure_object(Invocation).api)
    if as_json:
        output.print_json(_as_json(look()))
        return
    console = Console(highlight=False)
    if once or not sys.stdout.isatty() or console.is_dumb_terminal:
        _print(look(), width=console.width if sys.stdout.isatty() else _WIDEST)
        return
    with suppress(KeyboardInterrupt):
        watch(look, console=console, keyboard=sys.stdin.fileno() if sys.stdin.isatty() else None, interval_s=interval)


class Looker:
    """Asks the server for all that is shown."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._costs: Costs | None = None
        self._costs_until = 0.0

    def __call__(self) -> "Snapshot":
        """Answer the present moment; costs may be some seconds old. Raises the client's errors."""
        from zorya.cli.top_view import Snapshot

        server, clusters = self._api.status(), self._api.clusters()
        if self._costs is None or time.monotonic() >= self._costs_until:
            self._costs = self._read_costs()
            self._costs_until = time.monotonic() + _COSTS_S
        return Snapshot(server=server, clusters=clusters, costs=self._costs)

    def _read_costs(self) -> "Costs":
        from zorya.cli.top_view import Costs

        day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        report = self._api.usage(None, since=day.isoformat(), by="total")
        by_id = {row["cluster_id"]: row["cost"] for row in report["rows"]}
        return Costs(
            currency=report["prices"]["currency"], total=sum(row["cost"] for row in report["rows"]), by_id=by_id
        )


def _as_json(now: "Snapshot") -> dict[str, object]:
    names = {cluster["id"]: cluster["name"] for cluster in now.clusters}
    costs = {names[one]: cost for one, cost in now.costs.by_id.items() if one in names}
    today = {"currency": now.costs.currency, "total": now.costs.total, "clusters": costs}
    return {"server": now.server, "clusters": now.clusters, "cost_today": today}


def _print(now: "Snapshot", *, width: int) -> None:
    from rich.console import Console

    from zorya.cli import top_view

    console = Console(highlight=False, width=width)
    with console.capture() as shown:
        console.print(top_view.render(now, width=width))
    for line in shown.get().splitlines():
        typer.echo(line.rstrip())


def watch(look: Callable[[], "Snapshot"], *, console: "Console", keyboard: int | None, interval_s: float) -> None:
    """Show what `look` answers on the terminal's other screen until q is typed.

    An error of `look` is shown, and `look` called again. However this ends, the terminal is then as it was. `keyboard`
    is the descriptor of the terminal to read keys from, None where there is none.
    """
    while _show(look, console=console, keyboard=keyboard, interval_s=interval_s):
        # Ctrl-Z: to the shell, on its screen and with its terminal's modes. SIGCONT goes on after this line.
        os.kill(os.getpid(), signal.SIGSTOP)


def _show(look: Callable[[], "Snapshot"], *, console: "Console", keyboard: int | None, interval_s: float) -> bool:
    """Show it until q is typed, or Ctrl-Z, of which it answers whether it was that."""
    from rich.live import Live

    from zorya.cli import top_view

    now, problem = None, ""
    with (
        _signals() as news,
        _unbuffered(keyboard),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            try:
                now, problem = look(), ""
            except errors.ZoryaError as error:
                problem = f"{error} Trying again."
            due = time.monotonic() + interval_s
            while (left_s := due - time.monotonic()) > 0:
                width, height = console.size
                hint = "q quits" if keyboard is not None else "Ctrl-C quits"
                live.update(top_view.render(now, width=width, height=height, problem=problem, hint=hint), refresh=True)
                ready, _, _ = select.select([news] if keyboard is None else [news, keyboard], [], [], left_s)
                if keyboard in ready and _wants_to_quit(keyboard):
                    return False
                if news in ready and signal.SIGTSTP in os.read(news, 64):
                    return True


def _wants_to_quit(keyboard: int) -> bool:
    typed = os.read(keyboard, 64)
    return not typed or bool(set(typed) & set(b"qQ"))


@contextmanager
def _unbuffered(keyboard: int | None) -> Iterator[None]:
    """Have keys read as they are typed, and not shown."""
    if keyboard is None:
        yield
        return
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextmanager
def _signals() -> Iterator[int]:
    """Answer a descriptor on which the numbers of SIGWINCH and SIGTSTP come; have SIGTERM and SIGHUP unwind."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handlers = {signal.SIGTERM: end, signal.SIGHUP: end, **dict.fromkeys((signal.SIGWINCH, signal.SIGTSTP), _ignore)}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def _ignore(_number: int, _frame: object) -> None:
    """Let the wakeup descriptor tell it."""
