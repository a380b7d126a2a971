"""Messages between driver and trial: whole through Ray's and Tune's hands, and cheap to load."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.tune.utils import flatten_dict

from anon_tune.spec import load_spec, reading
from anon_tune.workers.trial.messages import (
    Completed,
    Diverged,
    Failed,
    Measurement,
    Outcome,
    ProbeResult,
    StepResult,
    TrainingCost,
    TrialAssignment,
    from_config,
    from_tune,
    to_config,
    to_tune,
)
from tests import builders, trials

METRICS = {"val_loss": 0.5, "a/b": math.inf}


@pytest.mark.parametrize(
    "outcome", [None, Completed(0.5), Diverged("diverged"), Failed("no", "trace", "log")]
)
@pytest.mark.parametrize("measurement", [None, Measurement(2, 0.5, METRICS, "t/1/2.pt")])
def test_a_result_comes_out_of_tune_as_it_went_in(measurement: Measurement | None, outcome: Outcome | None):
    if measurement is None and outcome is None:
        with pytest.raises(ValueError, match="measurement or an outcome"):
            StepResult()
        return
    sent = StepResult(measurement=measurement, outcome=outcome, resumed=1, warnings=("full",))
    carried = flatten_dict(cloudpickle.loads(cloudpickle.dumps(to_tune(sent))))
    assert carried["done"] is False
    assert from_tune(carried) == sent


def test_an_assignment_comes_out_of_tune_as_it_went_in_and_leaves_the_reports_behind(tmp_path: Path):
    trial = builders.trial(1, hyperparameters={"lr": 0.1, "betas": (0.9, 0.99)}, curve=[0.5, 0.4])
    sent = TrialAssignment(trial, tmp_path, tmp_path / "output.log")
    carried = copy.deepcopy(cloudpickle.loads(cloudpickle.dumps(to_config(sent))))
    found = from_config(carried)
    assert found == sent
    assert (found.trial.id, found.trial.hyperparameters) == (trial.id, trial.hyperparameters)
    assert found.trial.reports == ()
    assert len(trial.reports) == 2


def test_a_probe_is_stored_as_json_without_what_was_not_measured():
    cost = TrainingCost(seconds_per_step=0.1, steps_per_epoch=3, samples_per_epoch=96, device="cpu")
    found = ProbeResult(
        log_mean_sigma=-9.0,
        quantiles_log_sigma={"50%": -10.0},
        floor=0.03,
        batches=4,
        architecture={"family": "mlp"},
        cost=cost,
    )
    stored = found.as_stored()
    assert json.loads(json.dumps(stored)) == stored
    assert stored == {
        "log_mean_sigma": -9.0,
        "quantiles_log_sigma": {"50%": -10.0},
        "floor": 0.03,
        "batches": 4,
        "seconds_per_step": 0.1,
        "steps_per_epoch": 3,
        "samples_per_epoch": 96,
        "device": "cpu",
    }


def test_a_job_is_not_validated_again_for_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where the files of its spaces have gone meanwhile."""
    monkeypatch.setattr("anon_tune.workers.trial.output.capture", lambda path: None)
    (tmp_path / "mine.yaml").write_text(
        "optimizer: adamw\nsummary: x\nparameters: {lr: {low: 0.01, high: 1}}\n"
        "fixed: {beta1: 0.9, one_minus_beta2: 0.1, weight_decay: 0}\n"
    )
    (tmp_path / "job.yaml").write_text(
        "name: x\ntask: image_classification\ndata: digits\nmodel: {name: mlp, width: 4}\n"
        "budget: {trials: 1, epochs: 1}\narms: [anon, mine.yaml]\n"
    )
    spec = load_spec(tmp_path / "job.yaml")
    (tmp_path / "mine.yaml").unlink()

    def validates(*_: object) -> None:
        pytest.fail("it was validated again")

    monkeypatch.setattr(reading, "parse", validates)
    given = pickle.loads(pickle.dumps(spec))
    assert given == spec
    config = trials.config(given, tmp_path, arm="mine", hyperparameters={"lr": 0.01})
    process = trials.Local(config)
    first = trials.results(process)
    assert process.reset_config(config)
    second = trials.results(process)
    assert [isinstance(found[-1].outcome, Completed) for found in (first, second)] == [True, True]


def test_messages_load_neither_torch_nor_ray():
    """The driver writes and reads them; it loads torch only where it needs a model."""
    code = (
        "import sys, anon_tune.workers.trial.messages\n"
        "assert not {'torch', 'ray', 'pydantic', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
