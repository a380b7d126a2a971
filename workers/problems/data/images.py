"""Labelled images: the result of every reader, and the splits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.split import Examples, Split

__all__ = ["Images", "split_images"]

# Splits are a property of the data: the test examples do not depend on a job's seed.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Images:
    """Splits of images (n, channels, height, width) and classes (n) from 0.

    Attributes:
        classes: Number of classes.
        mean: Mean of each channel, (channels, 1, 1), for standardizing bytes after scaling to [0, 1]. It is that of
            the training split, or 0.5 for the user's data. Other numbers are not standardized.
        std: Standard deviation of each channel, likewise.
        range: The assumed lowest and highest value of a pixel.
    """

    train: Examples
    validation: Examples
    test: Examples
    classes: int
    mean: Tensor
    std: Tensor
    range: tuple[float, float] = (0.0, 255.0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.train.shape


def split_images(source: str, train: Split, test: Split, classes: int, sizes: tuple[int, int, int]) -> Images:
    """Return published training and test examples as three splits; validation is a part of the training examples.

    Args:
        source: Name in errors.
        train: uint8 images (n, channels, height, width), int64 classes (n).
        test: Likewise.
        classes: Number of classes.
        sizes: Numbers of examples of train, validation and test to keep; 0 in train or test keeps all.
    """
    of_train, of_validation, of_test = sizes
    if of_train + of_validation > len(train) or of_validation >= len(train) or of_test > len(test):
        raise InputError(
            f"{source} has {len(train):,} training and {len(test):,} test images; data.train {of_train:,} and "
            f"data.validation {of_validation:,} are taken from the former, data.test {of_test:,} from the latter."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    kept = train[order[of_validation : of_validation + of_train if of_train else None]]
    pixels = kept.inputs.transpose(0, 1).flatten(1).float() / 255  # (channels, n * height * width)
    mean, std = pixels.mean(dim=1), pixels.std(dim=1)
    return Images(
        kept,
        train[order[:of_validation]],
        test[: of_test or None],
        classes,
        mean.view(-1, 1, 1),
        std.clamp(min=1e-6).view(-1, 1, 1),
    )
