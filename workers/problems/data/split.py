"""Examples of one split, given out in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Examples", "Split"]

_GATHERED = 16
"""So many batches are picked from the examples at a time: of a small model that is a share of a step's time."""


class Examples(Protocol):
    """One split of the data, wherever it is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inputs."""

    def __len__(self) -> int: ...

    def batches(self, size: int, order: Tensor | None = None, seed: Sequence[int] = ()) -> Iterator[Split]:
        """Give out examples in batches, on the device.

        Args:
            size: Of a batch, from 1; the last one may be smaller.
            order: Which examples, as indices (m); None: all of them as they are stored.
            seed: Whole numbers from 0: the same ones give the same examples, where these are made by chance.
        """

    def to(self, device: torch.device) -> Examples:
        """Return the split with its batches on a device."""


@dataclass(frozen=True)
class Split:
    """Examples that are held on one device: inputs (n, ...) and targets (n, ...). A batch is one too."""

    inputs: Tensor
    targets: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inputs."""
        return self.inputs.dtype

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: slice | Tensor) -> Split:
        """Return some of the examples."""
        return Split(self.inputs[index], self.targets[index])

    def batches(self, size: int, order: Tensor | None = None, seed: Sequence[int] = ()) -> Iterator[Split]:
        """See Examples; nothing is made by chance here."""
        parts = (
            [self]
            if order is None
            else map(self.__getitem__, order.to(self.inputs.device).split(size * _GATHERED))
        )
        for part in parts:
            yield from map(Split, part.inputs.split(size), part.targets.split(size))

    def to(self, device: torch.device, non_blocking: bool = False) -> Split:
        """Return the split on a device; `non_blocking` as in Tensor.to."""
        return Split(
            self.inputs.to(device, non_blocking=non_blocking),
            self.targets.to(device, non_blocking=non_blocking),
        )
