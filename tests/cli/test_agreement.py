"""What the command line keeps a light copy of, so that it starts quickly, agrees with the original."""

import subprocess
import sys
from pathlib import Path

import pytest

from zorya.api import schemas
from zorya.cli import output, wire


@pytest.mark.parametrize(
    "name", ["Endpoint", "Operation", "Cluster", "CreateCluster", "Credentials", "Event", "ServerStatus", "Finding"]
)
def test_the_wire_types_have_the_fields_of_the_schemas(name: str) -> None:
    assert set(getattr(wire, name).__annotations__) == set(getattr(schemas, name).model_fields)


def test_the_command_starts_without_the_servers_libraries() -> None:
    code = "import sys, zorya.cli.main; print(*sys.modules)"
    source = str(Path(schemas.__file__).parents[2])
    run = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, stdout=subprocess.PIPE, check=True)
    assert not {"pydantic", "fastapi", "uvicorn", "rich", "asyncio", "zorya.server"} & set(run.stdout.decode().split())


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (0.4, "0 s"), (250, "4 min 10 s"), (3600, "1 h"), (90061, "1 d 1 h")]
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text
