"""What the doctor says of cores, memory and the node."""

from pathlib import Path

import pytest

from zorya.compute import delegation, group, node
from zorya.compute.delegation import Decision, Step
from zorya.compute.group import Grouping
from zorya.compute.node import Node
from zorya.control import host
from zorya.core.findings import Finding, FindingState
from zorya.core.home import Home
from zorya.core.settings import Settings

GIB = 1 << 30


def findings(home: Path, **values: float) -> dict[str, Finding]:
    return {one.name: one for one in host.examine(Home(home), Settings.model_validate(values))}


def test_node_is_told_in_acus_and_whether_a_cluster_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "examine", lambda: Node(cores=2, memory_bytes=24 * GIB))
    found = findings(tmp_path)["node"]
    assert (found.state, found.advice) == (FindingState.OK, "")
    assert found.found == (
        "8 ACUs for all clusters together: 2 cores and 24.0 GiB of memory, where an ACU is 0.25 cores and 2 GiB."
    )
    assert findings(tmp_path, acu_cores=1)["node"].state is FindingState.WARNING
    fixed = findings(tmp_path, node_capacity=3)["node"]
    assert fixed.found.startswith("3 ACUs for all clusters together, as the setting node_capacity says; 2 cores")
    assert "24.0 GiB of memory are 8, where" in fixed.found
    assert fixed.advice.startswith("A new cluster may have 4 and will not get them")


def test_doctor_says_what_limits_clusters_here(tmp_path: Path, grouping: Grouping) -> None:
    found = findings(tmp_path)
    assert (found["cores"].found, found["memory"].found) == (grouping.cpu_reason, grouping.memory_reason)
    assert {found[name].state for name in ("cores", "memory")} == {FindingState.OK}


@pytest.mark.parametrize("step", [Step.NONE, Step.MOVE])
def test_doctor_says_what_the_server_will_do_or_a_person_could(
    tmp_path: Path, bare: Grouping, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    controllers = {"cpu"} if step is Step.MOVE else set[str]()
    monkeypatch.setattr(group, "examine", lambda _way: bare)
    monkeypatch.setattr(
        delegation, "foresee", lambda: Decision(step=step, controllers=controllers, reason="This is why.")
    )
    found = findings(tmp_path)
    assert found["cores"].found.endswith("This is why.")
    assert found["cores"].found.startswith(bare.cpu_reason)
    assert found["cores"].advice == ("" if step is Step.MOVE else delegation.ADVICE)
    assert found["memory"].advice == delegation.ADVICE
