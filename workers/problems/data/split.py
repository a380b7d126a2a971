"""Examples of one split, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Examples", "Split"]

_GATHERED = 16
"""Number of batches that are picked from the examples at a time, which takes a share of a small model's step."""


class Examples(Protocol):
    """One split of the data, on any device or made on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inputs."""

    def __len__(self) -> int: ...

    def batches(self, size: int, order: Tensor | None = None, seed: Sequence[int] = ()) -> Iterator[Split]:
        """Yield examples in batches, on the device.

        Args:
            size: Size of a batch, at least 1; the last one may be smaller.
            order: Indices (m) of the examples; None: all of them in stored order.
            seed: Whole numbers from 0; the same seed gives the same examples if they are random.
        """

    def to(self, device: torch.device) -> Examples:
        """Return the split with its batches on a device."""


@dataclass(frozen=True)
class Split:
    """Examples on one device: inputs (n, ...) and targets (n, ...). A batch is of this class too."""

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
        """Yield examples in batches; see Examples. Nothing is random here."""
        parts = (
            [self]
            if order is None
            else map(self.__getitem__, order.to(self.inputs.device).split(size * _GATHERED))
        )
        for part in parts:
            yield from map(Split, part.inputs.split(size), part.targets.split(size))

    def to(self, device: torch.device, non_blocking: bool = False) -> Split:
        """Return the split on a device; `non_blocking` has its meaning in Tensor.to."""
        return Split(
            self.inputs.to(device, non_blocking=non_blocking),
            self.targets.to(device, non_blocking=non_blocking),
        )
