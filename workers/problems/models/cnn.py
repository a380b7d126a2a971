"""A small convolutional network with batch norm."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["CNN"]


class CNN(nn.Module):
    """Three 3x3 convolutions, each with batch norm and ReLU; the second halves the size; pooled; linear."""

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int) -> None:
        super().__init__()
        channels = [shape[0], width, 2 * width, 2 * width]
        strides = [1, 2, 1]
        layers: list[nn.Module] = []
        for before, after, stride in zip(channels, channels[1:], strides, strict=False):
            # Batch norm has its own shift, so the convolution needs no bias.
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, classes)."""
        features: Tensor = self.features(x)  # (n, 2 * width, height / 2, width / 2)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits
