"""Image classification: images (n, channels, height, width), integer classes (n), cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from anon_tune.workers.models import build_model
from anon_tune.workers.tasks.problem import Problem, Split

__all__ = ["LOADERS", "loss", "metrics", "problem"]

# Splits are a property of the data, not of a job: the same examples are tested on whatever a job's seed is.
_SPLIT_SEED = 0
_HELD_OUT = 0.2


def problem(data: str, model: str, options: Mapping[str, Any]) -> Problem:
    """Return the problem of one data set and one registered model."""
    train, validation, test = LOADERS[data]()
    shape = tuple(train.inputs.shape[1:])
    classes = int(train.targets.max()) + 1
    return Problem(
        train, validation, test, partial(build_model, model, shape, classes, options), loss, metrics
    )


def loss(logits: Tensor, classes: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (n, classes) in nats."""
    return F.cross_entropy(logits, classes, label_smoothing=label_smoothing)


def metrics(logits: Tensor, classes: Tensor) -> dict[str, float]:
    """Cross-entropy in nats and accuracy in [0, 1] over a split."""
    return {
        "loss": F.cross_entropy(logits, classes).item(),
        "accuracy": (logits.argmax(dim=1) == classes).float().mean().item(),
    }


@cache
def _digits() -> tuple[Split, Split, Split]:
    """scikit-learn's digits: 1,797 images (1, 8, 8), 60/20/20 by class, scaled by the training split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, classes = load_digits(return_X_y=True)
    split = partial(train_test_split, random_state=_SPLIT_SEED)
    rest_x, test_x, rest_y, test_y = split(images, classes, test_size=_HELD_OUT, stratify=classes)
    share = _HELD_OUT / (1 - _HELD_OUT)
    train_x, val_x, train_y, val_y = split(rest_x, rest_y, test_size=share, stratify=rest_y)
    mean, std = train_x.mean(), train_x.std()

    def as_split(x: Any, y: Any) -> Split:
        inputs = torch.tensor((x - mean) / std, dtype=torch.float32).reshape(-1, 1, 8, 8)
        return Split(inputs, torch.tensor(y, dtype=torch.int64))

    return as_split(train_x, train_y), as_split(val_x, val_y), as_split(test_x, test_y)


LOADERS: Mapping[str, Callable[[], tuple[Split, Split, Split]]] = {"digits": _digits}
"""Data set name to (train, validation, test)."""
