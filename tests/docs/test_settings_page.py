"""docs/settings.md has every setting as the code has it."""

import pytest
from pydantic.fields import FieldInfo

from docs import pages
from zorya.core import settings

ROWS = {
    pages.code(row[0]): row
    for row in pages.rows(pages.read("docs/settings.md"), "setting", "variable", "default", "meaning")
}


def _shown(field: FieldInfo) -> str:
    value = field.default
    return (",".join(value) if isinstance(value, list | dict) else "" if value is None else str(value)) or "none"


def test_the_page_has_every_setting_and_no_other() -> None:
    assert list(ROWS) == list(settings.Settings.model_fields)


@pytest.mark.parametrize(("name", "field"), settings.Settings.model_fields.items())
def test_a_setting_has_its_variable_default_and_meaning(name: str, field: FieldInfo) -> None:
    _, variable, default, meaning = ROWS[name]
    assert pages.code(variable) == settings.ENV_PREFIX + name.upper()
    assert pages.code(default) == _shown(field)
    assert meaning == field.description


def test_the_page_names_the_variables_that_are_no_settings() -> None:
    text = pages.read("docs/settings.md")
    assert all(f"`{name}`" in text for name in settings.NOT_SETTINGS)


def test_the_example_file_is_valid(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("home")
    (example,) = [block.text for block in pages.blocks(pages.read("docs/settings.md")) if block.language == "toml"]
    (home / settings.FILE_NAME).write_text(example)
    settings.load(home)
