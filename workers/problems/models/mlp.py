"""A multi-layer perceptron with one hidden layer."""

from __future__ import annotations

import math

from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """Flatten, linear, ReLU, linear."""

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU(), nn.Linear(width, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, classes)."""
        logits: Tensor = self.net(x)
        return logits
