"""scikit-learn's handwritten digits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from anon_tune.workers.data.images import Images
from anon_tune.workers.data.split import Split

__all__ = ["digits"]

_SPLIT_SEED = 0
_HELD_OUT = 0.2


def digits() -> Images:
    """1,797 images (1, 8, 8), 60/20/20 by class, scaled by the training split."""
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

    train, unscaled = as_split(train_x, train_y), (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    low, high = train.inputs.aminmax()
    pixels = low.item(), high.item()
    return Images(train, as_split(val_x, val_y), as_split(test_x, test_y), 10, *unscaled, pixels)
