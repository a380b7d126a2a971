"""Diffusion: what is learnt, measured and drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from anon_tune.workers.problems.tasks import load_problem
from anon_tune.workers.problems.tasks.diffusion import sample


class Known(nn.Module):
    """Knows that every image is the same one, and so which noise was added."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = (t * math.pi / 2)[:, None, None, None]
        return (x - angle.cos() * self.image) / angle.sin()


def test_an_image_is_drawn_from_noise_by_a_model_that_knows_the_noise():
    image = torch.rand(2, 4, 4) * 2 - 1
    drawn = sample(Known(image), (3, 2, 4, 4), steps=5, seed=0)
    assert torch.allclose(drawn, image.expand(3, -1, -1, -1), atol=1e-4)


def test_the_error_is_measured_with_the_same_noise_each_time():
    problem = load_problem("diffusion", "digits", "unet", {})
    model = problem.build_model()
    first = problem.measure(model, problem.validation)
    torch.rand(5)
    assert problem.measure(model, problem.validation) == first
    assert first["loss"] == pytest.approx(1.0, abs=0.4), "it does not see the noise, whose variance is 1"
    assert problem.loss(model, problem.train[:99], 0.0) != problem.loss(model, problem.train[:99], 0.0)


def test_images_are_scaled_to_the_unit_range():
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(x[t < 0.02])  # nearly no noise
            return torch.zeros_like(x)

    problem = load_problem("diffusion", "digits", "unet", {})
    problem.measure(Watching(), problem.validation)
    pixels = torch.cat(seen)
    assert len(pixels) >= 5
    assert (pixels.min().item(), pixels.max().item()) == pytest.approx((-1, 1), abs=0.15)
