"""The task `function`: its surfaces, its noise, and a function that moves."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from anon_tune.errors import InputError
from anon_tune.spec import load_spec
from anon_tune.workers.problems.data import Surface, read_surface
from anon_tune.workers.problems.data.functions import quadratic, rastrigin, rosenbrock
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.attempt import run_probe
from anon_tune.workers.trial.checkpoints import intact, save
from anon_tune.workers.trial.messages import Failed, ProbeResult
from anon_tune.workers.trial.training import Training

EXAMPLE = Path(__file__).parents[3] / "examples" / "rosenbrock.yaml"
SURFACES = ("quadratic", "rastrigin", "rosenbrock")


def function(data: str = "quadratic", **options: Any) -> Problem:
    return load_problem("function", data, "point", {}, options)


def at(problem: Problem, position: list[float]) -> nn.Module:
    """A model that is so far from the start."""
    model = problem.build_model()
    with torch.no_grad():
        (parameter,) = model.parameters()
        parameter.copy_(torch.tensor(position))
    return model


def gradient(problem: Problem, model: nn.Module, count: int) -> torch.Tensor:
    model.zero_grad()
    problem.loss(model, problem.train[:count], 0.0).backward()
    (parameter,) = model.parameters()
    assert parameter.grad is not None
    return parameter.grad


# The surfaces


def test_values_that_are_known():
    assert rosenbrock(torch.tensor([-1.2, 1.0])).item() == pytest.approx(24.2)
    assert rosenbrock(torch.tensor([0.0, 0.0, 2.0])).item() == pytest.approx(1 + 1 + 400)
    assert rastrigin(torch.tensor([1.0, 0.5])).item() == pytest.approx(1 + 20.25, abs=1e-4)
    assert quadratic(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 1.0], [1.0, 3.0]])).item() == 9.0


def test_many_points_at_once_are_each_by_itself():
    points = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    for surface in (rosenbrock, rastrigin):
        values = surface(points)
        assert values.shape == (4, 3)
        assert torch.allclose(values[2, 1], surface(points[2, 1]))


@pytest.mark.parametrize("dimensions", [2, 5])
@pytest.mark.parametrize("name", SURFACES)
def test_the_lowest_point_is_lower_than_what_is_around(name: str, dimensions: int):
    surface = read_surface(name, {"dimensions": dimensions})
    around = torch.randn(200, dimensions, generator=torch.Generator().manual_seed(0))
    assert surface.value(surface.lowest).item() == pytest.approx(0.0, abs=1e-5)
    assert (surface.value(surface.lowest + around) > 1e-3).all()


@pytest.mark.parametrize("axes", ["aligned", "rotated"])
def test_the_curvatures_of_a_quadratic(axes: str):
    surface = read_surface("quadratic", {"dimensions": 3, "condition": 100, "axes": axes})
    hessian = torch.autograd.functional.hessian(surface.value, torch.zeros(3))
    assert torch.linalg.eigvalsh(hessian).tolist() == pytest.approx([0.01, 0.1, 1.0], abs=1e-5)
    assert (hessian == hessian.diag().diag()).all() == (axes == "aligned")


def test_the_start_is_so_far_out():
    usual, half = (read_surface("rosenbrock", {"dimensions": 3, "start": start}) for start in (1.0, 0.5))
    assert usual.start.tolist() == pytest.approx([-1.2, 1.0, -1.2])
    assert half.start.tolist() == pytest.approx([-0.1, 1.0, -0.1])


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("rosenbrock", {"dimensions": 1}, r"data\.dimensions: .* at least 2, found 1"),
        ("rastrigin", {"dimensions": 0}, r"data\.dimensions: .* at least 1, found 0"),
        ("rastrigin", {"train": 0}, r"data\.train: .* at least 1, found 0"),
        ("rastrigin", {"start": 0.0}, r"data\.start: .* above 0"),
        ("rastrigin", {"degrees_of_freedom": 0.5}, r"degrees_of_freedom: .* at least 1, or 0 for normal"),
        ("quadratic", {"condition": 0.1}, r"data\.condition: .* at least 1, found 0\.1"),
        ("quadratic", {"axes": "turned"}, r"data\.axes: expected aligned or rotated, found 'turned'"),
        ("quadratic", {"tails": 2}, r"unknown option of quadratic 'tails'"),
    ],
)
def test_an_option_out_of_its_range_says_what_is_allowed(name: str, options: dict[str, Any], part: str):
    with pytest.raises(InputError, match=part):
        function(name, **options)


# Loss and noise


def test_the_loss_is_the_value_over_that_at_the_start_with_and_without_noise():
    problem = function("rosenbrock", noise=50.0)
    assert problem.loss(at(problem, [0.0, 0.0]), problem.train[:8], 0.0).item() == pytest.approx(1.0)
    measured = problem.measure(at(problem, [1.2, 0.0]), problem.validation)
    assert measured == pytest.approx({"loss": 101 / 24.2, "value": 101.0, "distance": 1.0}, rel=1e-5)


def test_without_noise_the_gradient_is_that_of_the_function():
    problem = function("quadratic", dimensions=2, condition=4, noise=0)
    found = gradient(problem, at(problem, [1.0, -0.5]), 8)  # at (2, 0.5); the value at the start is 0.625
    assert found.tolist() == pytest.approx([2 / 0.625, 0.25 * 0.5 / 0.625])


def test_a_batch_has_the_mean_of_its_examples_noise():
    problem, still = function(train=10_000, dimensions=1, noise=2.0), function(dimensions=1, noise=0)
    model = at(problem, [0.0])
    torch.manual_seed(0)
    found = torch.stack([gradient(problem, model, 25).clone() for _ in range(500)])
    assert found.mean().item() == pytest.approx(gradient(still, model, 1).item(), abs=0.08)
    assert found.std().item() == pytest.approx(2.0 / math.sqrt(25), rel=0.1)


def drawn(degrees_of_freedom: float) -> torch.Tensor:
    surface: Surface = read_surface(
        "quadratic", {"train": 50_000, "noise": 0.5, "degrees_of_freedom": degrees_of_freedom}
    )
    torch.manual_seed(0)
    return surface.noise(surface.train).flatten() / 0.5


@pytest.mark.parametrize(
    ("degrees_of_freedom", "quantile"), [(0, 2.3263), (1, 31.8205), (1.5, 11.7760), (2, 6.9646), (5, 3.3649)]
)
def test_noise_is_normal_or_of_students_distribution(degrees_of_freedom: float, quantile: float):
    """The 99% quantiles of the tables, on both sides."""
    noise = drawn(degrees_of_freedom)
    assert (noise > quantile).float().mean().item() == pytest.approx(0.01, rel=0.1)
    assert (noise < -quantile).float().mean().item() == pytest.approx(0.01, rel=0.1)


def test_seeds_differ_by_where_they_begin_and_by_their_noise():
    def curve(seed: int, noise: float) -> list[float]:
        training = Training(function(noise=noise, train=128), "sgd", {"lr": 0.1}, seed=seed, epochs=2)
        return [training.run_epoch()["val_loss"] for _ in range(2)]

    assert curve(0, 0.0) != curve(1, 0.0)
    assert curve(0, 0.0) != curve(0, 0.1)
    assert curve(0, 0.1) == curve(0, 0.1)


# A function that moves


def test_the_function_moves_while_it_is_trained_on_and_not_while_it_is_measured():
    problem = function("quadratic", dimensions=4, noise=0, drift=0.5, train=128)
    away = [-1.0] * 4  # on the lowest point
    model = at(problem, away).train()
    for _ in range(2):
        problem.loss(model, problem.train[:128], 0.0)
    model.eval()
    for _ in range(2):
        problem.loss(model, problem.train[:128], 0.0)
        # 0.5 an epoch along the diagonal.
        assert problem.measure(model, problem.validation)["distance"] == pytest.approx(1.0)
    assert problem.measure(at(problem, [-1 + 0.5] * 4), problem.validation)["distance"] == pytest.approx(1.0)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(16, 1), (64, 1), (64, 4)])
def test_it_moves_as_far_in_an_epoch_whatever_the_batches(batch_size: int, accumulate: int):
    problem = function("quadratic", dimensions=4, noise=0, drift=0.5, train=128)
    still = dataclasses.replace(problem, build_model=lambda: at(problem, [-1.0] * 4))
    training = Training(
        still, "sgd", {"lr": 0.0}, seed=0, epochs=3, batch_size=batch_size, accumulate=accumulate
    )
    distances = [training.run_epoch()["val_distance"] for _ in range(3)]
    assert distances == pytest.approx([0.5, 1.0, 1.5])


@pytest.mark.parametrize("name", SURFACES)
def test_a_moving_noisy_training_is_resumed_after_any_epoch_with_the_same_bits(tmp_path: Path, name: str):
    problem = function(name, noise=0.2, degrees_of_freedom=1.5, drift=0.05, train=64)

    def fresh() -> Training:
        return Training(
            problem, "anon", {"lr": 0.01, "gamma": -0.5, "floor": 0.03}, seed=0, epochs=3, batch_size=16
        )

    whole, curve = fresh(), []
    for epoch in range(1, 4):
        curve.append(whole.run_epoch())
        save(tmp_path, f"t{epoch}/1/{epoch}.pt", whole.state_dict())
    for epoch in range(1, 4):
        torch.rand(7)  # another process has another random state
        ((_, state),) = intact(tmp_path, [f"t{epoch}/1/{epoch}.pt"], 4, [])
        resumed = fresh()
        resumed.load_state_dict(state)
        assert [resumed.run_epoch() for _ in range(epoch, 3)] == curve[epoch:]
        assert resumed.test() == whole.test()


def test_what_is_found_follows_the_function():
    problem = function("quadratic", dimensions=2, condition=1, noise=0, drift=1.0, train=256)
    training = Training(problem, "sgd", {"lr": 0.3}, seed=0, epochs=5, batch_size=8, schedule="constant")
    (*_, last) = (training.run_epoch() for _ in range(5))
    assert 0.0 < last["val_distance"] < 0.2  # of 5 that it has moved


# Before the first trial


def probed(*overrides: str) -> ProbeResult | Failed:
    return run_probe(load_spec(EXAMPLE, overrides), 0, 0.03)


def test_the_probe_measures_a_point():
    found = probed()
    assert isinstance(found, ProbeResult)
    torch.manual_seed(0)
    x, y = (torch.tensor([-1.2, 1.0]) + 0.1 * torch.randn(2)).tolist()
    slopes = (-400 * x * (y - x**2) - 2 * (1 - x)) / 24.2, 200 * (y - x**2) / 24.2
    mean_square = sum(slope**2 for slope in slopes) / 2
    assert math.exp(found.log_mean_sigma) == pytest.approx(1.03 * mean_square, rel=0.1)  # but for the noise
    assert (found.architecture["family"], found.architecture["parameters"]) == ("unknown", 2)


def test_an_option_out_of_its_range_is_found_by_the_probe():
    found = probed("data.dimensions=1")
    assert isinstance(found, Failed)
    assert "data.dimensions: Rosenbrock's function has at least 2, found 1." in found.reason


# Models of the user


def test_a_model_of_the_user_gives_the_point(tmp_path: Path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, outputs):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(2, outputs)\n"
        "    def forward(self, inputs):\n"
        "        return self.layer(inputs).mean(0)\n"
    )
    arguments = ("function", "rosenbrock", "nets:Net")
    problem = load_problem(*arguments, {"outputs": 2}, {}, str(tmp_path))
    training = Training(problem, "sgd", {"lr": 0.001}, seed=0, epochs=2)
    assert [training.run_epoch()["val_loss"] for _ in range(2)][-1] < 1.0
    wrong = load_problem(*arguments, {"outputs": 3}, {}, str(tmp_path))
    with pytest.raises(InputError, match=r"returned \(3,\) .* needs a tensor of shape \(2,\)"):
        wrong.loss(wrong.build_model(), wrong.train[:4], 0.0)
