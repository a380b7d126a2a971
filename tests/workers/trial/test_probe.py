"""The probe: the gradient's scale as Anon will see it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from anon_tune.workers.problems.data import Split
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.messages import ProbeResult
from anon_tune.workers.trial.probe import PROBE_BATCHES, probe
from tests.workers.trial.test_training import line


def digits(model: str = "mlp") -> Problem:
    return load_problem("image_classification", "digits", model, {"width": 8})


def measure(problem: Problem, **keys: Any) -> ProbeResult:
    return probe(problem, **{"seed": 0, "batch_size": 32, "floor": 0.03, "device": "cpu", **keys})


def test_it_is_the_same_for_a_seed():
    first, again, other = (measure(digits("cnn"), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert other.log_mean_sigma != first.log_mean_sigma


def test_on_one_weight_it_is_what_is_done_by_hand():
    """Loss (w - 2)^2 at w = 0: the gradient is -4 in every batch, s = 16 in the one coordinate."""
    found = measure(line(5), floor=0.5)
    assert found.log_mean_sigma == pytest.approx(math.log(16 + 0.5 * 16), abs=1e-6)
    assert list(found.quantiles_log_sigma.values()) == pytest.approx([found.log_mean_sigma] * 5)
    assert found.batches == PROBE_BATCHES
    assert found.architecture["parameters"] == 1


@pytest.mark.parametrize("floor", [0.0, 0.03])
def test_sigma_is_taken_per_coordinate_and_the_floor_per_tensor(floor: float):
    problem = digits()
    torch.manual_seed(4)
    model = problem.build_model()
    order = torch.Generator().manual_seed(4)
    squares = [np.zeros(tuple(p.shape)) for p in model.parameters()]
    for _ in range(PROBE_BATCHES):
        batch = torch.randint(len(problem.train), (32,), generator=order)
        loss = torch.nn.functional.cross_entropy(
            model(problem.train.inputs[batch]), problem.train.targets[batch]
        )
        for square, gradient in zip(
            squares, torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            square += gradient.double().numpy() ** 2 / PROBE_BATCHES
    logs = np.sort(np.concatenate([np.log(s + 1e-16 + floor * s.mean()).ravel() for s in squares]))
    found = measure(problem, seed=4, floor=floor)
    assert found.log_mean_sigma == pytest.approx(np.log(np.exp(logs).mean()), abs=1e-4)
    assert found.quantiles_log_sigma["50%"] == pytest.approx(np.median(logs), abs=1e-2)
    assert found.quantiles_log_sigma["95%"] == pytest.approx(np.quantile(logs, 0.95), abs=2e-2)
    assert list(found.quantiles_log_sigma.values()) == sorted(found.quantiles_log_sigma.values())


def test_a_higher_floor_raises_the_scale():
    low, high = (measure(digits(), floor=floor).log_mean_sigma for floor in (0.0, 0.1))
    assert high > low


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_a_coordinate_without_a_gradient_is_at_eps_and_the_floor(floor: float):
    """The second of two weights multiplies zeros: s = (16, 0), whose mean is 8."""
    one = line(5)
    inputs = torch.cat([one.train.inputs, torch.zeros(5, 1)], dim=1)

    def two_weights() -> torch.nn.Module:
        model = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        return model

    problem = dataclasses.replace(one, train=Split(inputs, one.train.targets), build_model=two_weights)
    quantiles = measure(problem, floor=floor).quantiles_log_sigma
    assert quantiles["5%"] == pytest.approx(math.log(1e-16 + 8 * floor), abs=1e-5)
    assert quantiles["95%"] == pytest.approx(math.log(16 + 8 * floor), abs=1e-5)


def test_the_family_is_what_the_model_computes():
    """A few kernels multiply more than the linear layer, which has most of the weights."""

    def model() -> torch.nn.Module:
        kernels = torch.nn.Conv2d(1, 16, 3)
        return torch.nn.Sequential(
            kernels, torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(144, 10)
        )

    found = measure(dataclasses.replace(digits(), build_model=model)).architecture
    assert found["family"] == "cnn"
    assert found["share"]["linear"] > 0.8 > 0.3 > found["multiplications"]["linear"]


def test_a_model_that_needs_gradients_in_its_forward_pass_is_known_by_its_weights():
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.layer(x.flatten(1))
            torch.autograd.grad(output.sum(), self.layer.weight, retain_graph=True)
            return output

    found = measure(dataclasses.replace(digits(), build_model=Own)).architecture
    assert (found["family"], "multiplications" in found) == ("mlp", False)


def test_the_signature_has_types_and_shapes_of_inputs_and_outputs():
    assert measure(digits()).as_stored()["signature"] == {
        "inputs": [{"type": "float32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"type": "float32", "shape": [-1, 10]}],
    }


def test_a_model_of_other_things_than_tensors_has_no_signature():
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return self.layer(x.flatten(1)), 2

    def loss(model: torch.nn.Module, batch: Split, _: float) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch.inputs)[0], batch.targets)

    found = measure(dataclasses.replace(digits(), build_model=Twice, loss=loss))
    assert "signature" not in found.as_stored()


def test_a_batch_larger_than_the_data_is_cut():
    assert measure(line(3), batch_size=64).log_mean_sigma == pytest.approx(math.log(16 * 1.03), abs=1e-6)
