"""What `zorya top` shows of one moment. Pure: values in, something that rich can print out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zorya.cli import output, wire

_GAP = 2
_NAME_WIDTH = 14
"""What a name is given before columns are left out for want of room."""
_BAR_WIDTH = 10
_STATES = ("running", "frozen", "stopped")
"""In this order; the others after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What was used since the day began."""

    currency: str
    total: float
    """That of clusters which are deleted included."""
    by_id: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The server and its clusters at one moment."""

    server: wire.ServerStatus
    clusters: Sequence[wire.Cluster]
    costs: Costs


def render(
    now: Snapshot | None, *, width: int, height: int | None = None, problem: str = "", hint: str = ""
) -> RenderableType:
    """Answer the screen: the node, then a row a cluster, those with most capacity first, then those with most CPU.

    No line is wider than `width`, at least 60 characters. With a `height`, clusters that do not fit are counted in the
    last line, and nothing is below it. `problem` and `hint` are shown where there are any.
    """
    lines = _wrap([Text(output.printable(problem), "bold red")] if problem else [], width)
    if now is None:
        return Group(*lines)
    lines = [*_wrap(_header(now, hint), width), *lines, Text()]
    rows = sorted(now.clusters, key=_order)
    # One line for the columns' names.
    room = len(rows) if height is None else max(1, height - len(lines) - 1)
    if room < len(rows):
        rows, left = rows[: max(1, room - 1)], len(rows) - max(1, room - 1)
        return Group(*lines, _table(rows, now.costs, width), Text(f"and {output.count(left, 'cluster')} more", "dim"))
    return Group(*lines, _table(rows, now.costs, width)) if rows else Group(*lines, Text("There is no cluster."))


def _order(cluster: wire.Cluster) -> tuple[float, float, str]:
    load = cluster["load"]
    return -cluster["capacity"], -load["cores"] if load else 0.0, cluster["name"]


def _header(now: Snapshot, hint: str) -> Sequence[Text]:
    server, node = now.server, now.server["node"]
    counts = server["clusters"]
    states = [state for state in (*_STATES, *sorted({*counts} - {*_STATES})) if counts.get(state)]
    allotted = Text(f"{node['allotted']:g} of {node['capacity']:g} ACUs ")
    return [
        Text(f"Zorya {server['version']}", "bold"),
        Text(f"up {output.duration(server['uptime_s'])}"),
        allotted + _bar(node["allotted"], node["capacity"]),
        Text(output.cores(node["cores"])),
        Text(output.size(node["memory_bytes"])),
        Text(", ".join(f"{counts[state]} {state}" for state in states) or "no cluster"),
        Text(output.count(server["sessions"], "session")),
        Text(f"{_money(now.costs.total)} {now.costs.currency} today"),
        *([Text(hint, "dim")] if hint else []),
    ]


def _wrap(parts: Sequence[Text], width: int) -> list[Text]:
    """Answer the parts in as few lines as they need, each part in one."""
    lines: list[Text] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] = lines[-1] + Text("   ") + part
        else:
            part.truncate(width, overflow="ellipsis")
            lines.append(part)
    return lines


def _bar(part: float, whole: float) -> Text:
    """Answer a bar, filled as far as the part reaches, and not empty where there is one."""
    filled = min(_BAR_WIDTH, max(int(part > 0), round(_BAR_WIDTH * part / whole))) if whole else 0
    return Text("[") + Text("|" * filled, "green") + Text(" " * (_BAR_WIDTH - filled) + "]")


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cells: Sequence[Text]
    is_number: bool = True

    @property
    def width(self) -> int:
        return max(len(self.title), *map(len, self.cells))


def _table(rows: Sequence[wire.Cluster], costs: Costs, width: int) -> Table:
    """Answer the first choice of columns that fits, with what room is left given to the names."""
    name = _Column("NAME", [Text(output.printable(row["name"])) for row in rows], is_number=False)
    others = next(
        (some for some in _choices(rows, costs) if min(name.width, _NAME_WIDTH) + _width_of(some) <= width),
        _fewest(rows),
    )
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    name_width = min(name.width, width - _width_of(others))
    for column in (name, *others):
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            width=name_width if column is name else column.width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for cells in zip(*(column.cells for column in (name, *others)), strict=True):
        table.add_row(*cells)
    return table


def _width_of(columns: Sequence[_Column]) -> int:
    return sum(_GAP + column.width for column in columns)


def _choices(rows: Sequence[wire.Cluster], costs: Costs) -> Iterator[Sequence[_Column]]:
    """Yield sets of columns, each narrower than the one before."""
    state, barred, plain = (
        _state(rows),
        _Column("CAPACITY", [*map(_barred, rows)]),
        _Column("CAPACITY", [*map(_plain, rows)]),
    )
    cpu, sessions = _Column("CPU", [*map(_cpu, rows)]), _Column("SESSIONS", [*map(_sessions, rows)])
    memory, in_use = _Column("MEMORY", [*map(_memory, rows)]), _Column("MEMORY", [*map(_in_use, rows)])
    hits = _Column("HIT %", [*map(_hits, rows)])
    cost = _Column("COST TODAY", [_cost(row, costs) for row in rows])
    yield state, barred, cpu, memory, sessions, hits, cost
    yield state, plain, cpu, memory, sessions, hits, cost
    yield state, plain, cpu, in_use, sessions, hits, cost
    yield state, plain, cpu, in_use, sessions, hits
    yield state, plain, cpu, in_use, sessions


def _fewest(rows: Sequence[wire.Cluster]) -> Sequence[_Column]:
    return _state(rows), _Column("CAPACITY", [*map(_plain, rows)]), _Column("CPU", [*map(_cpu, rows)])


def _state(rows: Sequence[wire.Cluster]) -> _Column:
    words = [row["compute"] if row["status"] == "available" else row["status"] for row in rows]
    return _Column("STATE", [Text(word, output.STYLES.get(word, "")) for word in words], is_number=False)


def _plain(cluster: wire.Cluster) -> Text:
    return Text(f"{cluster['capacity']:g}/{_most(cluster):g}")


def _barred(cluster: wire.Cluster) -> Text:
    return _plain(cluster) + Text(" ") + _bar(cluster["capacity"], _most(cluster))


def _most(cluster: wire.Cluster) -> float:
    return cluster["max_capacity"] if cluster["fixed_capacity"] is None else cluster["fixed_capacity"]


def _cpu(cluster: wire.Cluster) -> Text:
    load = cluster["load"]
    return Text(f"{load['cores']:.2f}" if load else "-")


def _memory(cluster: wire.Cluster) -> Text:
    load = cluster["load"]
    return _in_use(cluster) + Text(f"/{output.size(load['memory_bytes'])}" if load else "")


def _in_use(cluster: wire.Cluster) -> Text:
    load = cluster["load"]
    known = load["in_use_bytes"] if load else cluster["resident_bytes"]
    return Text("-" if known is None else output.size(known))


def _sessions(cluster: wire.Cluster) -> Text:
    load = cluster["load"]
    return Text(f"{cluster['sessions']} ({load['at_work']})" if load else str(cluster["sessions"]))


def _hits(cluster: wire.Cluster) -> Text:
    load = cluster["load"]
    return Text("-" if load is None or load["hit_ratio"] is None else f"{100 * load['hit_ratio']:.1f}")


def _cost(cluster: wire.Cluster, costs: Costs) -> Text:
    cost = costs.by_id.get(cluster["id"])
    return Text("-" if cost is None else _money(cost))


def _money(amount: float) -> str:
    return f"{amount:.3f}"
