"""The commands that show the copies of a cluster's volume, verify them, and recover the cluster from what is left."""

from collections.abc import Iterator
from typing import Annotated

import typer

from zorya.cli import clusters, facts, output, wire
from zorya.cli.invocation import Invocation
from zorya.cli.options import AsJson, Name
from zorya.core.volume import CopyKind, CopyState


def show_copies(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Show the copies of a cluster: where each is, and how far. Never wakes it."""
    copies = context.ensure_object(Invocation).api.copies(name)
    if as_json:
        output.print_json(copies)
        return
    columns = ["COPY", "ZONE", "ROLE", "STATE", "POSITION", "LAG", "VERIFIED"]
    rows = [list(_cells(copy)) for copy in copies]
    if any(copy["reason"] for copy in copies):
        columns.append("REASON")
        rows = [[*row, copy["reason"]] for row, copy in zip(rows, copies, strict=True)]
    output.print_table(columns, rows)


def _cells(copy: wire.Copy) -> Iterator[str]:
    yield copy["name"]
    yield copy["zone"]
    yield _role(copy)
    yield _state(copy)
    yield copy["position"] or "-"
    yield describe_lag(copy["lag_bytes"], copy["lag_s"])
    yield "never" if copy["verified_at"] is None else output.local_time(copy["verified_at"])


def _role(copy: wire.Copy) -> str:
    if copy["is_primary"]:
        return "primary"
    return "log" if copy["kind"] == CopyKind.TAIL else "standby"


def _state(copy: wire.Copy) -> str:
    if copy["state"] == CopyState.BUILDING and copy["progress"] is not None:
        return f"{copy['state']} {int(copy['progress'] * 100)} %"
    return copy["state"]


def describe_lag(size: int | None, seconds: float | None) -> str:
    """Answer how far a copy is behind the primary: `16 KiB, 0.3 s`; `none` where it is not, `-` where nobody knows."""
    if size == 0:
        return "none"
    parts = [] if size is None else [_bytes(size)]
    if seconds is not None:
        parts.append(_seconds(seconds))
    return ", ".join(parts) or "-"


def _seconds(number: float) -> str:
    return f"{number:.1f} s" if number < 9.95 else output.duration(number)


def _bytes(number: int) -> str:
    if number < 1024:
        return f"{number} B"
    # What would be shown as 1000 KiB or more takes the larger unit.
    return f"{number / 1024:.0f} KiB" if number < 999.5 * 1024 else output.size(number)


def verify(context: typer.Context, name: Name, *, as_json: AsJson = False) -> None:
    """Check the checksums of a cluster's data and log, and repair what is damaged. Waits until that is checked."""
    api = context.ensure_object(Invocation).api
    with output.progress(f"Verifying cluster {name}", clusters.step_of(api, name)):
        found = api.verify(name)
    # A damaged copy has one sentence or more, so this is never true while one is not repaired.
    is_repaired = len(found["repaired"]) >= len(found["damaged"])
    if as_json:
        output.print_json(found)
    else:
        _tell(found, is_repaired=is_repaired)
    if not is_repaired:
        raise typer.Exit(1)


def _tell(found: wire.Verification, *, is_repaired: bool) -> None:
    number = "1 copy was" if found["copies"] == 1 else f"{found['copies']} copies were"
    checked = f"{number} checked in {_seconds(found['took_s'])}"
    if not found["damaged"]:
        output.say(f"{checked}; nothing is damaged.")
        return
    output.say(f"{checked}:")
    output.print_facts(
        [
            *(("damaged", sentence) for sentence in found["damaged"]),
            ("repaired", ", ".join(found["repaired"]) or "none"),
        ]
    )
    if not is_repaired:
        output.say("Not all of it could be repaired.")


def recover(
    context: typer.Context,
    name: Name,
    *,
    accept_data_loss: Annotated[
        bool, typer.Option("--accept-data-loss", help="Go on though what was committed last may be lost.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Have a cluster go on from what is left of it, where too few copies are. Commits may be lost."""
    api = context.ensure_object(Invocation).api
    if not accept_data_loss:
        reason = output.printable(api.cluster(name)["volume"]["reason"])
        context.fail(
            f"Nothing was done: {name} would go on from what is left of it. What was committed last may be lost, and "
            f"nobody can tell how much. {reason} Bring the missing copies back if that can be done; if not, repeat "
            "this with --accept-data-loss."
        )
    with output.progress(f"Recovering cluster {name}", clusters.step_of(api, name)):
        cluster = api.recover(name, accept_data_loss=True)
    if as_json:
        output.print_json(cluster)
    else:
        output.say(facts.headline(cluster))
        output.print_facts(facts.volume(cluster))
