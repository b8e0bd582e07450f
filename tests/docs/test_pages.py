"""What holds for every page: links lead somewhere, versions agree, lines of shell are complete."""

import re

import pytest

import zorya
from docs import pages

WANTED = {
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *(
        f"docs/{name}.md"
        for name in ("settings", "commands", "durability", "events", "failure-modes", "clients", "api", "operations")
    ),
}


def test_every_page_is_there() -> None:
    assert set(pages.NAMES) >= WANTED


@pytest.mark.parametrize("page", pages.NAMES)
def test_relative_links_and_anchors_resolve(page: str) -> None:
    broken = []
    for link in pages.links(pages.read(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (pages.ROOT / page).parent / path if path else pages.ROOT / page
        if not target.exists() or (anchor and anchor not in pages.anchors(target.read_text())):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {"README.md"}
    waiting = ["README.md"]
    while waiting:
        page = waiting.pop()
        for link in pages.links(pages.read(page)):
            path = link.partition("#")[0]
            if path.endswith(".md") and ":" not in link:
                name = str(((pages.ROOT / page).parent / path).resolve().relative_to(pages.ROOT))
                if name not in reached:
                    reached.add(name)
                    waiting.append(name)
    assert reached == set(pages.NAMES)


@pytest.mark.parametrize("page", pages.NAMES)
def test_a_page_has_one_title_and_closed_blocks(page: str) -> None:
    text = pages.read(page)
    assert len(re.findall(r"^# ", pages.prose(text), re.MULTILINE)) == 1
    assert "```" not in pages.prose(text)


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    versions = re.findall(r"^## \[(.+?)\]", pages.read("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == zorya.__version__


def test_the_readme_shows_this_version() -> None:
    shown = set(re.findall(r"Zorya (\d+\.\d+\.\d+)", pages.read("README.md")))
    assert shown == {zorya.__version__}
