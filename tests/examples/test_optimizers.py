"""Lion and Muon of examples/bring_your_own/optimizers: their steps by hand, and going on from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from anon_tune.spec import load_spec, spaces_of
from anon_tune.workers.problems.tasks import load_problem
from anon_tune.workers.trial.checkpoints import intact, save
from anon_tune.workers.trial.training import Training
from tests.modules import imported

FOLDER = Path(__file__).parents[2] / "examples" / "bring_your_own" / "optimizers"


@pytest.fixture
def optimizers() -> Iterator[ModuleType]:
    with imported("optimizers", FOLDER) as module:
        yield module


def step(optimizer: torch.optim.Optimizer, gradients: dict[nn.Parameter, torch.Tensor]) -> None:
    for parameter, gradient in gradients.items():
        parameter.grad = gradient.clone()
    optimizer.step()


def test_two_steps_of_lion_by_hand(optimizers: ModuleType):
    x = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    lion = optimizers.Lion([x], lr=0.1, beta1=0.5, beta2=0.75, weight_decay=0.2)
    step(lion, {x: torch.tensor([4.0, -0.01, 0.0], dtype=torch.float64)})
    # The sign of the gradient, whatever its size; weights times 1 - 0.1 * 0.2 = 0.98.
    torch.testing.assert_close(x.data, torch.tensor([0.88, -1.86, 2.94], dtype=torch.float64))
    # The momentum is a quarter of the first gradient: 1, -0.0025, 0. With half of the second it is 0.25, < 0, < 0.
    step(lion, {x: torch.tensor([-0.5, -1.0, -1.0], dtype=torch.float64)})
    expected = [0.88 * 0.98 - 0.1, -1.86 * 0.98 + 0.1, 2.94 * 0.98 + 0.1]
    torch.testing.assert_close(x.data, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(
        lion.state[x]["momentum"],
        torch.tensor([0.75 - 0.125, -0.75 * 0.0025 - 0.25, -0.25], dtype=torch.float64),
    )


def test_a_step_of_muon_by_hand(optimizers: ModuleType):
    """A gradient of rank one stays so: the iteration of its singular value is one of numbers."""
    matrix, bias = nn.Parameter(torch.zeros(4, 9)), nn.Parameter(torch.zeros(3))
    muon = optimizers.MuonWithAdamW([matrix], [bias], lr=0.01, momentum=0.95, weight_decay=0.0)
    u, v = torch.full((4, 1), 1 / 2), torch.full((1, 9), 1 / 3)
    step(muon, {matrix: 7.0 * u @ v, bias: torch.tensor([0.3, -5.0, 0.0])})
    singular = 1.0
    for _ in range(5):
        singular = 3.4445 * singular - 4.775 * singular**3 + 2.0315 * singular**5
    expected = -0.01 * 0.2 * math.sqrt(9) * singular * u @ v
    torch.testing.assert_close(matrix.data, expected, rtol=0.03, atol=1e-5)  # in bfloat16
    torch.testing.assert_close(bias.data, torch.tensor([-0.01, 0.01, 0.0]))  # AdamW's first step: the sign


def test_muon_with_adamw_is_the_two_of_torch_on_their_own_under_a_schedule(optimizers: ModuleType):
    def models() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2))

    together, apart = models(), models()
    one = optimizers.make_muon(together, lr=0.02, momentum=0.9, weight_decay=0.3)
    matrices = [apart[0].weight, apart[2].weight]
    rest = [p for p in apart.parameters() if all(p is not matrix for matrix in matrices)]
    keys: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3}
    two = [
        torch.optim.Muon(matrices, momentum=0.9, adjust_lr_fn="match_rms_adamw", **keys),
        torch.optim.AdamW(rest, **keys),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)) for optimizer in (one, *two)
    ]
    torch.manual_seed(1)
    for _ in range(4):
        x = torch.randn(6, 5)
        for model in (together, apart):
            model.zero_grad()
            model(x).square().sum().backward()
        for optimizer in (one, *two):
            optimizer.step()
        for schedule in schedules:
            schedule.step()
    assert [group["lr"] for group in one.param_groups] == [0.004, 0.004]
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("factory", "hyperparameters"),
    [("make_lion", {"lr": 0.001, "weight_decay": 0.1}), ("make_muon", {"lr": 0.01, "momentum": 0.9})],
)
def test_a_training_that_is_resumed_gives_the_same_bits(
    tmp_path: Path, optimizers: ModuleType, factory: str, hyperparameters: dict[str, float]
):
    problem = load_problem("image_classification", "digits", "mlp", {"width": 8})

    def fresh() -> Training:
        name = f"optimizers:{factory}"
        return Training(problem, name, hyperparameters, seed=5, epochs=3, folder=str(FOLDER))

    whole = fresh()
    first = whole.run_epoch()
    save(tmp_path, "t/1/1.pt", whole.state_dict())
    uninterrupted = [whole.run_epoch() for _ in range(2)]
    ((_, state),) = intact(tmp_path, ["t/1/1.pt"], 3, [])
    resumed = fresh()
    resumed.load_state_dict(state)
    assert [resumed.run_epoch() for _ in range(2)] == uninterrupted
    assert uninterrupted[-1]["train_loss"] < first["train_loss"]


def test_the_job_names_both_arms():
    spec = load_spec(FOLDER / "job.yaml")
    assert spec.arms == ("anon", "adamw", "lion", "muon")
    made = {arm: space.optimizer for arm, space in spaces_of(spec).items()}
    assert (made["lion"], made["muon"]) == ("optimizers:make_lion", "optimizers:make_muon")
