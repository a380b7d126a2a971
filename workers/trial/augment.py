"""Augmentation of images, a batch at a time and on its device. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["AUGMENTATIONS", "augmented"]

_SHARE = 8  # He et al. 2016 pad images of 32 pixels with 4 on each side


def _crop(images: Tensor, chance: Generator) -> Tensor:
    """Move each image by up to an eighth of its height or width, with zeros beyond its edge."""
    n, _, height, width = images.shape
    down, right = height // _SHARE, width // _SHARE
    padded = F.pad(images, (right, right, down, down))
    rows = _draw(n, 2 * down + 1, chance)[:, None] + torch.arange(height, device=images.device)
    columns = _draw(n, 2 * right + 1, chance)[:, None] + torch.arange(width, device=images.device)
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _flip(images: Tensor, chance: Generator) -> Tensor:
    """Mirror each image, left to right, with a chance of one half."""
    mirrored = _draw(len(images), 2, chance).bool()[:, None, None, None]
    return torch.where(mirrored, images.flip(3), images)


def _draw(n: int, below: int, chance: Generator) -> Tensor:
    return torch.randint(below, (n,), generator=chance, device=chance.device)


AUGMENTATIONS: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {"crop": _crop, "flip": _flip}
"""Augmentations by name: (images, generator) -> images, of shape (n, channels, height, width) and any type."""


def augmented(images: Tensor, names: Sequence[str], chance: Generator) -> Tensor:
    """Return randomly augmented images, each changed in its own way.

    Args:
        images: Images of shape (n, channels, height, width), as they are stored.
        names: Names from AUGMENTATIONS, applied in this order.
        chance: Random generator on the images' device.
    """
    for name in names:
        images = AUGMENTATIONS[name](images, chance)
    return images
