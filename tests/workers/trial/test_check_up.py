"""The check-up of user code: which mistakes it names before the first trial, and that it names no others."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from anon_tune.spec import JobSpec, load_spec
from anon_tune.workers.trial import check_ups
from anon_tune.workers.trial.check_ups import MOST_STEPS, following
from anon_tune.workers.trial.messages import CheckUpRun, Failed, ProbeAssignment, ProbeResult
from anon_tune.workers.trial.work import Work
from tests import trials

CODE = """
import math
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss_of(model, size=16):
    inputs = torch.randn(size, 4)
    return F.mse_loss(model(inputs), inputs.sum(1, keepdim=True))


def loop(context, model, optimizer, after=None, steps=6, before=None, value=None):
    for epoch in range(1, context.epochs + 1):
        for step in range(steps):
            if before is not None:
                before((epoch - 1) * steps + step)
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            if after is not None:
                after()
        context.report(epoch, loss=loss if value is None else value)


def plain(context):
    model = net()
    loop(context, model, context.optimizer(model))


# The seed has no effect


def seeds_itself(context):
    torch.manual_seed(1)
    plain(context)


def the_same_in_each_run(context):
    model = nn.Linear(4, 1)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)
    inputs = torch.arange(12.0).reshape(3, 4)
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            loss.backward()
            optimizer.step()
        context.report(epoch, loss=loss)


def seeds_itself_with_noise_of_rounding(context):
    noise = 1 + 1e-6 * torch.rand(()).item()
    torch.manual_seed(1)
    model = net()
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            optimizer.zero_grad()
            (noise * loss_of(model)).backward()
            optimizer.step()
        context.report(epoch, loss=1 + noise / 1e3)


def pretrained(context):
    model = net()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.1)
    loop(context, model, context.optimizer(model))


def same_order_of_data(context):
    model = net()
    data = torch.Generator().manual_seed(1)
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            inputs = torch.randn(8, 4, generator=data)
            optimizer.zero_grad()
            loss = F.mse_loss(model(inputs), inputs.sum(1, keepdim=True))
            loss.backward()
            optimizer.step()
        context.report(epoch, loss=loss)


def pretrained_with_a_new_head(context):
    trunk = nn.Linear(4, 512)
    nn.init.constant_(trunk.weight, 30.0)
    nn.init.zeros_(trunk.bias)
    model = nn.Sequential(trunk, nn.Tanh(), nn.Linear(512, 1))
    loop(context, model, context.optimizer(model))


# The learning rate has no effect


def write(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


def writes_the_rate(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, before=lambda step: write(optimizer, 6e-4 * min(1, step / 3)))


def writes_the_rate_after_the_step(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, after=lambda: write(optimizer, 6e-4))


def groups_with_own_rates(context):
    model = net()
    first, second = model[0].parameters(), model[2].parameters()
    optimizer = context.optimizer([{"params": first, "lr": 0.1}, {"params": second, "lr": 0.01}])
    loop(context, model, optimizer, StepLR(optimizer, 2).step)


def one_cycle_of_its_own(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, OneCycleLR(optimizer, max_lr=0.1, total_steps=100).step)


def one_group_with_its_own_rate(context):
    model = net()
    first, second = model[0].parameters(), model[2].parameters()
    loop(context, model, context.optimizer([{"params": first, "lr": 0.1}, {"params": second}]))


def always_zero(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, before=lambda step: write(optimizer, 0.0))


def scheduled_and_written(context):
    model = net()
    optimizer = context.optimizer(model)
    StepLR(optimizer, 100)
    loop(context, model, optimizer, before=lambda step: write(optimizer, 6e-4))


def writes_the_trials_rate(context):
    model = net()
    optimizer = context.optimizer(model)

    def rate(step):
        if step > 4:
            return 1e-5
        return context.lr * step / 3

    loop(context, model, optimizer, before=lambda step: write(optimizer, rate(step)))


def scaled_groups(context):
    model = net()
    first, second = model[0].parameters(), model[2].parameters()
    optimizer = context.optimizer([{"params": first, "lr_scale": 0.1}, {"params": second}])
    rates = [group["lr"] for group in optimizer.param_groups]
    assert math.isclose(rates[0], 0.1 * rates[1]), rates
    loop(context, model, optimizer)


def step_schedule(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, StepLR(optimizer, 1, gamma=0.7).step)


def one_cycle(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, OneCycleLR(optimizer, max_lr=context.lr, total_steps=100).step)


def cosine_to_a_floor(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, CosineAnnealingLR(optimizer, 3, eta_min=1e-5).step)


def warm_up_from_zero(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, LambdaLR(optimizer, lambda step: min(1, step / 3)).step)


def warm_up_by_epochs(context):
    model = net()
    optimizer = context.optimizer(model)
    LambdaLR(optimizer, lambda epoch: min(1, epoch / 3))
    loop(context, model, optimizer)


def our_schedule(context):
    model = net()
    optimizer = context.optimizer(model)
    loop(context, model, optimizer, context.schedule(optimizer, steps=60).step)


# Parameters and optimizers


def a_layer_without_an_optimizer(context):
    model = net()
    loop(context, model, context.optimizer(model[0]))


def another_optimizer(context):
    model = net()
    other = torch.optim.Adam(model[2].parameters())
    loop(context, model, context.optimizer(model[0]), other.step)


def another_optimizer_made_late(context):
    model, others = net(), []

    def train_the_rest():
        if not others:
            others.append(torch.optim.SGD(model[2].parameters(), lr=0.1))
        others[0].step()

    loop(context, model, context.optimizer(model[0]), train_the_rest)


def frozen_layer(context):
    model = net()
    model[0].requires_grad_(False)
    loop(context, model, context.optimizer(model[2]))


def frozen_layer_of_the_model(context):
    model = net()
    model[0].requires_grad_(False)
    loop(context, model, context.optimizer(model))


def after_another_training(context):
    old = net()
    optimizer = torch.optim.Adam(old.parameters())
    loss_of(old).backward()
    optimizer.step()
    del optimizer
    context.old = old
    model = net()
    model[0] = old[0]
    loop(context, model, context.optimizer(model))


def with_an_average_of_the_model(context):
    model = net()
    average = torch.optim.swa_utils.AveragedModel(model)
    loop(context, model, context.optimizer(model), lambda: average.update_parameters(model))


def two_networks(context, n=1):
    maker, judge = nn.Linear(2, 4), net()
    makes, judges = context.optimizer(maker), context.optimizer(judge)
    for epoch in range(1, context.epochs + 1):
        for step in range(6):
            made = maker(torch.randn(8, 2))
            judges.zero_grad()
            loss = judge(made.detach()).mean() - judge(torch.randn(8, 4)).mean() + loss_of(judge)
            loss.backward()
            judges.step()
            if step % n == n - 1:
                makes.zero_grad()
                (-judge(made)).mean().backward()
                makes.step()
        context.report(epoch, loss=loss.abs())


def two_networks_that_seed_themselves(context):
    torch.manual_seed(1)
    two_networks(context)


def two_networks_of_which_one_waits(context):
    two_networks(context, n=1000)


def two_networks_of_which_one_waits_and_all_is_seeded(context):
    torch.manual_seed(1)
    two_networks(context, n=3)


def made_twice(context):
    model = net()
    context.optimizer(model)
    loop(context, model, context.optimizer(model))


def made_again_in_the_middle(context):
    model = net()
    optimizers = [context.optimizer(model)]
    for epoch in range(1, context.epochs + 1):
        for step in range(6):
            if step == 2:
                optimizers.append(context.optimizer(model.parameters()))
            loss = loss_of(model)
            optimizers[-1].zero_grad()
            loss.backward()
            optimizers[-1].step()
        context.report(epoch, loss=loss)


def thaws_a_layer(context):
    model = net()
    model[0].requires_grad_(False)
    optimizer = context.optimizer(model[2])

    def thaw(step):
        if step == 2:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters())})

    loop(context, model, optimizer, before=thaw)


def groups_by_seed(context):
    model = net()
    groups = [{"params": [each]} for each in model.parameters()]
    if context.seed == 8:
        groups = [{"params": list(model.parameters())}]
    loop(context, model, context.optimizer(groups))


def sparse(context):
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = context.optimizer(model)
    model(torch.tensor([1, 2])).square().mean().backward()
    optimizer.step()


# The objective


def constant(context, value=0.5):
    model = net()
    loop(context, model, context.optimizer(model), value=value)


def of_value(context, value):
    model = net()
    loop(context, model, context.optimizer(model), value=float(value))


def infinite_gradient(context):
    model = net()
    optimizer = context.optimizer(model)
    for _ in range(4):
        (loss_of(model) * float("nan")).backward()
        optimizer.step()
    context.report(1, loss=0.5)


def reports_late(context, steps):
    model = net()
    loop(context, model, context.optimizer(model), steps=steps)


def short(context, steps):
    model = net()
    optimizer = context.optimizer(model)
    for _ in range(steps):
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
    context.report(context.epochs, loss=loss)


def accumulates(context):
    model = net()
    optimizer = context.optimizer(model)
    for epoch in range(1, context.epochs + 1):
        for batch in range(8):
            loss = loss_of(model) / 2
            loss.backward()
            if batch % 2:
                optimizer.step()
                optimizer.zero_grad()
        context.report(epoch, loss=loss)


def with_a_closure(context):
    model = net()
    optimizer = context.optimizer(model)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for epoch in range(1, context.epochs + 1):
        for _ in range(4):
            loss = optimizer.step(closure)
        context.report(epoch, loss=loss)
"""

MODULE = "check_up_loops"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("user")
    (found / f"{MODULE}.py").write_text(CODE)
    before = list(sys.path)
    yield found
    sys.path[:] = before
    sys.modules.pop(MODULE, None)


def job(folder: Path, function: str, **keys: Any) -> JobSpec:
    named = {"task": f"{MODULE}:{function}"} if "command" not in keys else {}
    document = {"name": "mine", "space": "mlp", "budget": {"trials": 1, "epochs": 10}, **named, **keys}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_spec(path)


def found(folder: Path, function: str, **keys: Any) -> ProbeResult | Failed:
    return trials.checked_up_here(job(folder, function, **keys), folder)


def reason(folder: Path, function: str, **keys: Any) -> str:
    failed = found(folder, function, **keys)
    assert isinstance(failed, Failed), failed
    return failed.reason


def notes(folder: Path, function: str, **keys: Any) -> tuple[str, ...]:
    result = found(folder, function, **keys)
    assert isinstance(result, ProbeResult), result
    return result.notes


ACCURACY = {"objective": {"metric": "loss", "mode": "max", "scale": "linear"}}
LINEAR = {"objective": {"metric": "loss", "scale": "linear"}}


@pytest.mark.parametrize(
    "function",
    [
        "seeds_itself",
        "the_same_in_each_run",
        "seeds_itself_with_noise_of_rounding",
        "two_networks_that_seed_themselves",
        "two_networks_of_which_one_waits_and_all_is_seeded",
    ],
)
def test_a_seed_without_effect_is_named(folder: Path, function: str):
    said = reason(folder, function)
    assert said.startswith("the seed has no effect")
    assert "torch.manual_seed(context.seed)" in said
    assert "`seeds: fixed`" in said


def test_a_job_may_state_that_its_seeds_are_fixed(folder: Path):
    assert notes(folder, "seeds_itself", seeds="fixed") == ()
    (note,) = notes(folder, "plain", seeds="fixed")
    assert note.startswith("the job file says `seeds: fixed`, but two seeds gave different gradients")


@pytest.mark.parametrize(
    "function",
    ["writes_the_rate", "writes_the_rate_after_the_step", "groups_with_own_rates", "one_cycle_of_its_own"],
)
def test_a_learning_rate_without_effect_is_named(folder: Path, function: str):
    said = reason(folder, function)
    assert said.startswith("the learning rate has no effect: the training sets its own (")
    assert "group['lr'] = context.lr * factor" in said
    assert "`lr_scale`" in said


@pytest.mark.parametrize(
    ("function", "note"),
    [
        ("one_group_with_its_own_rate", "1 of 2 param groups have a learning rate of their own"),
        ("always_zero", "a learning rate was 0 in all steps of the check-up"),
        ("scheduled_and_written", "two learning rates had the same effect in the steps of the check-up"),
        ("a_layer_without_an_optimizer", "no optimizer trains 2.bias, 2.weight, though gradients reach them"),
        ("another_optimizer", "another optimizer (Adam) trains some parameters"),
        ("another_optimizer_made_late", "another optimizer (SGD) trains some parameters"),
        ("two_networks_of_which_one_waits", "1 of the 2 optimizers made no step in the first"),
        ("constant", "loss was 0.5 for two different models. Check that it is not constant"),
    ],
)
def test_what_may_be_a_mistake_is_a_note(folder: Path, function: str, note: str):
    (said,) = notes(folder, function)
    assert said.startswith(note)


def test_a_constant_accuracy_is_named_unless_it_may_be_equal_by_chance(folder: Path):
    for by_chance in (0.0, 0.1, 0.33, 1 / 7, 97 / 500, 9.8):
        assert notes(folder, "of_value", arguments={"value": by_chance}, **ACCURACY) == ()
    for constant in (0.73421, -200.0, 61.2345):
        (note,) = notes(folder, "of_value", arguments={"value": constant}, **ACCURACY)
        assert note.endswith("for two different models. Check that it is not constant")


@pytest.mark.parametrize(
    ("function", "keys", "problem"),
    [
        ("sparse", {}, "Anon needs dense gradients, and a parameter has a sparse one"),
        ("infinite_gradient", {}, "The gradient is not finite at the initial weights"),
        *(
            ("of_value", {"arguments": {"value": value}, **LINEAR}, f"report: loss is {value} before any")
            for value in ("nan", "inf")
        ),
        ("of_value", {"arguments": {"value": "nan"}}, "report: loss is nan before any parameter has changed"),
    ],
)
def test_what_cannot_be_tuned_is_refused(folder: Path, function: str, keys: dict[str, Any], problem: str):
    assert reason(folder, function, **keys).startswith(problem)


@pytest.mark.parametrize(
    "function",
    [
        "plain",
        "pretrained",
        "pretrained_with_a_new_head",
        "same_order_of_data",
        "writes_the_trials_rate",
        "scaled_groups",
        "step_schedule",
        "one_cycle",
        "cosine_to_a_floor",
        "warm_up_from_zero",
        "warm_up_by_epochs",
        "our_schedule",
        "frozen_layer",
        "frozen_layer_of_the_model",
        "after_another_training",
        "with_an_average_of_the_model",
        "two_networks",
        "made_twice",
        "made_again_in_the_middle",
        "thaws_a_layer",
        "groups_by_seed",
        "accumulates",
        "with_a_closure",
    ],
)
def test_where_nothing_is_wrong_nothing_is_named(folder: Path, function: str):
    assert notes(folder, function) == ()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_training_of_a_few_steps_is_measured_by_these(folder: Path, steps: int):
    result = found(folder, "short", arguments={"steps": steps})
    assert isinstance(result, ProbeResult), result
    assert (result.batches, result.notes) == (steps, ())


def test_an_optimizer_that_is_made_again_does_not_change_the_measurement(folder: Path):
    once, again = found(folder, "plain"), found(folder, "made_twice")
    assert isinstance(once, ProbeResult)
    assert isinstance(again, ProbeResult)
    assert again.log_mean_sigma == once.log_mean_sigma
    assert again.architecture == once.architecture


def runs(folder: Path, steps: int) -> list[CheckUpRun]:
    """Both runs of a training with so many steps in an epoch."""
    spec = job(folder, "reports_late", arguments={"steps": steps})
    first, both = ProbeAssignment(7, 8, 0.03, {}, folder / "probe.log"), list[CheckUpRun]()
    for number in range(2):
        assignment = first if not both else following(first, both[0])
        run = trials.check_up_run(Work(assignment, spec, folder, trials.NO_FUNCTIONS, number))
        assert isinstance(run, CheckUpRun)
        both.append(run)
    return both


@pytest.mark.parametrize(
    ("steps", "made"),
    [(1, [4, 4]), (3, [4, 4]), (5, [5, 5]), (MOST_STEPS, [MOST_STEPS, 4]), (MOST_STEPS + 1, [MOST_STEPS, 4])],
)
def test_the_check_up_takes_at_most_two_epochs_or_eight_steps(folder: Path, steps: int, made: list[int]):
    both = runs(folder, steps)
    assert [len(run.optimizers[0].groups[0].used) for run in both] == made


def test_what_was_not_reached_is_named(folder: Path):
    (note,) = notes(folder, "reports_late", arguments={"steps": MOST_STEPS + 1})
    assert note == f"no report came in the first {MOST_STEPS} steps, so loss is not checked yet"


def test_different_gradients_of_equal_norm_are_different(folder: Path):
    spec, (first, second) = job(folder, "plain"), runs(folder, 5)
    same = dataclasses.replace(second, optimizers=first.optimizers, value=first.value)
    assert isinstance(check_ups.compared(first, same, spec), Failed)
    (own,) = first.optimizers
    turned = tuple((norm, -total) for norm, total in own.gradients)
    other = dataclasses.replace(
        same, optimizers=(dataclasses.replace(own, gradients=turned, groups=second.optimizers[0].groups),)
    )
    assert isinstance(check_ups.compared(first, other, spec), ProbeResult)


# As a command

SCRIPT = f"""
import sys
import anon_tune
import {MODULE}

trial = anon_tune.trial()
getattr({MODULE}, sys.argv[1])(trial)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("seeds_itself", "torch.manual_seed(trial.seed)"),
        ("writes_the_rate", "group['lr'] = trial.lr * factor"),
        ("sparse", "Anon needs dense gradients"),
    ],
)
def test_mistakes_of_a_script_are_named(folder: Path, tmp_path: Path, function: str, problem: str):
    (folder / "train.py").write_text(SCRIPT)
    spec = job(folder, function, command=f"python train.py {shlex.quote(function)}")
    result = trials.checked_up(spec, tmp_path)
    assert isinstance(result, Failed)
    assert problem in result.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "note"),
    [
        ("plain", ""),
        ("two_networks", ""),
        ("a_layer_without_an_optimizer", "no optimizer trains 2.bias, 2.weight"),
    ],
)
def test_notes_on_a_script(folder: Path, tmp_path: Path, function: str, note: str):
    (folder / "train.py").write_text(SCRIPT)
    result = trials.checked_up(job(folder, function, command=f"python train.py {function}"), tmp_path)
    assert isinstance(result, ProbeResult), result
    assert result.notes == () if not note else result.notes[0].startswith(note)
