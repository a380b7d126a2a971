"""The handwritten digits of scikit-learn, without importing it, which takes longer than importing torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from anon_tune.workers.problems.data.images import Images
from anon_tune.workers.problems.data.split import Split

__all__ = ["digits"]

_FILE = Path(__file__).with_suffix(".npz")
"""File of images (n, 8, 8) and classes (n) of each split, from scikit-learn's load_digits and train_test_split."""


def digits() -> Images:
    """Return the 1,797 images (1, 8, 8), split 60/20/20 by class and scaled by the training split."""
    with np.load(_FILE) as arrays:
        pixels = arrays["train_images"].astype(np.float64)
        mean, std = pixels.mean(), pixels.std()

        def split(name: str) -> Split:
            scaled: Any = (arrays[f"{name}_images"].astype(np.float64) - mean) / std
            inputs = torch.tensor(scaled, dtype=torch.float32).unsqueeze(1)
            return Split(inputs, torch.tensor(arrays[f"{name}_classes"], dtype=torch.int64))

        train, validation, test = split("train"), split("validation"), split("test")
    low, high = train.inputs.aminmax()
    unscaled = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    return Images(train, validation, test, 10, *unscaled, (low.item(), high.item()))
