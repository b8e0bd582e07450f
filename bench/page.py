"""`python -m bench.page`: write the tables of docs that are marked as a benchmark's from the last run.

They are in docs/performance.md, and that of the simulation is in docs/scaling.md. A table stands between
`<!-- bench NAME: begin -->` and `<!-- bench NAME: end -->`. Those whose benchmark was not in the last run stay as they
are.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import handshakes, mariadb, results, resume, simulate, tls
from bench.report import Comparison, Series, Shape

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
SCALING = PAGE.with_name("scaling.md")

_Select = Callable[[Comparison], bool]

_TABLES: dict[str, _Select] = {
    "resume": lambda one: one.title.startswith(resume.TITLE),
    "tls": lambda one: one.title.startswith(tls.TITLE),
    "handshakes": lambda one: one.title.startswith((handshakes.CONNECTIONS, handshakes.SELECTS)) and _is_rate(one),
    "prologue": lambda one: one.title.startswith(handshakes.AGAINST_RELAY),
    "mariadb": lambda one: one.title.startswith(mariadb.TITLE) and _is_rate(one),
    "mariadb resume": lambda one: one.title.startswith(mariadb.TITLE + resume.TITLE),
}
_SAID_BY_THE_PAGE = (f"{tls.TITLE}, ", f"{handshakes.AGAINST_RELAY}: ", mariadb.TITLE)
"""What titles begin with and rows do not."""


def main() -> None:
    """Put the last run's figures into the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder with what was measured")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page")
    given = parser.parse_args()
    text, measured = given.page.read_text(), results.read(given.results)
    for name, select in _TABLES.items():
        chosen = [one for one in measured if select(one)]
        if chosen:
            text = _put(text, name, _table(chosen))
            print(f"{name}: {len(chosen)} rows.")
    given.page.write_text(text)
    simulated = given.results / simulate.TABLE
    if simulated.exists():
        SCALING.write_text(_put(SCALING.read_text(), "simulation", simulated.read_text()))
        print("simulation: its table.")


def _put(text: str, name: str, table: str) -> str:
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    put, count = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{table}\n\n{end}", text, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"The page has no one place for {name}: it begins with {begin} and ends with {end}.")
    return put


def _table(comparisons: Sequence[Comparison]) -> str:
    names = list(dict.fromkeys(other.name for one in comparisons for other in one.others))
    baselines = list(dict.fromkeys(one.baseline.name for one in comparisons))
    if any(one.shape is Shape.VALUES for one in comparisons):
        head, columns = "medians; ratio to the first", baselines + names
    else:
        head, columns = f"ratio to: {', '.join(baselines)}", names
    lines = [f"| {head} | {' | '.join(columns)} |", f"| {' | '.join('---' for _ in ('', *columns))} |"]
    for one in comparisons:
        found = {series.name: _cell(one, series) for series in (one.baseline, *one.others)}
        label = one.title
        for known in _SAID_BY_THE_PAGE:
            label = label.removeprefix(known)
        lines.append(f"| {label} | {' | '.join(found.get(name, '') for name in columns)} |")
    return "\n".join(lines)


def _cell(one: Comparison, series: Series) -> str:
    ratio = series.ratio_to(one.baseline)
    told = "" if ratio is None else f"{ratio:.2f}"
    if one.shape is not Shape.VALUES:
        return told
    value = f"{series.median:.1f} {series.unit}"
    return value if series is one.baseline or not told else f"{value}, {told}"


def _is_rate(one: Comparison) -> bool:
    return one.baseline.unit == "tps"


if __name__ == "__main__":
    main()
