"""User training functions: run from report to report, cut off and resumed, stopped, and probed before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anon_tune.errors import SpecError
from anon_tune.records import Phase
from anon_tune.spec import JobSpec, load_spec, stored_spec
from anon_tune.workers.isolation.messages import describe
from anon_tune.workers.isolation.process import Keeper
from anon_tune.workers.trial.checkpoints import ask, checkpoint_name
from anon_tune.workers.trial.messages import Completed, Diverged, Failed, ProbeResult, StepResult
from anon_tune.workers.trial.schedules import schedule_factor
from tests import trials
from tests.trials import TRIAL, Isolated, failed, final, learned, measured, results, steps

EPOCHS = 5

Trial = Callable[..., Isolated]

CODE = """
import copy
import os
import pickle
import random
import signal
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
    try:
        for epoch in range(1, context.epochs + 1):
            try:
                one_step(context)
                context.report(epoch, loss=1.0)
            except Exception:
                pass
    finally:
        Path("cleaned_up").touch()


def deaf(context):
    one_step(context)
    while True:
        try:
            context.report(1, loss=1.0)
        except BaseException:
            pass


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


def prints(context):
    for epoch in (1, 2):
        print("epoch", epoch)
        context.report(epoch, loss=1.0)


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


def numpy_and_tensors(context):
    one_step(context)
    for epoch in np.arange(1, context.epochs + 1):
        context.report(epoch, loss=np.array(0.5), other=torch.tensor([0.25]), third=np.float32(2), fourth=np.int64(3))


def tensor_steps(context):
    one_step(context)
    context.report(torch.tensor(1), loss=torch.tensor(0.5, dtype=torch.bfloat16, requires_grad=True))


def many_values(context):
    one_step(context)
    context.report(1, loss=torch.ones(3))


def half_steps(context):
    one_step(context)
    context.report(np.float64(1.0), loss=1.0)


def again(context):
    one_step(context)
    for epoch in (2, 4):
        context.report(epoch, loss=1.0 / epoch, seconds=1.0)
        context.report(epoch, loss=1.0 / epoch, seconds=2.0)


def again_with_another_value(context):
    one_step(context)
    context.report(2, loss=1.0)
    context.report(2, loss=0.5)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def no_words(context):
    one_step(context)
    context.report(1, loss=1.0)
    raise Unspeakable


def not_utf8(context):
    one_step(context)
    context.report(1, loss=1.0)
    raise ValueError("cannot read " + os.fsdecode(b"caf\\xe9\\0.txt"))


def copies(context):
    one_step(context)
    assert copy.deepcopy({"context": context})["context"] is context
    assert copy.copy(context) is context
    elsewhere = pickle.loads(pickle.dumps(context))
    known = ("arm", "seed", "epochs", "device", "hyperparameters", "folder", "tests", "metric")
    assert all(getattr(elsewhere, name) == getattr(context, name) for name in known)
    context.report(1, loss=1.0)
    elsewhere.report(2, loss=1.0)


def handles_signals(context):
    signal.signal(signal.SIGUSR1, lambda *_: None)
    one_step(context)
    context.report(1, loss=1.0)


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
def folder(tmp_path: Path) -> Path:
    """A user's folder, which has a package of the name that a folder of this project has."""
    user = tmp_path / "user"
    (user / "workers").mkdir(parents=True)
    (user / "workers" / "__init__.py").touch()
    (user / "workers" / "mine.py").write_text(CODE)
    return user


@pytest.fixture
def trial(keeper: Keeper) -> Callable[..., Isolated]:
    """Return a function that starts a trial in a process of its own; it saves a checkpoint at each report."""

    def start(
        folder: Path, function: str = "train", attempt: int = 1, *names: str, asks: bool = True, **keys: Any
    ) -> Isolated:
        spec = job(folder, function, keys.pop("job", ""))
        hyperparameters = {"lr": 0.01, "gamma": 1.0, "floor": 0.03, "weight_decay": 0.1}
        given = {"hyperparameters": hyperparameters, **keys}
        checkpoints = folder.parent / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        if asks:
            ask(checkpoints)
        return Isolated(keeper, trials.config(spec, checkpoints, attempt, *names, **given))

    return start


def job(folder: Path, function: str, keys: str = "") -> JobSpec:
    path = folder / "job.yaml"
    path.write_text(
        f"name: mine\ntask: 'workers.mine:{function}'\nspace: mlp\nbudget: {{trials: 1, epochs: {EPOCHS}}}\n"
        f"training: {{checkpoint_seconds: 1000, schedule: cosine}}\n{keys}\n"
    )
    return load_spec(path)


def test_a_function_is_trained_from_report_to_report(trial: Trial, folder: Path):
    found = results(trial(folder))
    assert steps(found) == [*range(1, EPOCHS + 1), None]
    assert found[-1] == StepResult(outcome=Completed(measured(found[-2]).value))
    assert all(measured(result).metrics["loss"] == measured(result).value for result in found[:-1])
    assert measured(found[0]).metrics.keys() > {"loss", "epoch_seconds"}, "Anon's monitor"


VERDICT = Phase.VERDICT


def test_an_arm_of_the_user_trains_with_what_its_factory_makes(trial: Trial, folder: Path):
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


def test_only_the_verdict_counts_the_test(trial: Trial, folder: Path):
    found = results(trial(folder, phase=VERDICT))
    assert steps(found) == [*range(1, EPOCHS + 1), None]
    assert final(found[-1]) == measured(found[-2]).metrics["test_loss"] != measured(found[-2]).value
    assert all("test_loss" not in measured(result).metrics for result in results(trial(folder))[:-1])


def test_the_test_of_a_function_that_ended_early_counts_at_full_length(trial: Trial, folder: Path):
    early = "arguments: {until: 3}"
    found = results(trial(folder, phase=VERDICT, job=early))
    assert steps(found) == [1, 2, 3, EPOCHS, None]
    assert measured(found[3]).value == measured(found[2]).value
    assert final(found[-1]) == measured(found[3]).metrics["test_loss"]
    cut_off = trial(folder, "train", 2, checkpoint_name(TRIAL, 1, 3), phase=VERDICT, job=early)
    assert final(results(cut_off)[-1]) == 7.0


def test_a_function_that_does_not_test_has_its_last_report_counted(trial: Trial, folder: Path):
    found = results(trial(folder, "silent", phase=VERDICT))
    assert steps(found) == [4, EPOCHS, None]
    assert final(found[-1]) == measured(found[-2]).value == 2.0


def test_another_attempt_goes_on_with_the_same_results(trial: Trial, folder: Path):
    first = results(trial(folder))
    for attempt, done in ((2, 4), (3, 3)):  # of a trial the last two are kept
        second = results(trial(folder, "train", attempt, checkpoint_name(TRIAL, 1, done)))
        assert second[0].resumed == done
        assert [learned(result) for result in second] == [learned(result) for result in first[done:]]


def test_a_function_that_had_ended_early_ends_with_what_it_had_reported(trial: Trial, folder: Path):
    early = "arguments: {until: 3}"
    first = results(trial(folder, job=early))
    assert steps(first) == [1, 2, 3, None]
    second = results(trial(folder, "train", 2, checkpoint_name(TRIAL, 1, 3), job=early))
    assert [learned(result) for result in second] == [learned(first[-1])]


def test_a_checkpoint_is_written_when_it_is_asked_for(trial: Trial, folder: Path):
    one = trial(folder, asks=False)
    assert measured(one.advance()).checkpoint is None
    ask(folder.parent / "checkpoints")
    assert measured(one.advance()).checkpoint == checkpoint_name(TRIAL, 1, 2)
    one.close()


def test_a_stopped_function_cleans_up_though_it_catches_every_exception(trial: Trial, folder: Path):
    one = trial(folder, "careless")
    assert measured(one.advance()).step == 1
    one.close()
    assert (folder / "cleaned_up").exists()
    assert not one._files.exists()


def test_a_function_that_does_not_stop_is_killed(trial: Trial, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anon_tune.workers.trial.isolated._CLOSE_SECONDS", 0.1)
    one = trial(folder, "deaf")
    assert measured(one.advance()).step == 1
    process = one._process
    assert process is not None
    one.close()
    assert describe(process.finish(0.0).status) == "SIGKILL (Killed)"


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
        ("leaves", "its process ended with exit code 1: no more"),
        ("tests_twice", "test: call it once, after the last report"),
        ("cannot_be_saved", "width has no state_dict"),
        ("many_values", "loss is a Tensor of shape (3,), not a number"),
        ("half_steps", "expected a step after 0 and up to budget.epochs 5, found np.float64(1.0)"),
        ("again_with_another_value", "expected a step after 2 and up to budget.epochs 5, found 2"),
        ("no_words", "Unspeakable: (no text, because its __str__ raised RuntimeError)"),
        ("not_utf8", "ValueError: cannot read caf\\udce9\\x00.txt"),
        ("copies", "This is a copy of a trial's context, from a file or another process"),
    ],
)
def test_what_is_wrong_with_a_trial_is_its_reason(trial: Trial, folder: Path, function: str, reason: str):
    last = results(trial(folder, function))[-1]
    assert reason in failed(last).reason


def test_what_a_trial_printed_is_kept(trial: Trial, folder: Path):
    assert results(trial(folder, "prints"))[-1].outcome == Completed(1.0, "epoch 1\nepoch 2")


def test_numbers_of_numpy_and_torch_are_numbers(trial: Trial, folder: Path):
    found = results(trial(folder, "numpy_and_tensors"))
    assert steps(found) == [*range(1, EPOCHS + 1), None]
    first = measured(found[0])
    given = [first.metrics[name] for name in ("loss", "other", "third", "fourth")]
    assert given == [0.5, 0.25, 2.0, 3.0]
    assert {type(each) for each in (first.value, *given)} == {float}
    assert type(first.step) is int
    assert measured(results(trial(folder, "tensor_steps"))[0]).step == 1


def test_a_function_has_the_main_thread(trial: Trial, folder: Path):
    assert steps(results(trial(folder, "handles_signals"))) == [1, None]


def test_the_last_report_may_be_repeated(trial: Trial, folder: Path):
    found = results(trial(folder, "again"))
    assert steps(found) == [2, 4, None]
    assert (final(found[-1]), measured(found[0]).metrics["seconds"]) == (0.25, 1.0)


@pytest.mark.parametrize("function", ["no_words", "not_utf8"])
def test_an_error_whose_text_cannot_be_had_can_be_encoded(trial: Trial, folder: Path, function: str):
    last = failed(results(trial(folder, function))[-1])
    for text in (last.reason, last.traceback, last.log or ""):
        assert "\0" not in text
        text.encode()
    assert function in last.traceback


def test_an_error_is_told_from_the_users_code_on(trial: Trial, folder: Path):
    last = failed(results(trial(folder, "breaks"))[-1])
    lines = last.traceback.splitlines()
    assert "workers/mine.py" in lines[1]
    assert "in breaks" in lines[1]
    assert any("in deeper" in line for line in lines)
    assert "child.py" not in last.traceback
    assert last.reason.startswith("RuntimeError: ")


def test_a_loss_that_is_no_number_is_a_divergence(trial: Trial, folder: Path):
    last = results(trial(folder, "explodes"))[-1]
    assert (measured(last).step, last.outcome) == (2, Diverged("diverged: loss nan"))


def test_param_groups_keep_what_is_their_own(trial: Trial, folder: Path):
    first = measured(results(trial(folder, "groups"))[0])
    assert (first.value, first.metrics["other"]) == (0.1, 0.0)


@pytest.mark.parametrize("arm", ["anon", "own"])
def test_groups_of_a_model_hold_with_our_schedule_and_in_a_resumed_trial(
    trial: Trial, folder: Path, arm: str
):
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
    return trials.checked_up(job(folder, function, keys), folder.parent)


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
        "multiplications": {"linear": 1.0},
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
        ("never_reports", "", "ended without a report. Call report(epoch"),
        ("never_steps", "", "never called step() on the optimizer from optimizer(model) of its trial"),
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
