"""docs/events.md has every kind of event, and no page has one that does not exist."""

import re

import pytest

from docs import pages
from zorya.control.events import EventKind

ROWS = pages.rows(pages.read("docs/events.md"), "kind", "name", "category", "meaning")


def test_the_page_has_every_kind_as_the_code_has_it() -> None:
    shown = [(pages.code(kind), name, category, meaning) for kind, name, category, meaning in ROWS]
    assert shown == [(kind.id, kind.name.lower().replace("_", " "), kind.category, kind.meaning) for kind in EventKind]


def test_the_page_says_what_to_do_about_every_failure() -> None:
    advised = re.findall(r"^- \*\*([a-z ]+)\*\*:", pages.read("docs/events.md"), re.MULTILINE)
    assert advised == [kind.name.lower().replace("_", " ") for kind in EventKind if kind.category == "failure"]


@pytest.mark.parametrize("page", pages.NAMES)
def test_a_page_names_only_kinds_that_exist(page: str) -> None:
    named = set(re.findall(r"ZORYA-EVENT-\d+", pages.read(page)))
    assert named <= {kind.id for kind in EventKind}
