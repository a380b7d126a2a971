"""Dry run of user factories: errors are reported, and a good factory leaves no trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anon_tune.errors import InputError
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.spec import load_spec, spaces_of
from anon_tune.workers.trial.attempt import run_probe
from anon_tune.workers.trial.dry_run import FactoryArm, dry_run
from anon_tune.workers.trial.messages import Failed, ProbeResult
from tests.modules import forgotten
from tests.trials import checked_up

CODE = """
import torch
from torch import nn
from torch.nn import functional as F


def make(model, lr, momentum=0.0):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def strict(model, lr):
    return torch.optim.Adam(model.parameters(), lr=-lr)


def lbfgs(model, lr):
    return torch.optim.LBFGS(model.parameters(), lr=lr)


def others(model, lr):
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=lr)


def biases(model, lr):
    return torch.optim.SGD([p for p in model.parameters() if p.ndim == 1], lr=lr)


class Unscheduled(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    def step(self, closure=None):
        pass


def unscheduled(model, lr):
    return Unscheduled(model.parameters())


def by_model(context):
    model = nn.Linear(6, 1)
    go(context, model, context.optimizer(model))


def by_groups(context):
    model = nn.Linear(6, 1)
    go(context, model, context.optimizer([{"params": model.parameters()}]))


def by_closure(context):
    model = nn.Linear(6, 1)
    optimizer = context.optimizer(model)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().mean()
        loss.backward()
        return loss

    for step in range(1, context.epochs + 1):
        optimizer.step(closure)
        context.report(step, loss=closure())


def go(context, model, optimizer):
    for step in range(1, context.epochs + 1):
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().mean()
        loss.backward()
        optimizer.step()
        context.report(step, loss=loss)
"""

BAD = [
    ("make", {"lr": 0.1, "momentun": 0.9}, "unexpected keyword argument 'momentun'"),
    ("strict", {"lr": 0.1}, "dry:strict failed: ValueError: Invalid learning rate: -0.1"),
    ("lbfgs", {"lr": 0.1}, "dry:lbfgs failed: TypeError"),
    ("others", {"lr": 0.1}, "dry:others trains no parameter of the model"),
    ("biases", {"lr": 0.1}, r"dry:biases leaves out 0\.weight, 1\.weight, 2\.weight and 1 more. Put each"),
    ("unscheduled", {"lr": 0.1}, "dry:unscheduled: a param group has no lr"),
    ("mke", {"lr": 0.1}, "unknown function 'mke'; did you mean 'make'"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "dry.py").write_text(CODE)
    with forgotten(tmp_path):
        yield tmp_path


def model_with_gradients() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    model(torch.randn(5, 3)).square().sum().backward()
    return model


def arm(folder: Path, factory: str, *points: dict[str, Any]) -> FactoryArm:
    return FactoryArm("mine", f"dry:{factory}", folder / "mine.yaml", str(folder), points)


@pytest.mark.parametrize(("factory", "point", "words"), BAD)
def test_what_is_wrong_names_the_arm_and_its_file(
    folder: Path, factory: str, point: dict[str, Any], words: str
):
    with pytest.raises(InputError, match=words) as caught:
        dry_run([arm(folder, "make", {"lr": 0.1}), arm(folder, factory, point)], model_with_gradients())
    assert str(caught.value).startswith(f"arm mine ({folder / 'mine.yaml'}): ")


def test_each_point_is_tried_and_leaves_the_model_as_it_was(folder: Path):
    model = model_with_gradients()
    before = [(p.detach().clone(), p.grad.clone()) for p in model.parameters() if p.grad is not None]
    dry_run([arm(folder, "make", {"lr": 0.1}, {"lr": 0.5, "momentum": 0.9})], model)
    for parameter, (value, gradient) in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert torch.equal(parameter.grad, gradient)
    with pytest.raises(InputError, match="momentun"):
        dry_run([arm(folder, "make", {"lr": 0.1}, {"lr": 0.1, "momentun": 0.9})], model)


def probed(folder: Path, factory: str, task: str, *, tries: bool = True) -> ProbeResult | Failed:
    """Return the probe's result for a job whose arm `mine` uses a factory."""
    (folder / "mine.yaml").write_text(
        f"optimizer: dry:{factory}\nsummary: x\nparameters: {{lr: {{low: 0.1, high: 1}}}}\n"
    )
    (folder / "job.yaml").write_text(
        f"name: mine\n{task}\nbudget: {{trials: 1, epochs: 3}}\narms: [anon, mine.yaml]\n"
    )
    spec = load_spec(folder / "job.yaml")
    space = spaces_of(spec)["mine"]
    points = [optimizer_arguments(space, point, 0.0) for point in space.middles()]
    given = {"mine": points} if tries else {}
    if spec.has_own_training:
        return checked_up(spec, folder, given)
    return run_probe(spec, 7, 0.03, given)


def untimed(found: ProbeResult | Failed) -> ProbeResult:
    assert isinstance(found, ProbeResult), found
    assert found.cost is not None
    return dataclasses.replace(found, cost=dataclasses.replace(found.cost, seconds_per_step=0.0))


BUILT_IN = "task: image_classification\ndata: digits\nmodel: {name: mlp, width: 4}"


@pytest.mark.parametrize("task", [BUILT_IN, "task: dry:by_model"])
def test_what_the_probe_measures_does_not_depend_on_arms_of_the_user(folder: Path, task: str):
    found = untimed(probed(folder, "make", task))
    assert found == untimed(probed(folder, "make", task, tries=False))
    assert found.architecture["parameters"] > 0


@pytest.mark.parametrize(
    ("task", "factory", "words"),
    [
        (BUILT_IN, "others", "trains no parameter of the model"),
        (BUILT_IN, "lbfgs", "TypeError"),
        ("task: dry:by_model", "others", "trains no parameter of the model"),
        ("task: dry:by_groups", "make", "pass it the model, not parameters or groups"),
    ],
)
def test_the_probe_tells_it(folder: Path, task: str, factory: str, words: str):
    found = probed(folder, factory, task)
    assert isinstance(found, Failed)
    assert found.reason.startswith(f"arm mine ({folder / 'mine.yaml'}): ")
    assert words in found.reason


def test_an_optimizer_that_needs_a_closure_is_given_the_functions(folder: Path):
    assert isinstance(probed(folder, "lbfgs", "task: dry:by_closure"), ProbeResult)
