"""Frameworks with a loop of their own, by the examples: reports, resumed trials, pruned trials, the probe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anon_tune.records import Phase
from anon_tune.spec import JobSpec, load_spec
from anon_tune.workers.trial.attempt import run_probe
from anon_tune.workers.trial.checkpoints import checkpoint_name
from anon_tune.workers.trial.messages import ProbeResult
from tests import trials
from tests.trials import TRIAL, Local, final, learned, measured, results, steps

EXAMPLES = Path(__file__).parents[2] / "examples" / "bring_your_own"
EPOCHS = 3

pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # both warn of what they find in themselves and in their loaders


@pytest.fixture(params=["lightning", "hugging_face"])
def spec(request: pytest.FixtureRequest) -> Iterator[JobSpec]:
    """An example's job."""
    before = list(sys.path)
    sys.modules.pop("train", None)  # all examples have one
    smaller = [f"budget.epochs={EPOCHS}", "training.checkpoint_seconds=0", "arguments.width=16"]
    yield load_spec(EXAMPLES / request.param / "job.yaml", smaller)
    sys.path[:] = before
    sys.modules.pop("train", None)


@pytest.fixture(autouse=True)
def output_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process goes on writing where it wrote."""
    monkeypatch.setattr("anon_tune.workers.trial.output.capture", lambda path: None)
    monkeypatch.setattr("anon_tune.workers.trial.checkpoints.WRITING_SHARE", float("inf"))


def trial(spec: JobSpec, folder: Path, attempt: int = 1, *names: str, phase: Phase = Phase.SEARCH) -> Local:
    hyperparameters = {"lr": 0.003, "gamma": 1.0, "floor": 0.03}
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    return Local(
        trials.config(spec, checkpoints, attempt, *names, phase=phase, hyperparameters=hyperparameters)
    )


def test_a_trial_reports_each_epoch_and_goes_on_with_the_same_results(spec: JobSpec, tmp_path: Path):
    first = results(trial(spec, tmp_path, phase=Phase.VERDICT))
    assert steps(first) == [*range(1, EPOCHS + 1), None], first[-1]
    last = measured(first[-2])
    assert final(first[-1]) == last.metrics["test_loss"] != last.value
    assert measured(first[0]).value > last.value
    for attempt, done in ((2, EPOCHS - 1), (3, EPOCHS - 2)):
        name = checkpoint_name(TRIAL, 1, done)
        second = results(trial(spec, tmp_path, attempt, name, phase=Phase.VERDICT))
        assert second[0].resumed == done
        assert [learned(result) for result in second] == [learned(result) for result in first[done:]]


def test_only_the_verdict_looks_at_the_test_data(spec: JobSpec, tmp_path: Path):
    found = results(trial(spec, tmp_path))
    assert final(found[-1]) == measured(found[-2]).value
    assert "test_loss" not in measured(found[-2]).metrics


def test_a_trial_that_is_pruned_ends_and_the_process_takes_the_next(spec: JobSpec, tmp_path: Path):
    first = results(trial(spec, tmp_path))
    used = trial(spec, tmp_path, 2)
    used.step()
    assert used.reset_config(trial(spec, tmp_path, 3).config)
    assert [learned(result) for result in results(used)] == [learned(result) for result in first]


def test_the_probe_sees_the_model(spec: JobSpec):
    found = run_probe(spec, 7, 0.03)
    assert isinstance(found, ProbeResult)
    assert found.batches == 4
    assert found.architecture["parameters"] > 1000
    assert found.uses_schedule
