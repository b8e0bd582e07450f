"""How figures are summed up and printed, and what a plot of them needs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

MANY = 100
"""From so many values on, the 99th percentile is told too."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one thing, measured in turns with the baseline's."""

    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """The value that one in a hundred exceeds."""
        return percentile(self.values, 99)

    def ratios_to(self, baseline: "Series") -> list[float]:
        """Answer the ratio within each turn. What disturbs a whole turn cancels out."""
        return [own / other for own, other in zip(self.values, baseline.values, strict=True) if other]

    def ratio_to(self, baseline: "Series") -> float | None:
        """Answer the median of the ratios within turns; None where the baseline is zero."""
        ratios = self.ratios_to(baseline) if len(self.values) == len(baseline.values) else []
        if ratios:
            return statistics.median(ratios)
        return self.median / baseline.median if baseline.median else None


class Shape(StrEnum):
    """How a comparison is best drawn."""

    RATIOS = "ratios"
    """Bars of each turn's ratio to the baseline."""
    DISTRIBUTION = "distribution"
    """The share of values up to each value."""
    VALUES = "values"
    """Bars of the values themselves."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Series that belong together: one table, and one part of a figure."""

    title: str
    baseline: Series
    others: Sequence[Series]
    aim: str
    figure: str
    """The file that it is drawn in, without its ending; comparisons with the same one stand side by side."""
    shape: Shape


def show(
    title: str,
    baseline: Series,
    others: Sequence[Series],
    *,
    figure: str,
    shape: Shape = Shape.RATIOS,
    aim: str = "",
) -> Comparison:
    """Print one table: median, least and most of each, and its ratio to the baseline. Answer what was printed."""
    print(f"\n{title}{f' (aim: {aim})' if aim else ''}")
    for one in (baseline, *others):
        ratio = one.ratio_to(baseline)
        told = f"{ratio:7.3f} x" if ratio is not None else " " * 9
        spread = f"{min(one.values):.2f} .. {max(one.values):.2f}"
        last = f"   p99 {one.p99:.2f}" if len(one.values) >= MANY else ""
        print(f"  {one.name:<34} {one.median:11.2f} {one.unit:<4} {told}   {spread}{last}", flush=True)
    return Comparison(title=title, baseline=baseline, others=others, aim=aim, figure=figure, shape=shape)


def percentile(values: Sequence[float], percent: float) -> float:
    """Answer the smallest value that at least `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
