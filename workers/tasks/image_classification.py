"""Image classification: images (n, channels, height, width), integer classes (n), cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from anon_tune.workers.data import read_images
from anon_tune.workers.models import build_model
from anon_tune.workers.tasks.problem import Problem

__all__ = ["loss", "metrics", "problem"]


def problem(
    data: str, data_options: Mapping[str, Any], model: str, model_options: Mapping[str, Any]
) -> Problem:
    """Return the problem of one data set and one registered model. Raises as read_images and build_model."""
    images = read_images(data, data_options)
    return Problem(
        images.train,
        images.validation,
        images.test,
        partial(build_model, model, images.shape, images.classes, model_options),
        loss,
        metrics,
        partial(scaled, mean=images.mean, std=images.std),
    )


def scaled(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return images as the model takes them: bytes become numbers of mean 0 and deviation 1 in each channel."""
    if pixels.is_floating_point():
        return pixels
    return (pixels.float() / 255 - mean.to(pixels.device)) / std.to(pixels.device)


def loss(logits: Tensor, classes: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (n, classes) in nats."""
    return F.cross_entropy(logits, classes, label_smoothing=label_smoothing)


def metrics(logits: Tensor, classes: Tensor) -> dict[str, float]:
    """Cross-entropy in nats and accuracy in [0, 1] over a split."""
    return {
        "loss": F.cross_entropy(logits, classes).item(),
        "accuracy": (logits.argmax(dim=1) == classes).float().mean().item(),
    }
