"""The environment, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from anon_tune.errors import InputError
from anon_tune.jobs.ledger import open_ledger
from anon_tune.settings import Settings

pytestmark = pytest.mark.usefixtures("unset")


def test_the_variables_of_others_are_theirs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    for name in ("server", "home", "DATA", "ANON_TUNE_RAY_ADDRESS"):
        monkeypatch.setenv(name, "elsewhere")
    settings = Settings.from_environment()
    assert settings == Settings(mlflow_tracking_uri="http://mlflow:5000", ray_address="auto")


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, empty: str):
    """As compose files and scripts leave them; an empty home would be wherever a command is called."""
    before = Settings.from_environment()
    for field in Settings.model_fields.values():
        monkeypatch.setenv(str(field.validation_alias), empty)
    assert Settings.from_environment() == before


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("no", False), ("FALSE", False)])
def test_a_switch_is_on_or_off(monkeypatch: pytest.MonkeyPatch, text: str, value: bool):
    monkeypatch.setenv("ANON_TUNE_ALLOW_CODE", text)
    assert Settings.from_environment().allow_code is value


def test_every_variable_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANON_TUNE_ALLOW_CODE", "perhaps")
    monkeypatch.setenv("ANON_TUNE_KEEP_READY", "seldom")
    with pytest.raises(
        InputError, match=r"ANON_TUNE_ALLOW_CODE: .* boolean.*; ANON_TUNE_KEEP_READY: .*"
    ) as caught:
        Settings.from_environment()
    assert "perhaps" not in str(caught.value)


def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANON_TUNE_TOKEN", "hush")
    settings = Settings.from_environment()
    assert settings.token is not None
    assert settings.token.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


def test_webhooks_are_addresses_that_are_not_shown(monkeypatch: pytest.MonkeyPatch):
    one, other = "https://hooks.example.org/hush", "http://127.0.0.1:9/x?y=hush"
    monkeypatch.setenv("ANON_TUNE_WEBHOOK", f" {one}\n{other} {one} ")
    monkeypatch.setenv("ANON_TUNE_WEBHOOK_SECRET", "hush")
    settings = Settings.from_environment()
    assert settings.webhooks == (one, other)
    assert "hush" not in repr(settings)
    for wrong in ("hooks.example.org/hush", "ftp://x/hush", "https:///hush", "http://x:port/hush"):
        monkeypatch.setenv("ANON_TUNE_WEBHOOK", f"{one} {wrong}")
        with pytest.raises(InputError, match="ANON_TUNE_WEBHOOK: address 2 is not one such as") as caught:
            Settings.from_environment()
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "ünï", "50%41", "a?b", "a#b"])
def test_a_home_of_any_name_holds_its_databases(tmp_path: Path, name: str):
    settings = Settings(home=tmp_path / name)
    open_ledger(settings).close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "ledger.db").exists()
    assert make_url(settings.tracking_uri).database == str(tmp_path / name / "mlflow.db")


def test_a_folder_of_a_user_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANON_TUNE_HOME", "~/of_anon_tune")
    monkeypatch.setenv("ANON_TUNE_DATA", "~")
    settings = Settings.from_environment()
    assert (settings.home, settings.data) == (Path.home() / "of_anon_tune", Path.home())


def test_a_folder_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANON_TUNE_HOME", "~nobody-of-this-name/x")
    with pytest.raises(InputError, match="ANON_TUNE_HOME: the home folder of an unknown user"):
        Settings.from_environment()


def test_ray_gets_a_folder_whose_name_it_can_use():
    short = Settings(home=Path("/tmp/x"))
    assert short.ray_temp("a").is_relative_to(short.home)
    for name in ("ünï", "x" * 43):
        settings = Settings(home=Path("/tmp") / name)
        assert settings.ray_temp("a").parent == settings.ray_temps_elsewhere
