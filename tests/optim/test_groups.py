"""Param groups: lr_scale and options of a group hold for the optimizer of each arm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from anon_tune.errors import HyperparameterError, InputError
from anon_tune.optim import load_optimizer, make_optimizer
from anon_tune.optim.groups import GroupedModel
from anon_tune.workers.trial.dry_run import FactoryArm, dry_run
from anon_tune.workers.trial.schedules import schedule_factor
from tests.modules import forgotten

EXAMPLE = Path(__file__).parents[2] / "examples" / "bring_your_own" / "optimizers"
STEPS = 12

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "anon": ("anon", {"lr": 0.02, "gamma": 0.7, "weight_decay": 0.1}),
    "adamw": ("adamw", {"lr": 0.02, "betas": [0.9, 0.95], "weight_decay": 0.1}),
    "sgd": ("sgd", {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
    "lion": ("optimizers:make_lion", {"lr": 0.02, "beta1": 0.9, "weight_decay": 0.1}),
    "muon": ("optimizers:make_muon", {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
}


@pytest.fixture(autouse=True)
def factories() -> Iterator[None]:
    with forgotten(EXAMPLE):
        yield


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1))


def groups(model: nn.Sequential) -> list[dict[str, Any]]:
    """No decay of norms and biases, and a slow first layer."""
    flat = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": flat, "weight_decay": 0.0},
        {"params": [model[0].weight], "lr_scale": 0.25},
    ]


def of_each(optimizer: Optimizer, key: str) -> dict[int, Any]:
    return {id(p): group[key] for group in optimizer.param_groups for p in group["params"]}


def train(model: nn.Module, optimizer: Optimizer, schedule: LambdaLR) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    for _ in range(STEPS):
        inputs = torch.randn(16, 6, generator=generator)
        optimizer.zero_grad()
        (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return [p.detach().clone() for p in model.parameters()]


def cosine(optimizer: Optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: schedule_factor("cosine", step, STEPS, 0.2))


@pytest.mark.parametrize("arm", ARMS)
def test_groups_of_a_model_hold_in_each_arm(arm: str):
    name, hyperparameters = ARMS[arm]
    model = network()
    optimizer = make_optimizer(name, GroupedModel(model, groups(model)), hyperparameters, EXAMPLE)
    decays, rates = of_each(optimizer, "weight_decay"), of_each(optimizer, "lr")
    assert len(decays) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert decays[id(parameter)] == (0.0 if parameter.ndim < 2 else 0.1)
        assert rates[id(parameter)] == (0.005 if parameter is model[0].weight else 0.02)
    assert not any("lr_scale" in group for group in optimizer.param_groups)


def by_hand(optimizer: Optimizer, model: nn.Sequential) -> None:
    """Do the same to an optimizer that trains each parameter in a group of its own."""
    for group in optimizer.param_groups:
        (parameter,) = group["params"]
        group["weight_decay"] = 0.0 if parameter.ndim < 2 else 0.1
        group["lr"] = 0.02 * (0.25 if parameter is model[0].weight else 1.0)


@pytest.mark.parametrize("arm", ARMS)
def test_training_with_groups_and_our_schedule_is_as_with_rates_and_decays_by_hand(arm: str):
    name, hyperparameters = ARMS[arm]
    model = network()
    optimizer = make_optimizer(name, GroupedModel(model, groups(model)), hyperparameters, EXAMPLE)
    found = train(model, optimizer, cosine(optimizer))
    other = network()
    alone = GroupedModel(other, [{"params": [p]} for p in other.parameters()])
    optimizer = make_optimizer(name, alone, hyperparameters, EXAMPLE)
    by_hand(optimizer, other)
    wanted = train(other, optimizer, cosine(optimizer))
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(found, wanted, strict=True))
    plain = network()
    optimizer = make_optimizer(name, plain, hyperparameters, EXAMPLE)
    assert not torch.allclose(train(plain, optimizer, cosine(optimizer))[0], found[0], rtol=1e-3)


def test_an_optimizer_of_two_rules_trains_the_groups_that_were_split():
    model = network()
    name, hyperparameters = ARMS["muon"]
    given = [{"params": [model[4].weight], "lr_scale": 0.0}, {"params": [model[0].weight], "lr_scale": 0.5}]
    optimizer = make_optimizer(name, GroupedModel(model, given), hyperparameters, EXAMPLE)
    before = [p.detach().clone() for p in model.parameters()]
    after = train(model, optimizer, cosine(optimizer))
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [p is not model[4].weight for p in model.parameters()]


@pytest.mark.parametrize("arm", ["anon", "adamw", "sgd"])
def test_plain_param_groups_have_lr_scale_too(arm: str):
    name, hyperparameters = ARMS[arm]
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    given = [{"params": [a], "lr_scale": 0.5, "weight_decay": 0.0}, {"params": [b], "lr": 0.3, "lr_scale": 2}]
    optimizer = make_optimizer(name, given, hyperparameters)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.6]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]


def test_a_factory_may_say_lr_scale_in_its_own_groups(tmp_path: Path):
    (tmp_path / "scaled.py").write_text(
        "import torch\n\n\ndef make(model, lr):\n"
        "    return torch.optim.SGD([{'params': [p], 'lr_scale': p.ndim} for p in model.parameters()], lr=lr)\n"
    )
    with forgotten(tmp_path):
        made = make_optimizer("scaled:make", nn.Linear(2, 1), {"lr": 0.1}, tmp_path)
    assert [group["lr"] for group in made.param_groups] == [0.2, 0.1]


def test_names_of_parameters_stay_with_them(tmp_path: Path):
    (tmp_path / "named.py").write_text(
        "import torch\n\n\ndef make(model, lr):\n    return torch.optim.SGD(model.named_parameters(), lr=lr)\n"
    )
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    grouped = GroupedModel(model, [{"params": [model[0].bias, model[1].bias], "lr_scale": 3.0}])
    with forgotten(tmp_path):
        made = make_optimizer("named:make", grouped, {"lr": 0.1}, tmp_path)
    assert [group["param_names"] for group in made.param_groups] == [
        ["0.weight", "1.weight"],
        ["0.bias", "1.bias"],
    ]
    assert [group["lr"] for group in made.param_groups] == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize("arm", ARMS)
def test_an_exported_configuration_is_loaded_with_groups(arm: str):
    name, hyperparameters = ARMS[arm]
    model = network()
    document = {"version": 2, "optimizer": name, "hyperparameters": hyperparameters}
    optimizer = load_optimizer(document, model, EXAMPLE, groups(model))
    assert of_each(optimizer, "lr")[id(model[0].weight)] == 0.005
    assert of_each(optimizer, "weight_decay")[id(model[1].weight)] == 0.0


def test_a_loaded_state_has_its_rates_and_is_not_scaled_again():
    model = network()
    name, hyperparameters = ARMS["anon"]
    first, second = (
        make_optimizer(name, GroupedModel(model, groups(model)), hyperparameters) for _ in range(2)
    )
    second.load_state_dict(first.state_dict())
    assert of_each(second, "lr") == of_each(first, "lr")


def test_the_dry_run_of_a_factory_takes_a_model_with_groups():
    model = network()
    model(torch.ones(1, 6)).sum().backward()
    arms = [FactoryArm("lion", ARMS["lion"][0], "lion.yaml", str(EXAMPLE), [ARMS["lion"][1]])]
    before = [p.detach().clone() for p in model.parameters()]
    dry_run(arms, GroupedModel(model, groups(model)))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf"), "0.1", True, None])
def test_an_lr_scale_that_makes_no_sense_is_refused(scale: Any):
    given = [{"params": [nn.Parameter(torch.ones(2))], "lr_scale": scale}]
    with pytest.raises(HyperparameterError, match="lr_scale of a param group must be a finite number"):
        make_optimizer("sgd", given, {"lr": 0.1})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda model: [{"params": [nn.Parameter(torch.ones(1))]}], "that the model does not have"),
        (lambda model: [{"params": model.parameters()}, {"params": [model[0].bias]}], "in two param groups"),
        (lambda model: [{"lr_scale": 0.1}], 'with the key "params"'),
        (lambda model: [model[0].weight], 'with the key "params"'),
    ],
)
def test_groups_that_do_not_fit_the_model_are_refused(given: Any, words: str):
    model = network()
    with pytest.raises(InputError, match=words):
        GroupedModel(model, given(model))


def test_groups_need_a_model_before_them():
    with pytest.raises(InputError, match="need a model there, not a list"):
        load_optimizer({"version": 2, "optimizer": "sgd", "hyperparameters": {}}, [], groups=[])
