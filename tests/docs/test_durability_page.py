"""docs/durability.md promises what the code's rules give, and names what can be run."""

import re
import tomllib

import pytest

from docs import pages
from zorya.control import copies, failover
from zorya.core import settings
from zorya.core.volume import ZONES
from zorya.storage import placement, quorum, repair

TEXT = pages.read("docs/durability.md")
RULES = pages.rows(
    TEXT,
    "copies",
    "a commit is on",
    "known from any",
    "may be lost without stopping writes",
    "may be lost without losing a commit",
)
HEALTH = pages.rows(TEXT, "of six, current", "of three", "health", "writes", "reads", "to do")


def test_the_page_promises_what_each_rule_gives() -> None:
    shown = {int(number): tuple(map(int, rest)) for number, *rest in RULES}
    rules = [quorum.rule(number) for number in placement.CHOICES]
    assert shown == {rule.copies: (rule.write, rule.read, rule.copies - rule.write, rule.write - 1) for rule in rules}


@pytest.mark.parametrize(("column", "number"), [(0, 6), (1, 3)])
def test_the_page_says_how_a_volume_is_with_the_copies_that_it_has(column: int, number: int) -> None:
    shown = {int(current): pages.code(row[2]) for row in HEALTH for current in re.findall(r"\d", row[column])}
    assert set(shown) == set(range(1, number + 1))
    for current, health in shown.items():
        found, _ = quorum.assess(quorum.rule(number), current=current, reachable=current, established=True)
        assert found.value == health, current


def test_the_page_says_the_times_and_sizes_of_the_code() -> None:
    words = " ".join(TEXT.split())
    for said in (
        f"{repair.REPLAY_IN_PLACE_BYTES // 1024**2} MiB of log to replay",
        f"has not answered for {copies.HANGS_S:g} s",
        f"longer and longer, up to {repair.LONGEST_DELAY_S:g} s.",
        f"tried again after {repair.FIRST_REBUILD_DELAY_S:g} s",
    ):
        assert said in words
    assert (copies.GLANCE_EVERY_S, repair.LONGEST_REBUILD_DELAY_S, repair.ENDS_BEFORE_REBUILD) == (0.25, 60, 5)
    assert f"(default {settings.Settings.model_fields['max_reader_lag_s'].default:g})" in words


def test_the_architecture_says_how_long_a_failover_waits_for_an_answer() -> None:
    said = f"does not answer within {failover.ANSWER_WITHIN_S:g} s is stopped"
    assert said in " ".join(pages.read("ARCHITECTURE.md").split())


def test_the_example_of_zone_dirs_names_every_zone() -> None:
    (example,) = [tomllib.loads(block.text) for block in pages.blocks(TEXT) if block.language == "toml"]
    assert set(example) <= set(settings.Settings.model_fields)
    assert set(example["zone_dirs"]) == set(ZONES)


@pytest.mark.parametrize("page", pages.NAMES)
def test_a_benchmark_or_script_of_the_docs_exists(page: str) -> None:
    missing = []
    for block in pages.blocks(pages.read(page)):
        if block.language not in pages.SHELL:
            continue
        for line in pages.shell_lines(block):
            for words in pages.invocations(line, "python"):
                if words[:2] == ["-m", "bench"]:
                    missing += [name for name in words[2:3] if not (pages.ROOT / "bench" / f"{name}.py").exists()]
                elif words and words[0].endswith(".py") and not (pages.ROOT / words[0]).exists():
                    missing.append(words[0])
    assert missing == []
