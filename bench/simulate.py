"""The six use cases, simulated: the policy that ships against models of what others document. Needs no database.

docs/scaling.md tells the rules, and `python -m bench.page` writes the table there anew from the last run.
`python -m bench.simulate --seed N` plays other traces by the same recipe: those that the policy was not made with.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import curves, models, play, traces
from bench.report import Comparison, Series, Shape
from bench.traces import Trace
from zorya.core.capacity import round_up

ZORYA: Final = "Zorya, no burst"
BURST: Final = "Zorya, burst"
V2: Final = "Aurora v2"

CLEARLY: Final = 0.9
"""Fewer ACU-hours are clearly fewer up to this part of the others'."""

TABLE: Final = "simulation.md"
"""What `bench.page` puts into the docs."""

SYSTEMS: Final[dict[str, Callable[[Trace], models.System]]] = {
    "fixed at peak": lambda trace: models.Fixed(play.bounds_of(trace).most),
    "fixed at mean": lambda trace: models.Fixed(round_up(float(play.needed(trace).mean()))),
    "Aurora v1": lambda trace: models.AuroraV1(play.bounds_of(trace), play.ACU),
    V2: lambda trace: models.AuroraV2(play.bounds_of(trace), play.ACU),
    "Neon": lambda trace: models.Neon(play.bounds_of(trace), play.ACU),
    ZORYA: lambda trace: models.Zorya(play.bounds_of(trace), play.ACU, burst=False),
    BURST: lambda trace: models.Zorya(play.bounds_of(trace), play.ACU, burst=True),
}

_OTHERS: Final = [name for name in SYSTEMS if name not in {ZORYA, BURST}]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One system in one use case, all its clusters together."""

    acu_hours: float
    unmet_s: int
    worst_resume_s: float
    changes: int
    cold_s: int
    borrowed_acu_hours: float


def main() -> None:
    """Play traces of any seed. Nothing of it goes into the docs, unless its folder is given to `bench.page`."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, required=True, help="what the traces are drawn with")
    parser.add_argument("--results", type=Path, required=True, help="folder for the table and the plots")
    given = parser.parse_args()
    run(given.results, seed=given.seed)


def run(folder: Path, *, days: int | None = None, seed: int = traces.SEED) -> list[Comparison]:
    """Play all cases, of `days` at most, under all systems; print what came of it, and draw it into `folder`."""
    cases = traces.cases(seed, days)
    played = _play(cases)
    totals = {case.title: {name: _total(played[case.name, name]) for name in SYSTEMS} for case in cases}
    for case in cases:
        print(f"\n{_heading(case)}")
        _show(totals[case.title])
    _judge(totals)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_text(_markdown(totals))
    for case in cases:
        curves.draw(case, {name: played[case.name, name] for name in (ZORYA, V2, "Neon")}, folder)
    return [
        _comparison(title, results, what)
        for what in ("ACU-hours", "unmet seconds")
        for title, results in totals.items()
    ]


def _play(cases: Sequence[traces.Case]) -> dict[tuple[str, str], list[play.Outcome]]:
    tasks = [(case.name, name, trace) for name in reversed(SYSTEMS) for case in cases for trace in case.traces]
    done: dict[tuple[str, str], list[play.Outcome]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
        played = pool.map(_play_one, [name for _, name, _ in tasks], [trace for *_, trace in tasks])
        for (case, name, _), outcome in zip(tasks, played, strict=True):
            done.setdefault((case, name), []).append(outcome)
    return done


def _play_one(name: str, trace: Trace) -> play.Outcome:
    return play.Play(trace, SYSTEMS[name](trace)).run()


def _total(outcomes: Sequence[play.Outcome]) -> Result:
    return Result(
        acu_hours=sum(one.acu_hours for one in outcomes),
        unmet_s=sum(one.unmet_s for one in outcomes),
        worst_resume_s=max(one.worst_resume_s for one in outcomes),
        changes=sum(one.changes for one in outcomes),
        cold_s=sum(one.cold_s for one in outcomes),
        borrowed_acu_hours=sum(one.borrowed_acu_hours for one in outcomes),
    )


def _heading(case: traces.Case) -> str:
    days = case.traces[0].seconds // traces.DAY_S
    most = [play.bounds_of(trace).most for trace in case.traces]
    top = f"{most[0]:g}" if len(most) == 1 else f"{min(most):g} to {max(most):g}, each by its own peak,"
    return f"{case.title}: {days} days, from {play.LEAST:g} up to {top} ACUs"


def _show(results: Mapping[str, Result]) -> None:
    print(f"  {'':<16} {'ACU-hours':>10} {'unmet s':>9} {'resume s':>9} {'changes':>9} {'cold s':>9} {'borrowed':>9}")
    for name, one in results.items():
        print(
            f"  {name:<16} {one.acu_hours:10.1f} {one.unmet_s:9d} {one.worst_resume_s:9.3g} {one.changes:9d} "
            f"{one.cold_s:9d} {one.borrowed_acu_hours:9.1f}",
            flush=True,
        )


def _judge(totals: Mapping[str, Mapping[str, Result]]) -> None:
    """Print how Zorya compares, with burst and without, and where the aim is not met."""
    for own in (ZORYA, BURST):
        print(f"\nACU-hours of {own} as a part of the others' (in brackets unmet seconds, ours to theirs)")
        print(f"  {'':<34} {''.join(f'{name:>24}' for name in _OTHERS)}")
        for title, results in totals.items():
            cells = [_cell(results[own], results[name]) for name in _OTHERS]
            print(f"  {title:<34} {''.join(f'{cell:>24}' for cell in cells)}")
        print(f"Aim: no more unmet seconds than {V2}, at {CLEARLY:g} or less of everybody's ACU-hours.")
        for line in misses(totals, own):
            print(f"  not met: {line}")


def _cell(own: Result, other: Result) -> str:
    return f"{own.acu_hours / other.acu_hours:.2f} ({own.unmet_s} to {other.unmet_s})"


def misses(totals: Mapping[str, Mapping[str, Result]], own_name: str) -> list[str]:
    """Answer where Zorya, of which `own_name` is one way to run it, does not meet the aim, as sentences."""
    found = []
    for title, results in totals.items():
        own = results[own_name]
        if own.unmet_s > results[V2].unmet_s:
            found.append(f"{title}: {own.unmet_s} s unmet, {V2} {results[V2].unmet_s} s.")
        for name in _OTHERS:
            other = results[name]
            if own.acu_hours > CLEARLY * other.acu_hours:
                told = f"{title}: {own.acu_hours:.1f} ACU-hours, {name} {other.acu_hours:.1f}"
                worse = f", but {other.unmet_s} s unmet to {own.unmet_s}" if other.unmet_s > own.unmet_s else ""
                found.append(f"{told}{worse}.")
    return found


def _markdown(totals: Mapping[str, Mapping[str, Result]]) -> str:
    lines = [
        "| use case | system | ACU-hours | unmet, s | worst resume, s | changes | cold cache, s | borrowed |",
        f"|{' --- |' * 8}",
    ]
    for title, results in totals.items():
        label = title
        for name, one in results.items():
            borrowed = _hours(one.borrowed_acu_hours) if name == BURST else ""
            figures = f"{one.unmet_s:,} | {one.worst_resume_s:.3g} | {one.changes:,} | {one.cold_s:,} | {borrowed}"
            lines.append(f"| {label} | {name} | {_hours(one.acu_hours)} | {figures} |")
            label = ""
    return "\n".join(lines)


def _hours(acu_hours: float) -> str:
    return f"{acu_hours:,.1f}" if acu_hours < 100 else f"{acu_hours:,.0f}"


def _comparison(title: str, results: Mapping[str, Result], what: str) -> Comparison:
    is_cost = what == "ACU-hours"
    unit = "ACU-h" if is_cost else "s"
    series = {
        name: Series(name=name, unit=unit, values=[one.acu_hours if is_cost else float(one.unmet_s)])
        for name, one in results.items()
    }
    return Comparison(
        title=f"{title}: {what}",
        baseline=series[V2],
        others=[one for name, one in series.items() if name != V2],
        aim="",
        figure=f"simulation-{'hours' if is_cost else 'unmet'}",
        shape=Shape.VALUES,
    )


if __name__ == "__main__":
    main()
