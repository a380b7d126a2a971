"""Labelled images: what every reader of them returns, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.split import Examples, Split

__all__ = ["Images", "split_images"]

# Splits are a property of the data, not of a job: the same examples are tested on whatever a job's seed is.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class Images:
    """Splits of images (n, channels, height, width) and classes (n) from 0.

    Attributes:
        classes: How many there are.
        mean: Of each channel, by which bytes are standardized once they are in [0, 1]; (channels, 1, 1). That of the
            training split, or 0.5 in data of the user. Other numbers are taken as they are.
        std: Likewise.
        range: The lowest and the highest value that a pixel is taken to have.
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
    """Return published training and test examples as three splits; validation is held out of the training ones.

    Args:
        source: Named in errors.
        train: uint8 images (n, channels, height, width), int64 classes (n).
        test: Likewise.
        classes: How many there are.
        sizes: How many examples of train, validation and test to keep; 0 in train or test: all that there are.

    Raises:
        InputError: There are fewer than that.
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
