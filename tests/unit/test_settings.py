from pathlib import Path

import pytest

from zorya.core import errors, settings


def test_environment_wins_over_file_and_given_values_over_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zorya.toml").write_text('api_port = 1111\nwake_timeout_s = 5\npause_after = "never"\n')
    monkeypatch.setenv("ZORYA_API_PORT", "2222")
    monkeypatch.setenv("ZORYA_STARTUP_TIMEOUT_S", "3")
    loaded = settings.load(tmp_path, startup_timeout_s=4, bind=None)
    assert (loaded.api_port, loaded.wake_timeout_s, loaded.startup_timeout_s) == (2222, 5, 4)
    assert loaded.pause_after is None
    assert loaded.bind == ["127.0.0.1"]


def test_addresses_are_split_at_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZORYA_BIND", "127.0.0.1, ::1")
    assert settings.load(tmp_path).bind == ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ZORYA_PORT_RANGE", "80-90"),
        ("ZORYA_PORT_RANGE", "9000"),
        ("ZORYA_PORT_RANGE", "9000-8000"),
        ("ZORYA_PAUSE_AFTER", "0"),
        ("ZORYA_PAUSE_AFTER", "soon"),
        ("ZORYA_API_PORT", "70000"),
        ("ZORYA_WAKE_TIMEOUT_S", "-1"),
        ("ZORYA_LOG_LEVEL", "loud"),
        ("ZORYA_ENGINE_USER", "Bad User"),
    ],
)
def test_bad_value_is_refused_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.InvalidSetting, match=name.removeprefix("ZORYA_").lower()):
        settings.load(tmp_path)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "zorya.toml").write_text('api_port = "x"\nwake_timeout_s = -1\nnonsense = 1\n')
    with pytest.raises(errors.InvalidSetting) as caught:
        settings.load(tmp_path)
    for part in ("api_port", "wake_timeout_s", "nonsense: no such setting"):
        assert part in str(caught.value)


def test_unknown_variable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZORYA_PAUSE_AFTR", "5")
    with pytest.raises(errors.InvalidSetting, match="ZORYA_PAUSE_AFTR"):
        settings.load(tmp_path)


def test_file_that_is_not_toml_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "zorya.toml").write_text("[[[")
    with pytest.raises(errors.InvalidSetting, match=r"zorya\.toml"):
        settings.load(tmp_path)
