"""docs/commands.md has every command and option, and every command line in the docs can be parsed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import typer

from docs import pages
from zorya.cli.invocation import Invocation
from zorya.cli.main import app

# typer brings its own copy of click in some versions, so its objects have no type that all versions share.
GROUP: Any = typer.main.get_command(app)
COMMANDS: Mapping[str, Any] = GROUP.commands
SECTIONS = {
    title.removeprefix("zorya").strip(): text
    for title, text in pages.sections(pages.read("docs/commands.md"), 2).items()
}
PARTS = {"": GROUP, **COMMANDS}


def _options(command: Any) -> dict[str, Any]:
    return {
        parameter.opts[0]: parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and "--help" not in parameter.opts
    }


def _rows(name: str) -> dict[str, tuple[str, str]]:
    return {
        pages.code(option).split()[0]: (pages.code(option), meaning)
        for option, meaning in pages.rows(SECTIONS[name], "option", "meaning")
    }


def test_the_page_has_every_command_and_no_other() -> None:
    assert set(SECTIONS) == set(PARTS)


@pytest.mark.parametrize("name", PARTS)
def test_a_command_has_its_options_and_no_other(name: str) -> None:
    assert list(_rows(name)) == list(_options(PARTS[name]))


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in PARTS for option in _options(PARTS[name])])
def test_an_option_has_its_help_its_default_and_its_value(name: str, option: str) -> None:
    parameter = _options(PARTS[name])[option]
    shown, meaning = _rows(name)[option]
    assert meaning.startswith(parameter.help)
    assert (len(shown.split()) == 1) == parameter.is_flag
    if not parameter.is_flag and isinstance(parameter.default, str | int | float):
        assert f"[default: {parameter.default}]" in meaning


def test_the_page_has_every_exit_code() -> None:
    codes = [row[0] for row in pages.rows(pages.read("docs/commands.md"), "code", "meaning")]
    assert codes == ["0", "1", "2", "130"]


def _command_lines(program: str) -> Iterator[tuple[str, str, Sequence[str]]]:
    for page in pages.NAMES:
        for block in pages.blocks(pages.read(page)):
            if block.language in pages.SHELL:
                for line in pages.shell_lines(block):
                    for words in pages.invocations(line, program):
                        yield page, line, words


LINES = list(_command_lines("zorya"))


def test_the_docs_have_command_lines() -> None:
    assert len(LINES) > 30
    assert any("$(" in line for _, line, _ in LINES)


def _parse(words: Sequence[str]) -> None:
    """Parse a command line as the command does, without doing anything. Raises the usage error."""
    group: Any = typer.main.get_command(app)
    for command in group.commands.values():
        command.callback = lambda **_: None
    group.main(args=list(words), prog_name="zorya", standalone_mode=False, obj=Invocation())


@pytest.mark.parametrize(("page", "line", "words"), LINES)
def test_a_command_line_of_the_docs_parses(page: str, line: str, words: Sequence[str]) -> None:
    _parse(words)


@pytest.mark.parametrize("words", [["nosuch"], ["show"], ["create", "a", "--nosuch"], ["events", "--limit", "0"]])
def test_a_wrong_command_line_does_not_parse(words: Sequence[str]) -> None:
    with pytest.raises(Exception, match=r".+") as raised:
        _parse(words)
    assert "UsageError" in {kind.__name__ for kind in raised.type.__mro__}


MAKE_TARGETS = {
    line.partition(":")[0]
    for line in (pages.ROOT / "Makefile").read_text().splitlines()
    if line[:1].isalpha() and ":" in line and ":=" not in line
}


@pytest.mark.parametrize(("page", "line", "words"), list(_command_lines("make")))
def test_a_make_target_of_the_docs_exists(page: str, line: str, words: Sequence[str]) -> None:
    assert set(words) <= MAKE_TARGETS
