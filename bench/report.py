"""How figures are summed up and printed."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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

    def ratio_to(self, baseline: "Series") -> float:
        """Answer the median over the baseline's median."""
        return self.median / baseline.median


def show(title: str, baseline: Series, others: Sequence[Series], *, aim: str = "") -> None:
    """Print one table: median, least and most of each, and its ratio to the baseline."""
    print(f"\n{title}{f' (aim: {aim})' if aim else ''}")
    for one in (baseline, *others):
        spread = f"{min(one.values):10.1f} .. {max(one.values):.1f}"
        print(f"  {one.name:<28} {one.median:10.1f} {one.unit:<6} {one.ratio_to(baseline):6.2f} x   {spread}")
