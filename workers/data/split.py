"""Examples on one device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Split"]


@dataclass(frozen=True)
class Split:
    """Examples of one split: inputs (n, ...) and targets (n, ...), on one device."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: slice | Tensor) -> Split:
        """Return some of the examples."""
        return Split(self.inputs[index], self.targets[index])

    def to(self, device: torch.device) -> Split:
        """Return the split on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))
