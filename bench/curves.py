"""Demand and capacity over time, as plots, where matplotlib is installed."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench import play
from bench.traces import DAY_S, Case, Floats

_POINTS: Final = 1500
_COLOURS: Final = ("#1b6ca8", "#e07a2f", "#3a9d6a")


def draw(case: Case, outcomes: Mapping[str, Sequence[play.Outcome]], folder: Path) -> None:
    """Draw into `folder`/simulation-NAME.svg what is needed and what these systems give, all clusters together."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    importlib.import_module("matplotlib").use("Agg")
    plots = importlib.import_module("matplotlib.pyplot")
    needed = np.sum(
        [np.maximum(t.cores / play.ACU.cores, t.memory_bytes / play.ACU.memory_bytes) for t in case.traces], 0
    )
    days = np.linspace(0, len(needed) / DAY_S, _POINTS)
    figure, axes = plots.subplots(
        len(outcomes), 1, figsize=(11, 2.4 * len(outcomes)), sharex=True, layout="constrained"
    )
    for axis, colour, (name, played) in zip(axes, _COLOURS, outcomes.items(), strict=False):
        given = np.sum([one.capacity for one in played], 0)
        axis.fill_between(days, _most(needed), color="#8a8f98", alpha=0.45, linewidth=0, label="needed, most")
        axis.plot(days, _most(given), color=colour, linewidth=0.8, label=f"{name}, most")
        axis.set_ylabel("ACUs", fontsize=8)
        axis.legend(fontsize=7, loc="upper right")
    axes[0].set_title(case.title, fontsize=9)
    axes[-1].set_xlabel("days, from a Monday", fontsize=8)
    figure.savefig(folder / f"simulation-{case.name}.svg")
    plots.close(figure)


def _most(values: Floats) -> Floats:
    """Answer the most of each of the points' stretches."""
    edges = np.linspace(0, len(values), _POINTS + 1).astype(np.int64)[:-1]
    return np.maximum.reduceat(values, edges)
