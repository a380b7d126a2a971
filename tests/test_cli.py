"""Commands that run nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anon_tune.cli import app, main
from anon_tune.errors import SpecError
from anon_tune.ledger import Ledger
from anon_tune.records import JobState
from anon_tune.search_spaces import Space, load_space, space_names
from tests import builders

ROOT = Path(__file__).parents[1]


def output(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_spaces_lists_all_of_them():
    listed = [line.split()[0] for line in output("spaces").splitlines() if not line.startswith(" ")]
    assert listed[:-1] == space_names()
    found = json.loads(output("spaces", "--json"))
    assert {name: Space.model_validate(space) for name, space in found.items()} == {
        name: load_space(name) for name in space_names()
    }


def test_one_space_by_name_and_by_path():
    path = str(ROOT / "search_spaces" / "delays.yaml")
    assert "only where delay_family is every" in output("spaces", "delays")
    assert output("spaces", path).replace(path, "delays") == output("spaces", "delays")
    (space,) = json.loads(output("spaces", path, "--json")).values()
    assert Space.model_validate(space) == load_space("delays")


def test_an_unknown_space_is_refused():
    with pytest.raises(SpecError, match="did you mean 'delays'"):
        output("spaces", "delay")


def error_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int | str | None, str]:
    """The exit code and the message of a command that fails."""
    monkeypatch.setattr("sys.argv", ["anon-tune", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    written = capsys.readouterr()
    assert not written.out
    return caught.value.code, written.err


def test_a_path_that_looks_like_markup_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "[red]" / "[" / "x]:x:"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text("name: 3")
    code, message = error_of(monkeypatch, capsys, "run", str(folder / "job.yaml"))
    assert code == 2
    assert message.startswith(f"error in {folder / 'job.yaml'}:\n")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The ledger of a home of this test's own."""
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path))
    monkeypatch.delenv("ANON_TUNE_DATABASE_URL", raising=False)
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def test_show_tells_why_a_job_stands_still(ledger: Ledger):
    job = ledger.create_job("x", builders.spec().model_dump(mode="json"), {}).id
    ledger.release(ledger.acquire(job, "me", 60.0), JobState.PAUSED, "three trials in a row failed: no data")
    shown = output("show", job)
    assert "three trials in a row failed: no data" in shown
    assert f"Go on with: anon-tune run --resume {job}" in shown
    assert "adamw" in shown  # what each arm has so far


@pytest.mark.parametrize("uri", ["file:./x", "runs", "foo://x"])
def test_a_tracking_uri_that_cannot_be_used_stops_a_job_before_it_is_made(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, message = error_of(monkeypatch, capsys, "run", str(ROOT / "examples" / "digits_cnn.yaml"))
    assert (code, ledger.jobs()) == (6, [])
    assert f"MLFLOW_TRACKING_URI='{uri}'" in message


@pytest.mark.parametrize("home", ["file", "file/below"])
@pytest.mark.parametrize(
    "command", [("jobs",), ("show", "x"), ("run", str(ROOT / "examples" / "digits_cnn.yaml"))]
)
def test_a_home_that_cannot_be_used_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: str,
    command: tuple[str, ...],
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ANON_TUNE_HOME", str(tmp_path / home))
    monkeypatch.delenv("ANON_TUNE_DATABASE_URL", raising=False)
    code, message = error_of(monkeypatch, capsys, *command)
    assert code == 6
    assert f"ANON_TUNE_HOME='{tmp_path / home}' cannot be used as a folder" in message
