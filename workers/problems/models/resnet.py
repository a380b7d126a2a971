"""Residual networks for small images (He et al. 2016, arXiv 1512.03385)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ResNet", "resnet18", "resnet20"]


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to the input; the first may halve the size."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, before, height, width) to (n, after, height / stride, width / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 convolution, stages of residual blocks with twice the width and half the size each, pooling, linear.

    Args:
        shape: Shape of one image: (channels, height, width).
        classes: Number of outputs.
        width: Channels of the first stage.
        blocks: Number of blocks of each stage.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                after = width * 2**stage
                stages.append(Block(channels, after, stride=2 if stage and not block else 1))
                channels = after
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, classes)."""
        features: Tensor = self.stages(F.relu(self.norm(self.stem(x))))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


def resnet18(shape: tuple[int, ...], classes: int, *, width: int) -> ResNet:
    """Return ResNet-18: four stages of two blocks."""
    return ResNet(shape, classes, width=width, blocks=(2, 2, 2, 2))


def resnet20(shape: tuple[int, ...], classes: int, *, width: int) -> ResNet:
    """Return ResNet-20 of He et al. for CIFAR-10: three stages of three blocks."""
    return ResNet(shape, classes, width=width, blocks=(3, 3, 3))
