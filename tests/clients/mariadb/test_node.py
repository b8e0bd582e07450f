"""Node's mysql2 and MariaDB's own driver, unchanged, through the endpoint; node/checks.mjs has what is checked."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from clients.mariadb.shop import ODD_PASSWORD, ODD_USER, PROCEDURE, Shop

pytestmark = pytest.mark.parametrize("way", ["handoff", "freezing"], indirect=True, scope="session")

CHECKS = re.findall(r"^  (\w+): (?:async )?\(\) =>", (Path(__file__).parent / "node" / "checks.mjs").read_text(), re.M)


@pytest.mark.parametrize("driver", ["mysql2", "mariadb"])
def test_all_checks_pass_when_node_runs_them(node_package: Path, shop: Shop, driver: str, tmp_path: Path) -> None:
    file = tmp_path / "rows"
    file.write_text("".join(f"{n}\trow {n}\n" for n in range(5000)))
    told = shop.told(
        file=str(file),
        odd={"user": ODD_USER, "password": ODD_PASSWORD},
        procedure=PROCEDURE.format(name=f"of_{driver}"),
    )
    done = subprocess.run(
        ["node", "checks.mjs", driver],
        cwd=node_package,
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n") == [*(f"{check}: ok" for check in CHECKS), ""]
