"""What is left of a run in `bench/results`: the figures as JSON, and plots where matplotlib is installed."""

import importlib
import importlib.util
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.report import Comparison, Series, Shape

FOLDER = Path(__file__).with_name("results")

_FIGURES = "figures.json"

_COLOURS = ("#8a8f98", "#1b6ca8", "#e07a2f", "#3a9d6a", "#a04a8c", "#b8a531")


def write(comparisons: Sequence[Comparison], host: str, folder: Path) -> None:
    """Write everything that was measured into `folder`, and say where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"host": host, "comparisons": [asdict(one) for one in comparisons]}
    path = folder / _FIGURES
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nAll values are in {path}.")
    if importlib.util.find_spec("matplotlib") is None:
        print("Plots are skipped: matplotlib is not installed (pip install 'zorya[bench]').")
        return
    drawn = _draw(comparisons, host, folder)
    print(f"Plots: {', '.join(path.name for path in drawn)}.")


def read(folder: Path) -> list[Comparison]:
    """Answer what `write` has written there. Raises FileNotFoundError."""
    found = json.loads((folder / _FIGURES).read_text())["comparisons"]
    return [
        Comparison(
            **{
                **one,
                "baseline": Series(**one["baseline"]),
                "others": [Series(**other) for other in one["others"]],
                "shape": Shape(one["shape"]),
            }
        )
        for one in found
    ]


def _draw(comparisons: Sequence[Comparison], host: str, folder: Path) -> list[Path]:
    importlib.import_module("matplotlib").use("Agg")
    plots = importlib.import_module("matplotlib.pyplot")
    grouped: dict[str, list[Comparison]] = defaultdict(list)
    for one in comparisons:
        grouped[one.figure].append(one)
    drawn = []
    for name, parts in grouped.items():
        columns = min(3, len(parts))
        rows = -(-len(parts) // columns)
        figure, axes = plots.subplots(
            rows, columns, figsize=(5.2 * columns, 3.6 * rows), squeeze=False, layout="constrained"
        )
        for axis, one in zip(axes.flat, parts, strict=False):
            _DRAW[one.shape](axis, one)
            axis.set_title(one.title + (f"\naim: {one.aim}" if one.aim else ""), fontsize=9)
        for axis in list(axes.flat)[len(parts) :]:
            axis.remove()
        figure.supxlabel(host, fontsize=7)
        path = folder / f"{name}.svg"
        figure.savefig(path)
        plots.close(figure)
        drawn.append(path)
    return drawn


def _draw_ratios(axis: Any, one: Comparison) -> None:
    for place, series in enumerate(one.others):
        ratios = series.ratios_to(one.baseline)
        middle = series.ratio_to(one.baseline) or 0.0
        spread = [[middle - min(ratios)], [max(ratios) - middle]]
        axis.bar(place, middle, color=_COLOURS[(place + 1) % len(_COLOURS)], yerr=spread, capsize=4)
        axis.annotate(f"{middle:.2f}", (place, 0), ha="center", va="bottom", color="white", fontsize=9)
    axis.axhline(1, color=_COLOURS[0], linewidth=1)
    axis.set_ylabel(f"ratio to: {one.baseline.name}", fontsize=8)
    _name(axis, one.others)


def _draw_distribution(axis: Any, one: Comparison) -> None:
    for place, series in enumerate((one.baseline, *one.others)):
        ordered = sorted(series.values)
        shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
        axis.step(ordered, shares, where="post", color=_COLOURS[place % len(_COLOURS)], label=series.name)
    axis.set_xscale("log")
    axis.set_xlabel(one.baseline.unit, fontsize=8)
    axis.set_ylabel("share of all", fontsize=8)
    axis.legend(fontsize=7, loc="lower right")
    axis.grid(visible=True, alpha=0.3)


def _draw_values(axis: Any, one: Comparison) -> None:
    everything = (one.baseline, *one.others)
    for place, series in enumerate(everything):
        spread = [[series.median - min(series.values)], [max(series.values) - series.median]]
        axis.bar(place, series.median, color=_COLOURS[place % len(_COLOURS)], yerr=spread, capsize=4)
        axis.annotate(
            f"{series.median:.4g}",
            (place, series.median),
            ha="center",
            va="bottom",
            fontsize=8,
            xytext=(0, 2),
            textcoords="offset points",
        )
    axis.margins(y=0.15)
    axis.set_ylabel(one.baseline.unit, fontsize=8)
    _name(axis, everything)


def _name(axis: Any, series: Sequence[Series]) -> None:
    axis.set_xticks(range(len(series)), [one.name.replace(", ", ",\n") for one in series], fontsize=7)


_DRAW = {Shape.RATIOS: _draw_ratios, Shape.DISTRIBUTION: _draw_distribution, Shape.VALUES: _draw_values}
