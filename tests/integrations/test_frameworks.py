"""Frameworks with a loop of their own, by the examples: reports, resumed trials, pruned trials, the probe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anon_tune.records import Phase
from anon_tune.spec import JobSpec, load_spec
from anon_tune.workers.trial.checkpoints import ask, checkpoint_name
from anon_tune.workers.trial.messages import ProbeResult, StepResult
from tests import trials
from tests.trials import TRIAL, final, learned, measured, steps

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
    smaller = [f"budget.epochs={EPOCHS}", "arguments.width=16"]
    yield load_spec(EXAMPLES / request.param / "job.yaml", smaller)
    sys.path[:] = before
    sys.modules.pop("train", None)


def trial(
    spec: JobSpec,
    folder: Path,
    attempt: int = 1,
    *names: str,
    phase: Phase = Phase.SEARCH,
    stops_after: int | None = None,
) -> list[StepResult]:
    hyperparameters = {"lr": 0.003, "gamma": 1.0, "floor": 0.03}
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    ask(checkpoints)  # one after each report
    given = trials.config(spec, checkpoints, attempt, *names, phase=phase, hyperparameters=hyperparameters)
    return trials.trained_here(given, stops_after)


def test_a_trial_reports_each_epoch_and_goes_on_with_the_same_results(spec: JobSpec, tmp_path: Path):
    first = trial(spec, tmp_path, phase=Phase.VERDICT)
    assert steps(first) == [*range(1, EPOCHS + 1), None], first[-1]
    last = measured(first[-2])
    assert final(first[-1]) == last.metrics["test_loss"] != last.value
    assert measured(first[0]).value > last.value
    for attempt, done in ((2, EPOCHS - 1), (3, EPOCHS - 2)):
        second = trial(spec, tmp_path, attempt, checkpoint_name(TRIAL, 1, done), phase=Phase.VERDICT)
        assert second[0].resumed == done
        assert [learned(result) for result in second] == [learned(result) for result in first[done:]]


def test_only_the_verdict_looks_at_the_test_data(spec: JobSpec, tmp_path: Path):
    found = trial(spec, tmp_path)
    assert final(found[-1]) == measured(found[-2]).value
    assert "test_loss" not in measured(found[-2]).metrics


def test_a_trial_that_is_pruned_ends_without_more_reports(spec: JobSpec, tmp_path: Path):
    assert steps(trial(spec, tmp_path, stops_after=1)) == [1]


def test_the_probe_sees_the_model(spec: JobSpec, tmp_path: Path):
    found = trials.checked_up_here(spec, tmp_path)
    assert isinstance(found, ProbeResult)
    assert found.batches == 4
    assert found.architecture["parameters"] > 1000
    assert found.uses_schedule
