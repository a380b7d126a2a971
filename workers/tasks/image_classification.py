"""Image classification: images (n, channels, height, width), integer classes (n), cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.data import Split, read_images
from anon_tune.workers.models import build_model
from anon_tune.workers.tasks.problem import Problem

__all__ = ["loss", "metrics", "problem"]


def problem(
    data: str, data_options: Mapping[str, Any], model: str, model_options: Mapping[str, Any]
) -> Problem:
    """Return the problem of one data set and one model. Raises as read_images and build_model."""
    images = read_images(data, data_options)
    prepare = partial(_scaled, mean=images.mean, std=images.std)
    return Problem(
        images.train,
        images.validation,
        images.test,
        partial(build_model, model, images.shape, images.classes, model_options),
        partial(loss, prepare=prepare),
        partial(metrics, prepare=prepare),
    )


def _unchanged(images: Tensor) -> Tensor:
    return images


def loss(
    model: nn.Module,
    examples: Split,
    label_smoothing: float,
    prepare: Callable[[Tensor], Tensor] = _unchanged,
) -> Tensor:
    """Mean cross-entropy in nats; `prepare` makes stored images what the model takes."""
    logits = model(prepare(examples.inputs))
    return F.cross_entropy(logits, examples.targets, label_smoothing=label_smoothing)


def metrics(
    model: nn.Module, examples: Split, prepare: Callable[[Tensor], Tensor] = _unchanged
) -> dict[str, Tensor]:
    """Mean cross-entropy in nats, and accuracy in [0, 1]."""
    logits = model(prepare(examples.inputs))
    return {
        "loss": F.cross_entropy(logits, examples.targets),
        "accuracy": (logits.argmax(dim=1) == examples.targets).float().mean(),
    }


def _scaled(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Bytes become numbers of mean 0 and deviation 1 in each channel."""
    if pixels.is_floating_point():
        return pixels
    return (pixels.float() / 255 - mean.to(pixels.device)) / std.to(pixels.device)
