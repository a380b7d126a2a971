"""User training functions: run from report to report, cut off and resumed, stopped, and probed before."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from anon_tune.errors import SpecError
from anon_tune.records import Phase
from anon_tune.spec import JobSpec, load_spec, stored_spec
from anon_tune.workers.trial.attempt import run_probe
from anon_tune.workers.trial.checkpoints import ask, checkpoint_name
from anon_tune.workers.trial.messages import Completed, Diverged, Failed, ProbeResult, StepResult
from anon_tune.workers.trial.schedules import schedule_factor
from anon_tune.workers.trial.trainable import HELD
from tests import trials
from tests.trials import TRIAL, Local, failed, final, learned, measured, results, steps

EPOCHS = 5

CODE = """
import random
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def train(context, width=8, until=None):
    model = nn.Sequential(nn.Linear(6, width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 1))
    optimizer = context.optimizer(model)
    schedule = context.schedule(optimizer)
    done = context.resume(model=model, optimizer=optimizer, schedule=schedule)
    for epoch in range(done + 1, (until or context.epochs) + 1):
        for _ in range(3):
            x = torch.randn(16, 6) + random.random() + np.random.rand()
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), x.sum(1, keepdim=True))
            loss.backward()
            optimizer.step()
        schedule.step()
        context.report(epoch, loss=loss)
    context.test(loss=2 * loss.item() if done < (until or context.epochs) else 7.0)


def careless(context):
    folder = Path(context.folder)
    try:
        for epoch in range(1, context.epochs + 1):
            try:
                one_step(context)
                context.report(epoch, loss=1.0)
            except Exception:
                pass
    finally:
        (folder / "cleaned_up").touch()
        print("cleaned up")


def one_step(context):
    model = nn.Linear(2, 1)
    optimizer = context.optimizer(model)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()


def never_reports(context):
    one_step(context)


def never_steps(context):
    context.report(1, loss=1.0)


def other_metric(context):
    one_step(context)
    context.report(1, accuracy=0.5)


def negative(context):
    one_step(context)
    context.report(1, loss=-0.5)


def zero(context):
    one_step(context)
    context.report(1, loss=0.0)


def negative_test(context):
    one_step(context)
    context.report(context.epochs, loss=0.5)
    context.test(loss=-0.5)


def text(context):
    one_step(context)
    context.report(1, loss="low")


def backwards(context):
    one_step(context)
    context.report(2, loss=1.0)
    context.report(1, loss=1.0)


def too_far(context):
    one_step(context)
    context.report(context.epochs + 1, loss=1.0)


def breaks(context):
    one_step(context)
    context.report(1, loss=1.0)
    deeper()


def deeper():
    torch.ones(2) @ torch.ones(3)


def leaves(context):
    one_step(context)
    context.report(1, loss=1.0)
    sys.exit("no more")


def explodes(context):
    one_step(context)
    context.report(1, loss=1.0)
    context.report(2, loss=float("nan"))


def groups(context):
    model = nn.Linear(2, 1)
    made = context.optimizer([{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}])
    context.report(1, loss=made.param_groups[0]["weight_decay"], other=made.param_groups[1]["weight_decay"])


def scaled(context):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    slow = [{"params": model[0].parameters(), "lr_scale": 0.5}, {"params": [model[1].bias], "weight_decay": 0.0}]
    optimizer = context.optimizer(model, slow)
    schedule = context.schedule(optimizer)
    done = context.resume(optimizer=optimizer, schedule=schedule)
    for epoch in range(done + 1, context.epochs + 1):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        lr = {f"lr{n}": group["lr"] for n, group in enumerate(optimizer.param_groups)}
        decay = {f"decay{n}": group["weight_decay"] for n, group in enumerate(optimizer.param_groups)}
        schedule.step()
        context.report(epoch, loss=1.0, **lr, **decay)


def silent(context):
    one_step(context)
    context.report(4, loss=1.0)
    context.report(5, loss=2.0)


def tests_twice(context):
    silent(context)
    context.test(loss=1.0)
    context.test(loss=1.0)


def cannot_be_saved(context):
    context.resume(width=3)
"""


FACTORY = """
import torch


def make(model, **hyperparameters):
    return torch.optim.AdamW(model.parameters(), **hyperparameters)
"""

FACTORY_SPACE = """
optimizer: factory:make
summary: x
parameters: {lr: {low: 0.01, high: 1, log: true}}
fixed: {weight_decay: 0.1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A user's folder, which has a package of the name that a folder of this project has."""
    user = tmp_path / "user"
    (user / "workers").mkdir(parents=True)
    (user / "workers" / "__init__.py").touch()
    (user / "workers" / "mine.py").write_text(CODE)
    before, modules = list(sys.path), set(sys.modules)
    yield user
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if str(user) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def output_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process goes on writing where it wrote."""
    monkeypatch.setattr("anon_tune.workers.trial.output.capture", lambda path: None)
    monkeypatch.setattr("anon_tune.workers.trial.checkpoints.WRITING_SHARE", float("inf"))


def job(folder: Path, function: str, keys: str = "") -> JobSpec:
    path = folder / "job.yaml"
    path.write_text(
        f"name: mine\ntask: 'workers.mine:{function}'\nspace: mlp\nbudget: {{trials: 1, epochs: {EPOCHS}}}\n"
        f"training: {{checkpoint_seconds: 0, schedule: cosine}}\n{keys}\n"
    )
    return load_spec(path)


def trial(folder: Path, function: str = "train", attempt: int = 1, *names: str, **keys: Any) -> Local:
    spec = job(folder, function, keys.pop("job", ""))
    hyperparameters = {"lr": 0.01, "gamma": 1.0, "floor": 0.03, "weight_decay": 0.1}
    given = {"hyperparameters": hyperparameters, **keys}
    checkpoints = folder.parent / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    return Local(trials.config(spec, checkpoints, attempt, *names, **given))


def test_a_function_is_trained_from_report_to_report(folder: Path):
    found = results(trial(folder))
    assert steps(found) == [*range(1, EPOCHS + 1), None]
    assert found[-1] == StepResult(outcome=Completed(measured(found[-2]).value))
    assert all(measured(result).metrics["loss"] == measured(result).value for result in found[:-1])
    assert measured(found[0]).metrics.keys() > {"loss", "epoch_seconds"}, "Anon's monitor"


VERDICT = Phase.VERDICT


def test_an_arm_of_the_user_trains_with_what_its_factory_makes(folder: Path):
    (folder / "factories.py").write_text(
        "import torch\n\n\ndef make(model, lr):\n    return torch.optim.AdamW(model.parameters(), lr=lr)\n"
    )
    (folder / "mine.yaml").write_text(
        "optimizer: factories:make\nsummary: x\nparameters: {lr: {low: 0.001, high: 1}}\n"
    )
    arms = "arms: [anon, adamw, mine.yaml]"
    mine, adamw = (
        results(trial(folder, job=arms, arm=arm, hyperparameters={"lr": 0.02})) for arm in ("mine", "adamw")
    )
    assert list(map(learned, mine)) == list(map(learned, adamw))
    assert isinstance(mine[-1].outcome, Completed)


def test_only_the_verdict_counts_the_test(folder: Path):
    found = results(trial(folder, phase=VERDICT))
    assert steps(found) == [*range(1, EPOCHS + 1), None]
    assert final(found[-1]) == measured(found[-2]).metrics["test_loss"] != measured(found[-2]).value
    assert all("test_loss" not in measured(result).metrics for result in results(trial(folder))[:-1])


def test_the_test_of_a_function_that_ended_early_counts_at_full_length(folder: Path):
    early = "arguments: {until: 3}"
    found = results(trial(folder, phase=VERDICT, job=early))
    assert steps(found) == [1, 2, 3, EPOCHS, None]
    assert measured(found[3]).value == measured(found[2]).value
    assert final(found[-1]) == measured(found[3]).metrics["test_loss"]
    cut_off = trial(folder, "train", 2, checkpoint_name(TRIAL, 1, 3), phase=VERDICT, job=early)
    assert final(results(cut_off)[-1]) == 7.0


def test_a_function_that_does_not_test_has_its_last_report_counted(folder: Path):
    found = results(trial(folder, "silent", phase=VERDICT))
    assert steps(found) == [4, EPOCHS, None]
    assert final(found[-1]) == measured(found[-2]).value == 2.0


def test_another_attempt_goes_on_with_the_same_results(folder: Path):
    first = results(trial(folder))
    for attempt, done in ((2, 4), (3, 3)):  # of a trial the last two are kept
        second = results(trial(folder, "train", attempt, checkpoint_name(TRIAL, 1, done)))
        assert second[0].resumed == done
        assert [learned(result) for result in second] == [learned(result) for result in first[done:]]


def test_a_function_that_had_ended_early_ends_with_what_it_had_reported(folder: Path):
    early = "arguments: {until: 3}"
    first = results(trial(folder, job=early))
    assert steps(first) == [1, 2, 3, None]
    second = results(trial(folder, "train", 2, checkpoint_name(TRIAL, 1, 3), job=early))
    assert [learned(result) for result in second] == [learned(first[-1])]


def test_a_process_that_is_used_again_starts_afresh(folder: Path):
    first = results(trial(folder))
    used = trial(folder)
    used.step()  # and is stopped, as it is pruned
    assert used.reset_config(trial(folder, "train", 2).config)
    assert [learned(result) for result in results(used)] == [learned(result) for result in first]


def test_a_checkpoint_is_written_when_it_is_asked_for(folder: Path):
    rarely = "arguments: {width: 4}"
    one = trial(folder, job=rarely)
    one._attempt._pace._seconds = 1e9
    assert measured(one.advance()).checkpoint is None
    ask(folder.parent / "checkpoints")
    assert measured(one.advance()).checkpoint == checkpoint_name(TRIAL, 1, 2)


def test_a_stopped_function_cleans_up_though_it_catches_every_exception(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    one = trial(folder, "careless")
    assert measured(one.advance()).step == 1
    one.cleanup()
    assert "cleaned up" in capsys.readouterr().out
    assert not one._attempt._files.exists()


def test_a_function_that_cannot_be_stopped_costs_its_process(folder: Path, monkeypatch: pytest.MonkeyPatch):
    one = trial(folder)
    function = one._attempt._function
    assert function is not None
    one.step()
    monkeypatch.setattr(function, "close", lambda seconds: False)
    with pytest.raises(RuntimeError, match=HELD):
        one.reset_config(dict(one.config))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("other_metric", "objective.metric 'loss' is not among the reported accuracy"),
        ("text", "loss is a str, not a number"),
        (
            "negative",
            "report: loss is -0.5, but the job's objective.scale log needs a loss above 0. Set `scale",
        ),
        ("negative_test", "test: loss is -0.5"),
        ("backwards", "expected a step after 2 and up to budget.epochs 5, found 1"),
        ("too_far", "found 6"),
        ("never_reports", "ended without a report"),
        ("leaves", "SystemExit: no more"),
        ("tests_twice", "test: call it once, after the last report"),
        ("cannot_be_saved", "width has no state_dict"),
    ],
)
def test_what_is_wrong_with_a_trial_is_its_reason(folder: Path, function: str, reason: str):
    last = results(trial(folder, function))[-1]
    assert reason in failed(last).reason


def test_an_error_is_told_from_the_users_code_on(folder: Path):
    last = failed(results(trial(folder, "breaks"))[-1])
    lines = last.traceback.splitlines()
    assert "workers/mine.py" in lines[1]
    assert "in breaks" in lines[1]
    assert any("in deeper" in line for line in lines)
    assert "user_function.py" not in last.traceback
    assert last.reason.startswith("RuntimeError: ")


def test_a_loss_that_is_no_number_is_a_divergence(folder: Path):
    last = results(trial(folder, "explodes"))[-1]
    assert (measured(last).step, last.outcome) == (2, Diverged("diverged: loss nan"))


def test_param_groups_keep_what_is_their_own(folder: Path):
    first = measured(results(trial(folder, "groups"))[0])
    assert (first.value, first.metrics["other"]) == (0.1, 0.0)


@pytest.mark.parametrize("arm", ["anon", "own"])
def test_groups_of_a_model_hold_with_our_schedule_and_in_a_resumed_trial(folder: Path, arm: str):
    (folder / "factory.py").write_text(FACTORY)
    (folder / "own.yaml").write_text(FACTORY_SPACE)
    keys = "arms: [anon, own.yaml]"
    hyperparameters = {"lr": 0.01, "weight_decay": 0.1}
    given = {"arm": arm, "hyperparameters": hyperparameters, "job": keys}
    first = results(trial(folder, "scaled", **given))
    seen = [measured(result).metrics for result in first[:-1]]
    for epoch, metrics in enumerate(seen):
        rates, decays = ({metrics[f"{name}{n}"] for n in range(3)} for name in ("lr", "decay"))
        now = 0.01 * schedule_factor("cosine", epoch, EPOCHS)
        assert sorted(rates) == pytest.approx([now / 2, now])
        assert decays == {0.1, 0.0}
    second = results(trial(folder, "scaled", 2, checkpoint_name(TRIAL, 1, 3), **given))
    assert [measured(result).metrics["lr0"] for result in second[:-1]] == [each["lr0"] for each in seen[3:]]


# Before the first trial


def probed(folder: Path, function: str, keys: str = "") -> ProbeResult | Failed:
    return run_probe(job(folder, function, keys), 7, 0.03)


def test_the_probe_measures_the_first_gradients_at_the_initial_weights(folder: Path):
    found = probed(folder, "careless")
    assert isinstance(found, ProbeResult)
    # one_step: three gradients of 1 in each of its four steps
    assert found.log_mean_sigma == pytest.approx(torch.tensor(1.03).log().item())
    assert found.batches == 4
    assert found.architecture == {
        "family": "mlp",
        "parameters": 3,
        "layers": {"linear": 1},
        "share": {"linear": 1.0},
    }


@pytest.mark.parametrize(("function", "ours"), [("train", True), ("careless", False)])
def test_the_probe_sees_whether_a_function_uses_our_schedule(folder: Path, function: str, ours: bool):
    found = probed(folder, function)
    assert isinstance(found, ProbeResult)
    assert found.uses_schedule is ours
    assert found.as_stored()["uses_schedule"] is ours


def test_a_probe_is_the_same_each_time(folder: Path):
    first, second = (probed(folder, "train") for _ in range(2))
    assert isinstance(first, ProbeResult)
    assert isinstance(second, ProbeResult)
    assert first.cost is not None
    assert second.cost is not None
    assert first.cost.steps_per_epoch == second.cost.steps_per_epoch == 3
    assert dataclasses.replace(first, cost=None) == dataclasses.replace(second, cost=None)


@pytest.mark.parametrize(
    ("function", "keys", "reason"),
    [
        ("never_reports", "", "ended without a report. Call context.report"),
        ("never_steps", "", "never called step() on the optimizer from context.optimizer(model)"),
        ("other_metric", "", "objective.metric 'loss' is not among"),
        ("negative", "", "report: loss is -0.5, but"),
        ("zero", "", "report: loss is 0, but"),
        (
            "train",
            "arguments: {depth: 3}",
            "cannot be called with a context and `arguments`: got an unexpected",
        ),
        ("trian", "", "did you mean 'train'?"),
    ],
)
def test_what_is_wrong_is_said_before_the_first_trial(folder: Path, function: str, keys: str, reason: str):
    found = probed(folder, function, keys)
    assert isinstance(found, Failed)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("data: digits", "data: workers.mine:train brings its own"),
        ("model: cnn", "model: workers.mine:train brings its own"),
        ("keep: best", "keep: only workers.mine:train can save its weights"),
    ],
)
def test_keys_that_are_the_functions_affair_are_refused(folder: Path, keys: str, problem: str):
    with pytest.raises(SpecError, match=problem):
        job(folder, "train", keys)


def test_settings_of_our_loop_are_refused_and_a_stored_job_is_read_again(folder: Path):
    stored = job(folder, "train").model_dump(mode="json")
    assert stored_spec(stored).model_dump(mode="json") == stored
    path = folder / "job.yaml"
    path.write_text(path.read_text().replace("schedule: cosine", "batch_size: 8"))
    with pytest.raises(
        SpecError,
        match=r"training\.batch_size: has no effect with your own training function workers.mine:train",
    ):
        load_spec(path)
