"""Trials of user code whose length is in steps, with reports at any of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anon_tune import script
from anon_tune.errors import InputError
from anon_tune.records import OPTIMIZER_STEPS, Phase
from anon_tune.spec import JobSpec, load_spec
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial.checkpoints import ask, checkpoint_name
from anon_tune.workers.trial.messages import ProbeResult, StepResult
from anon_tune.workers.trial.schedules import schedule_factor
from tests import trials
from tests.trials import TRIAL, Isolated, failed, final, learned, measured, results, steps

CODE = """
import torch
from torch import nn


def train(context, every=30, parts=1, second=False):
    model = nn.Linear(3, 1)
    optimizer = context.optimizer(model)
    if second:
        other = context.optimizer(nn.Linear(1, 1))
    schedule = context.schedule(optimizer)
    done = context.resume(model=model, optimizer=optimizer, schedule=schedule)
    for step in range(done + 1, context.steps + 1):
        x = torch.randn(8, 3)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        if step % parts == 0:
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if second:
            other.step()
        if step % every == 0:
            context.report(step, loss=loss, lr=optimizer.param_groups[0]["lr"])
    context.test(loss=7.0)


def in_epochs(context):
    for epoch in range(context.epochs):
        pass


def make(model, lr):
    return torch.optim.Adagrad(model.parameters(), lr=lr)
"""

SCRIPT = """
import argparse
import anon_tune, steps_of_user

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int)
trial = anon_tune.trial()
assert parser.parse_args().steps == trial.steps
steps_of_user.train(trial)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    user = tmp_path / "user"
    user.mkdir()
    (user / "steps_of_user.py").write_text(CODE)
    (user / "script.py").write_text(SCRIPT)
    (user / "adagrad.yaml").write_text(
        "optimizer: steps_of_user:make\nsummary: x\nparameters: {lr: {low: 0.1, high: 1}}\n"
    )
    before = list(sys.path)
    sys.modules.pop("steps_of_user", None)
    yield user
    sys.path[:] = before
    sys.modules.pop("steps_of_user", None)


def job(folder: Path, budget: str = "steps: 100", **keys: Any) -> JobSpec:
    """A job of the folder's `train`, in steps."""
    given = {
        "name": "own",
        "arms": ["anon", "adagrad.yaml"],
        "training": {"checkpoint_seconds": 0},
        **({} if "command" in keys else {"task": "steps_of_user:train"}),
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(given) + f"\nbudget: {{trials: 1, {budget}}}\n")
    return load_spec(path)


def trained(spec: JobSpec, attempt: int = 1, *names: str, **keys: Any) -> list[StepResult]:
    checkpoints = Path(str(spec.folder)).parent / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    ask(checkpoints)  # one after each report
    return trials.trained_here(trials.config(spec, checkpoints, attempt, *names, **keys))


def counts(found: list[StepResult]) -> list[float]:
    """The optimizer steps of each report."""
    return [each.measurement.metrics[OPTIMIZER_STEPS] for each in found if each.measurement is not None]


def test_reports_may_come_at_any_steps_and_the_last_one_counts(folder: Path):
    found = trained(job(folder))
    assert steps(found) == [30, 60, 90, None]
    assert final(found[-1]) == measured(found[2]).value
    assert counts(found) == [30, 30, 30]
    rates = [measured(each).metrics["lr"] for each in found[:-1]]
    assert rates == pytest.approx([0.01 * schedule_factor("cosine", step, 100, 0.0) for step in (30, 60, 90)])


def test_a_test_after_the_training_is_that_of_the_full_length(folder: Path):
    found = trained(job(folder), phase=Phase.VERDICT)
    assert steps(found) == [30, 60, 90, 100, None]
    assert final(found[-1]) == 7.0
    assert counts(found) == [30, 30, 30, 10], "the steps after the last report are counted too"
    whole = trained(job(folder, arguments={"every": 50}), phase=Phase.VERDICT)
    assert (steps(whole), counts(whole)) == ([50, 100, None], [50, 50])


def test_another_attempt_continues_with_the_same_results(folder: Path):
    spec = job(folder)
    first = trained(spec, phase=Phase.VERDICT)
    again = trained(spec, 2, checkpoint_name(TRIAL, 1, 60), phase=Phase.VERDICT)
    assert again[0].resumed == 60
    assert [learned(each) for each in again] == [learned(each) for each in first[2:]]


@pytest.mark.parametrize(("arm", "hyperparameters"), [("anon", None), ("adagrad", {"lr": 0.1})])
def test_steps_of_the_optimizer_are_counted_in_every_arm(folder: Path, arm: str, hyperparameters: Any):
    """With accumulated gradients there are fewer than the training counts."""
    spec = job(folder, arguments={"every": 40, "parts": 4})
    assert counts(trained(spec, arm=arm, hyperparameters=hyperparameters)) == [10, 10]


def test_steps_of_all_optimizers_of_a_trial_count(folder: Path):
    assert counts(trained(job(folder, arguments={"every": 50, "second": True}))) == [100, 100]


def test_epochs_and_steps_are_not_mistaken_for_each_other(folder: Path):
    for function, budget, said in (
        (
            "in_epochs",
            "steps: 100",
            "is 100 steps (budget.steps), not epochs: use `steps` in place of `epochs`",
        ),
        ("train", "epochs: 10", "is 10 epochs (budget.epochs), not steps: use `epochs` in place of `steps`"),
    ):
        found = trained(job(folder, budget, task=f"steps_of_user:{function}"))
        assert said in failed(found[-1]).reason


def test_a_step_beyond_the_budget_is_refused(folder: Path):
    code = (
        "\ndef too_far(context):\n    context.optimizer(nn.Linear(1, 1))\n    context.report(101, loss=1.0)\n"
    )
    (folder / "steps_of_user.py").write_text(CODE + code)
    found = failed(trained(job(folder, task="steps_of_user:too_far"))[-1])
    assert "expected a step after 0 and up to budget.steps 100, found 101" in found.reason


@pytest.mark.filterwarnings("ignore")  # of modules of torch that the check-up looks at
def test_the_check_up_counts_no_steps_per_epoch_where_there_are_none(folder: Path):
    found = trials.checked_up_here(job(folder), folder)
    assert isinstance(found, ProbeResult)
    assert found.cost is not None
    assert found.cost.steps_per_epoch is None
    assert found.cost.seconds_per_step > 0
    assert "notes" not in found.as_stored(), "a report came"


def test_a_command_has_the_steps_in_their_place(keeper: Keeper, folder: Path):
    spec = job(folder, command="python script.py --steps {steps}")
    checkpoints = folder.parent / "checkpoints"
    checkpoints.mkdir()
    found = results(Isolated(keeper, trials.config(spec, checkpoints)))
    assert steps(found) == [30, 60, 90, None]
    assert counts(found) == [30, 30, 30]


def test_a_script_alone_has_the_steps_that_it_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ANON_TUNE_WORK", raising=False)
    monkeypatch.delenv(script.CONFIG, raising=False)
    monkeypatch.setattr(script, "_trial", None)
    trial = script.trial(steps=300)
    assert (trial.steps, trial.length, trial.unit) == (300, 300, "step")
    with pytest.raises(InputError, match="use `steps` in place of `epochs`"):
        _ = trial.epochs
    schedule = trial.schedule(torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0))
    assert schedule.get_last_lr() == [1.0]
    trial.report(7, loss=1.0)
    trial.report(300, loss=1.0)
