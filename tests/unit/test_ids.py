import pytest
from hypothesis import given
from hypothesis import strategies as st

from zorya.core import errors, ids


@pytest.mark.parametrize("name", ["a", "main", "a-b", "a1-2b", "Main", "x" * 63])
def test_name_is_taken_in_lower_case_when_it_keeps_the_rule(name: str) -> None:
    assert ids.parse_name(name) == name.lower()


@pytest.mark.parametrize(
    "name",
    ["", "1a", "-a", "a-", "a--b", "a_b", "a b", "ä", "x" * 64, "a\n", "a/b", "../a", 'a"b', "a'b", "%s", "a\x00b"],
)
def test_name_is_refused_with_the_rule_when_it_breaks_it(name: str) -> None:
    with pytest.raises(errors.InvalidName, match="letters, digits and single hyphens"):
        ids.parse_name(name)


@pytest.mark.parametrize("name", ["postgres", "template0", "Template1"])
def test_name_is_refused_when_the_engine_has_such_a_database(name: str) -> None:
    with pytest.raises(errors.InvalidName, match="engine has a database of that name"):
        ids.parse_name(name)


@given(st.text())
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    try:
        name = ids.parse_name(text)
    except errors.InvalidName as error:
        assert len(str(error)) < 700
    else:
        assert name.isascii()
        assert ids.parse_name(name) == name


def test_identifiers_and_passwords_need_no_quoting() -> None:
    for _ in range(100):
        assert ids.new_cluster_id().isalnum()
        assert ids.new_password().isalnum()
