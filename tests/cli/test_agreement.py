"""What the command line keeps a light copy of, so that it starts quickly, agrees with the original."""

import subprocess
import sys
from pathlib import Path

import pytest

from zorya.api import bodies, schemas, usage
from zorya.cli import output, volume, wire


@pytest.mark.parametrize(
    "name",
    [
        "Endpoint",
        "Operation",
        "Scaling",
        "Load",
        "Cluster",
        "CreateCluster",
        "ModifyCluster",
        "Credentials",
        "Event",
        "Node",
        "Acu",
        "ServerStatus",
        "Finding",
        "Prices",
        "UsageRow",
        "Usage",
        "Volume",
        "Copy",
        "Verification",
    ],
)
def test_the_wire_types_have_the_fields_of_the_schemas(name: str) -> None:
    (model,) = {getattr(module, name) for module in (bodies, schemas, usage) if hasattr(module, name)}
    assert set(getattr(wire, name).__annotations__) == set(model.model_fields)


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


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.01, "0.01 s"), (10.0, "10 s"), (59.5, "59.5 s"), (90.0, "1 min 30 s"), (7200, "2 h")]
)
def test_a_delay_keeps_its_fraction_when_it_is_short(seconds: float, text: str) -> None:
    assert output.delay(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0.0 MiB"), (43_302_912, "41.3 MiB"), (2 * 2**30, "2048.0 MiB")])
def test_memory_is_shown_in_mebibytes(size: int, text: str) -> None:
    assert output.mebibytes(size) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 MiB"),
        (41.25 * 2**20, "41.2 MiB"),
        (412.3 * 2**20, "412 MiB"),
        (1000 * 2**20, "1 GiB"),
        (1.6 * 2**30, "1.6 GiB"),
        (3 * 2**30, "3 GiB"),
        (15.63 * 2**30, "15.6 GiB"),
        (2**40, "1 TiB"),
    ],
)
def test_a_size_has_three_digits_at_most(number: float, text: str) -> None:
    assert output.size(number) == text


@pytest.mark.parametrize(
    ("size", "seconds", "text"),
    [
        (0, 0.0, "none"),
        (0, None, "none"),
        (None, None, "-"),
        (None, 12.0, "12 s"),
        (1, 0.04, "1 B, 0.0 s"),
        (1023, None, "1023 B"),
        (16 * 1024, 0.31, "16 KiB, 0.3 s"),
        (1023 * 1024, 9.96, "1 MiB, 10 s"),
        (3 * 2**30, 4000.0, "3 GiB, 1 h 6 min"),
    ],
)
def test_a_lag_is_told_in_bytes_and_seconds(size: int | None, seconds: float | None, text: str) -> None:
    assert volume.describe_lag(size, seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 cores"), (0.125, "0.12 cores"), (0.375, "0.38 cores"), (1, "1 core"), (10, "10 cores")]
)
def test_cores_have_two_decimals_at_most(number: float, text: str) -> None:
    assert output.cores(number) == text
