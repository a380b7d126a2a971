"""Frameworks with a loop of their own, by the examples: reports, resumed trials, pruned trials, the probe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anon_tune.records import Phase, TrialState
from anon_tune.spec import load_spec
from anon_tune.workers.trial.attempt import run_probe
from anon_tune.workers.trial.checkpoints import checkpoint_name
from tests import trials
from tests.trials import TRIAL, Local, learned, results

EXAMPLES = Path(__file__).parents[2] / "examples" / "bring_your_own"
EPOCHS = 3

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # both warn of what they find in themselves and in their loaders


@pytest.fixture(params=["lightning", "hugging_face"])
def spec(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """An example's job, as plain values."""
    before = list(sys.path)
    sys.modules.pop("train", None)  # all examples have one
    smaller = [f"budget.epochs={EPOCHS}", "training.checkpoint_seconds=0", "arguments.width=16"]
    yield load_spec(EXAMPLES / request.param / "job.yaml", smaller).model_dump(mode="json")
    sys.path[:] = before
    sys.modules.pop("train", None)


@pytest.fixture(autouse=True)
def output_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process goes on writing where it wrote."""
    monkeypatch.setattr("anon_tune.workers.trial.output.capture", lambda path: None)
    monkeypatch.setattr("anon_tune.workers.trial.checkpoints.WRITING_SHARE", float("inf"))


def trial(
    spec: dict[str, Any], folder: Path, attempt: int = 1, *names: str, phase: Phase = Phase.SEARCH
) -> Local:
    given = {"phase": phase.value, "hyperparameters": {"lr": 0.003, "gamma": 1.0, "floor": 0.03}}
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    return Local(trials.config(spec, checkpoints, attempt, *names, **given))


def test_a_trial_reports_each_epoch_and_goes_on_with_the_same_results(spec: dict[str, Any], tmp_path: Path):
    first = results(trial(spec, tmp_path, phase=Phase.VERDICT))
    assert [result.get("step") for result in first] == [*range(1, EPOCHS + 1), None], first[-1]
    assert first[-1]["outcome"] == TrialState.COMPLETE
    assert first[-1]["final"] == first[-2]["metrics"]["test_loss"] != first[-2]["value"]
    assert first[0]["value"] > first[-2]["value"]
    for attempt, done in ((2, EPOCHS - 1), (3, EPOCHS - 2)):
        name = checkpoint_name(TRIAL, 1, done)
        second = results(trial(spec, tmp_path, attempt, name, phase=Phase.VERDICT))
        assert second[0]["resumed"] == done
        assert [learned(result) for result in second] == [learned(result) for result in first[done:]]


def test_only_the_verdict_looks_at_the_test_data(spec: dict[str, Any], tmp_path: Path):
    found = results(trial(spec, tmp_path))
    assert found[-1]["final"] == found[-2]["value"]
    assert "test_loss" not in found[-2]["metrics"]


def test_a_trial_that_is_pruned_ends_and_the_process_takes_the_next(spec: dict[str, Any], tmp_path: Path):
    first = results(trial(spec, tmp_path))
    used = trial(spec, tmp_path, 2)
    used.step()
    assert used.reset_config({**used.config, "attempt": 3})
    assert [learned(result) for result in results(used)] == [learned(result) for result in first]


def test_the_probe_sees_the_model(spec: dict[str, Any]):
    found = run_probe(spec, 7, 0.03)
    assert found.get("reason") is None
    assert found["batches"] == 4
    assert found["architecture"]["parameters"] > 1000
