"""pgbench, unchanged, through the endpoint."""

import re
import subprocess
from collections.abc import Callable, Sequence

import pytest

from harness import Server

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def database(server: Server, program: Callable[[str], str]) -> str:
    """The URL of the sleeping cluster, which the filling wakes."""
    url = server.url()
    done = subprocess.run([program("pgbench"), "-i", "-q", url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return url


@pytest.mark.parametrize(
    "options",
    [
        ["--protocol=simple"],
        ["--protocol=extended"],
        ["--protocol=prepared"],
        ["--protocol=prepared", "--select-only"],
        ["--connect"],
    ],
    ids=" ".join,
)
def test_every_transaction_is_done(database: str, run: Callable[..., str], options: Sequence[str]) -> None:
    printed = run("pgbench", "-n", "-c", "4", "-j", "2", "-t", "50", *options, database)
    assert re.search(r"transactions actually processed: 200/200", printed)
    assert not re.search(r"number of failed transactions: [1-9]", printed)


def test_pipeline_is_served(database: str, run: Callable[..., str]) -> None:
    script = "\\startpipeline\n" + "SELECT abalance FROM pgbench_accounts WHERE aid = 1;\n" * 50 + "\\endpipeline\n"
    printed = run("pgbench", "-n", "-M", "prepared", "-c", "2", "-t", "20", "-f", "/dev/stdin", database, stdin=script)
    assert "transactions actually processed: 40/40" in printed


def test_the_sums_agree_when_all_is_done(database: str, run: Callable[..., str], server: Server) -> None:
    run("pgbench", "-n", "-c", "4", "-t", "25", database)
    [row] = server.query(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),"
        " (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
    )
    assert len(set(row)) == 1
