"""Image classification: images (n, channels, height, width), integer classes (n), cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.problems.data import Images, Split
from anon_tune.workers.problems.tasks.problem import Build, Problem, expect

__all__ = ["loss", "metrics", "problem"]


def problem(images: Images, build: Build) -> Problem:
    """Return the problem of images and a model."""
    prepare = partial(_scaled, mean=images.mean, std=images.std)
    return Problem(
        images.train,
        images.validation,
        images.test,
        partial(build, images.shape, images.classes),
        partial(loss, prepare=prepare, classes=images.classes),
        partial(metrics, prepare=prepare, classes=images.classes),
    )


def _unchanged(images: Tensor) -> Tensor:
    return images


def loss(
    model: nn.Module,
    examples: Split,
    label_smoothing: float,
    prepare: Callable[[Tensor], Tensor] = _unchanged,
    *,
    classes: int,
) -> Tensor:
    """Return the mean cross-entropy in nats; `prepare` converts stored images to the model's input."""
    logits = _logits(model, prepare(examples.inputs), classes)
    return F.cross_entropy(logits, examples.targets, label_smoothing=label_smoothing)


def metrics(
    model: nn.Module, examples: Split, prepare: Callable[[Tensor], Tensor] = _unchanged, *, classes: int
) -> dict[str, Tensor]:
    """Return the mean cross-entropy in nats, and accuracy in [0, 1]."""
    logits = _logits(model, prepare(examples.inputs), classes)
    return {
        "loss": F.cross_entropy(logits, examples.targets),
        "accuracy": (logits.argmax(dim=1) == examples.targets).float().mean(),
    }


def _logits(model: nn.Module, images: Tensor, classes: int) -> Tensor:
    """(n, classes)."""
    return expect(model(images), (len(images), classes), images)


def _scaled(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Convert bytes to numbers of mean 0 and deviation 1 in each channel."""
    if pixels.is_floating_point():
        return pixels
    return (pixels.float() / 255 - mean.to(pixels.device)) / std.to(pixels.device)
