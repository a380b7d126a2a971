"""A point, the model of the task `function`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Point"]

_SPREAD = 0.1


class Point(nn.Module):
    """How far a point is from the start; at first a little, in each coordinate normal with deviation 0.1.

    Args:
        shape: Of one input, which it does not look at.
        dimensions: Of the point.
    """

    def __init__(self, shape: tuple[int, ...], dimensions: int) -> None:
        super().__init__()
        self.position = nn.Parameter(_SPREAD * torch.randn(dimensions))

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, ...) -> (dimensions,), the same for all examples."""
        return self.position
