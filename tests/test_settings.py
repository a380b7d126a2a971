"""The environment, and what is made of it."""

from __future__ import annotations

import os

import pytest

from anon_tune.errors import InputError
from anon_tune.settings import Settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_")):
            monkeypatch.delenv(name)


def test_the_variables_of_others_are_theirs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    for name in ("server", "home", "DATA", "ANON_TUNE_RAY_ADDRESS"):
        monkeypatch.setenv(name, "elsewhere")
    settings = Settings.from_environment()
    assert settings == Settings(mlflow_tracking_uri="http://mlflow:5000", ray_address="auto")


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch):
    """As compose files and scripts leave them; an empty home would be wherever a command is called."""
    before = Settings.from_environment()
    for field in Settings.model_fields.values():
        monkeypatch.setenv(str(field.validation_alias), "")
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
