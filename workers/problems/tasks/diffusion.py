"""Diffusion: a model learns to predict the noise in an image (Ho et al. 2020, arXiv 2006.11239).

Images are scaled to [-1, 1]. At time t in [0, 1] an image x is a x + b noise with a^2 + b^2 = 1 and
a = cos(t pi / 2): Nichol and Dhariwal's schedule (arXiv 2102.09672) without its offset.
"""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.problems.data import Images, Split
from anon_tune.workers.problems.tasks.problem import Build, Problem, expect

__all__ = ["problem", "sample"]

_EVALUATION_SEED = 0
_LAST = 0.999  # the start of sampling; at 1 nothing of the image is left


def problem(images: Images, build: Build) -> Problem:
    """Return the problem of images, whose targets are ignored, and a model."""
    low, high = images.range
    scale = partial(_to_unit, low=low, high=high)
    return Problem(
        images.train,
        images.validation,
        images.test,
        partial(build, images.shape, images.classes),
        partial(_loss, scale=scale),
        partial(_metrics, scale=scale),
    )


@torch.no_grad()
def sample(model: nn.Module, shape: tuple[int, ...], *, steps: int, seed: int) -> Tensor:
    """Return samples in [-1, 1] of a shape (n, channels, height, width), by deterministic sampling (DDIM).

    Args:
        model: A model trained on this task.
        shape: Shape of the samples.
        steps: Number of steps from noise to image, at least 1.
        seed: Seed of the initial noise.
    """
    device = next(model.parameters()).device
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    times = torch.linspace(_LAST, 0.0, steps + 1).tolist()
    for now, after in itertools.pairwise(times):
        noise = model(x, torch.full((shape[0],), now, device=device))
        image = (x - math.sin(now * math.pi / 2) * noise) / math.cos(now * math.pi / 2)
        image = image.clamp(-1.0, 1.0)
        x = math.cos(after * math.pi / 2) * image + math.sin(after * math.pi / 2) * noise
    return x


def _to_unit(pixels: Tensor, low: float, high: float) -> Tensor:
    return (pixels.float() - low) * (2.0 / (high - low)) - 1.0


def _error(model: nn.Module, images: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """Return the mean squared error of the model's noise prediction."""
    angle = (times * math.pi / 2)[:, None, None, None]
    seen = angle.cos() * images + angle.sin() * noise
    return F.mse_loss(expect(model(seen, times), tuple(noise.shape), seen), noise)


def _loss(model: nn.Module, examples: Split, label_smoothing: float, scale: Any) -> Tensor:
    """Return the loss at times and with noise from torch's global random state; there are no labels to smooth."""
    images = scale(examples.inputs)
    return _error(model, images, torch.rand(len(images), device=images.device), torch.randn_like(images))


def _metrics(model: nn.Module, examples: Split, scale: Any) -> dict[str, Tensor]:
    """Return the loss at fixed times and with fixed noise, so only the model makes a difference."""
    images = scale(examples.inputs)
    chance = torch.Generator().manual_seed(_EVALUATION_SEED)
    # Times are evenly spaced, in random order.
    times = (torch.randperm(len(images), generator=chance) + 0.5) / len(images)
    noise = torch.randn(images.shape, generator=chance)
    return {"loss": _error(model, images, times.to(images.device), noise.to(images.device))}
