"""The examples of examples/bring_your_own, as whole jobs; one folder has a package `workers`, as this project has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anon_tune import load_optimizer
from anon_tune.records import TrialState
from tests.jobs.conftest import Home

EXAMPLES = Path(__file__).parents[2] / "examples" / "bring_your_own"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "model"),
    [("lightning", "mlp, 4,810 parameters"), ("hugging_face", "transformer, 69,194 parameters")],
)
def test_a_frameworks_own_loop_is_tuned(home: Home, example: str, model: str) -> None:
    smaller = (
        "budget.trials=2",
        "budget.epochs=2",
        "confirm.finalists=1",
        "confirm.verdict_seeds=2",
        "arms=[anon]",
    )
    settings = [word for setting in smaller for word in ("--set", setting)]
    done = home.call("run", str(EXAMPLES / example / "job.yaml"), *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"train:train: {model}" in done.stdout
    job = home.newest()
    assert job is not None
    assert job.result is not None
    assert job.result["tested"]
    assert all(trial.state is TrialState.COMPLETE for trial in job.trials)


@pytest.mark.slow
def test_a_training_function_of_the_user_is_tuned(home: Home) -> None:
    smaller = ("budget.trials=3", "budget.epochs=4", "confirm.finalists=1", "confirm.verdict_seeds=2")
    settings = [word for setting in smaller for word in ("--set", setting)]
    done = home.call("run", str(EXAMPLES / "plain_torch" / "job.yaml"), *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train:train: mlp, 4,810 parameters" in done.stdout
    assert "difference in test loss" in done.stdout
    job = home.newest()
    assert job is not None
    assert job.result is not None
    assert job.result["tested"]
    assert all(trial.attempts == 1 for trial in job.trials)
    exported = home.folder / "jobs" / job.id / "best.yaml"
    load_optimizer(exported, torch.nn.Linear(2, 1).parameters())
    assert "name: train:train" in exported.read_text()


@pytest.mark.slow
def test_data_of_the_user_is_made_by_processes_beside_the_training(home: Home) -> None:
    smaller = (
        "budget.trials=2",
        "budget.epochs=2",
        "confirm.finalists=1",
        "confirm.verdict_seeds=2",
        "arms=[anon]",
        "model.width=4",
        "training.num_workers=1",
    )
    settings = [word for setting in smaller for word in ("--set", setting)]
    done = home.call("run", str(EXAMPLES / "own_data" / "job.yaml"), *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cnn: cnn, " in done.stdout
    job = home.newest()
    assert job is not None
    assert job.result is not None
    assert job.result["tested"]
    assert all(trial.state is TrialState.COMPLETE for trial in job.trials)
