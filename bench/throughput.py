"""Point selects through the endpoint and through PgBouncer in session mode, against a direct connection."""

import re
from collections import defaultdict

from bench import report
from bench.stage import Stage, first_row, pgbouncer


def measure(stage: Stage, *, rounds: int = 5, seconds: int = 4) -> None:
    """Run pgbench's prepared selects over each way in turn, at 1 and 8 clients, and print the ratios.

    All three reach PostgreSQL over loopback TCP. The endpoint's engine and the bare one hold the same data.
    """
    stage.bare.start()
    first_row(stage.bare_url())
    with pgbouncer(stage) as through_pgbouncer:
        ways = {"direct": stage.bare_url(), "endpoint (relay)": stage.server.url("main")}
        if through_pgbouncer is None:
            print("\nPgBouncer is not installed: no comparison with it.")
        else:
            ways["PgBouncer, session mode"] = through_pgbouncer
        for clients in (1, 8):
            rates, latencies = defaultdict(list), defaultdict(list)
            for _ in range(rounds):
                for name, url in ways.items():
                    rate, latency = _select(stage, url, clients, seconds)
                    rates[name].append(rate)
                    latencies[name].append(latency)
            for title, unit, values in (("throughput", "tps", rates), ("mean latency", "us", latencies)):
                first, *others = (report.Series(name=name, unit=unit, values=values[name]) for name in ways)
                report.show(f"Prepared point selects, {clients} client(s): {title}", first, others)
    stage.bare.stop()


def _select(stage: Stage, url: str, clients: int, seconds: int) -> tuple[float, float]:
    output = stage.pgbench(
        *("--select-only", "--protocol=prepared", "--no-vacuum"),
        *(f"--client={clients}", f"--jobs={min(clients, 2)}", f"--time={seconds}"),
        url=url,
    )
    rate = re.search(r"tps = ([\d.]+)", output)
    latency = re.search(r"latency average = ([\d.]+) ms", output)
    if rate is None or latency is None:
        raise RuntimeError(f"pgbench said something else: {output}")
    return float(rate[1]), float(latency[1]) * 1000
