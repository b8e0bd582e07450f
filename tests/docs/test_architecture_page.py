"""ARCHITECTURE.md shows the rooms and the states that the code has."""

import re
import tomllib

from docs import pages
from zorya.control import states

TEXT = pages.read("ARCHITECTURE.md")
SOURCE = pages.ROOT / "src" / "zorya"


def _rows_of_rooms() -> list[list[str]]:
    rows = pages.rows(pages.between(TEXT, "rooms"), "room", "job")
    return [re.findall(r"`(\w+)`", row[0]) for row in rows]


def test_the_diagrams_are_those_of_the_table() -> None:
    assert pages.between(TEXT, "states") == states.diagram()


def test_the_rooms_are_those_of_the_source() -> None:
    there = {path.parent.name for path in SOURCE.glob("*/__init__.py")} | {"server"}
    named = [room for row in _rows_of_rooms() for room in row]
    assert len(named) == len(set(named))
    assert set(named) == there


def test_the_rows_are_those_of_the_contract() -> None:
    project = tomllib.loads(pages.read("pyproject.toml"))
    (layers,) = [one["layers"] for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers"]
    assert _rows_of_rooms() == [[room.strip() for room in layer.split("|")] for layer in layers]


def test_every_file_that_the_text_names_exists() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", pages.prose(TEXT)))
    assert len(named) > 10
    assert {name for name in named if not (SOURCE / name).exists()} == set()


def test_every_module_that_the_text_names_exists() -> None:
    rooms = "|".join(room for row in _rows_of_rooms() for room in row)
    named = set(re.findall(rf"`((?:{rooms})\.[a-z_]+)", pages.prose(TEXT)))
    assert len(named) >= 4
    missing = {name for name in named if not (SOURCE / f"{name.replace('.', '/')}.py").exists()}
    files = {"server.log", "server.py", "server.pem", "server.crt", "server.key"}
    assert missing - files == set()
