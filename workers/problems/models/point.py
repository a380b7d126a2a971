"""A point, the model of the task `function`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Point"]

_SPREAD = 0.1


class Point(nn.Module):
    """Displacement of a point from the start, initially normal with deviation 0.1 in each coordinate.

    Args:
        shape: Shape of one input, which is ignored.
        dimensions: Dimensions of the point.
    """

    def __init__(self, shape: tuple[int, ...], dimensions: int) -> None:
        super().__init__()
        self.position = nn.Parameter(_SPREAD * torch.randn(dimensions))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, ...) to (dimensions,), the same for all examples."""
        return self.position
