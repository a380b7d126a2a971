"""The examples of examples/bring_your_own, as whole jobs; one folder has a package `workers`, as this project has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from anon_tune import load_optimizer
from anon_tune.records import Phase, TrialState
from tests.jobs.conftest import Home
from tests.modules import forgotten

EXAMPLES = Path(__file__).parents[2] / "examples" / "bring_your_own"


def tuned(home: Home, example: str, shown: str, *settings: str) -> None:
    """Run an example at a small size, with the arm anon alone, and expect all its trials to be trained and tested."""
    smaller = (
        "budget.trials=2",
        "budget.epochs=2",
        "confirm.finalists=1",
        "confirm.verdict_seeds=2",
        "arms=[anon]",
    )
    words = [word for setting in (*smaller, *settings) for word in ("--set", setting)]
    done = home.call("run", str(EXAMPLES / example / "job.yaml"), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert shown in done.stdout
    job = home.newest()
    assert job is not None
    assert job.result is not None
    assert job.result["tested"]
    assert all(trial.state is TrialState.COMPLETE for trial in job.trials)


@pytest.mark.slow
def test_a_frameworks_own_loop_is_tuned(home: Home) -> None:
    """The other framework's trials are tested in tests/integrations, without Ray around them."""
    tuned(home, "lightning", "train:train: mlp, 4,810 parameters")


@pytest.mark.slow
def test_a_training_function_of_the_user_is_tuned(home: Home) -> None:
    smaller = ("budget.trials=3", "budget.epochs=4", "confirm.finalists=1", "confirm.verdict_seeds=2")
    settings = [word for setting in smaller for word in ("--set", setting)]
    done = home.call("run", str(EXAMPLES / "plain_torch" / "job.yaml"), *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train:train: mlp, 4,810 parameters" in done.stdout
    assert "test loss, fresh seeds" in done.stdout
    job = home.newest()
    assert job is not None
    assert job.result is not None
    assert job.result["tested"]
    assert all(trial.attempts == 1 for trial in job.trials)
    exported = home.folder / "jobs" / job.id / "best.yaml"
    load_optimizer(exported, torch.nn.Linear(2, 1).parameters())
    document = yaml.safe_load(exported.read_text())
    assert document["architecture"]["model"]["name"] == "train:train"
    assert (document["schedule"]["name"], document["training"]) == ("cosine", "the script's own")


@pytest.mark.slow
def test_optimizers_of_the_user_are_arms_and_the_ledger_has_their_spaces(home: Home) -> None:
    folder = home.folder / "mine"
    shutil.copytree(EXAMPLES / "optimizers", folder, ignore=shutil.ignore_patterns("__pycache__"))
    smaller = (
        "model={name: mlp, width: 8}", "budget.trials=1", "budget.epochs=2", "confirm.finalists=1",
        "confirm.seeds=1", "confirm.verdict_seeds=2", "arms=[anon, lion.yaml, muon.yaml]",
    )  # fmt: skip
    settings = [word for setting in smaller for word in ("--set", setting)]
    done = home.call("submit", str(folder / "job.yaml"), *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in folder.glob("*.yaml"):
        path.unlink()
    submitted = home.newest()
    assert submitted is not None
    job_id = submitted.id
    assert home.call("extend", job_id, "--trials", "2").returncode == 0
    done = home.call("run", "--resume", job_id)
    assert done.returncode == 0, done.stdout + done.stderr
    job = home.ledger.jobs.get(job_id, trials=True)
    searched = [
        (trial.arm, set(trial.hyperparameters)) for trial in job.trials if trial.phase is Phase.SEARCH
    ]
    lion, muon = {"lr", "weight_decay", "beta1", "beta2"}, {"lr", "weight_decay", "momentum"}
    assert [names for arm, names in searched if arm == "lion"] == [lion] * 2
    assert [names for arm, names in searched if arm == "muon"] == [muon] * 2
    assert all(trial.state is TrialState.COMPLETE for trial in job.trials if trial.arm != "anon")
    assert job.result is not None
    assert {item["baseline"] for item in job.result["verdict"]} == {"lion", "muon"}
    exported = home.folder / "muon.yaml"
    assert home.call("export", job_id, "--arm", "muon", "-o", str(exported)).returncode == 0
    with forgotten(folder):
        optimizer = load_optimizer(
            exported, torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(2))), folder
        )
    assert {group["rule"] for group in optimizer.param_groups} == {"muon", "adamw"}


@pytest.mark.slow
def test_data_of_the_user_is_made_by_processes_beside_the_training(home: Home) -> None:
    tuned(home, "own_data", "cnn: cnn, ", "model.width=4", "training.num_workers=1")
