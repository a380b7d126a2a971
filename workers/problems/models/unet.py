"""A small U-Net that predicts the noise in an image (as of Ho et al. 2020, arXiv 2006.11239)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.errors import InputError

__all__ = ["UNet"]

_GROUPS = 4
_LONGEST_PERIOD = 10_000.0


class Block(nn.Module):
    """Two 3x3 convolutions with group norm, shifted by the time in between, added to the input."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(time, after)
        self.norm2 = nn.GroupNorm(_GROUPS, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (n, before, height, width) and (n, time) to (n, after, height, width)."""
        y = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        mixed: Tensor = self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))
        return mixed


class UNet(nn.Module):
    """A contracting path that halves the size, a block at the bottom, and an expanding path with skip connections.

    Args:
        shape: Shape of one image: (channels, height, width); both sizes a multiple of 2 ** (depth - 1).
        classes: Ignored, because the output is an image.
        width: Channels at full size, a multiple of 4; twice as many at each smaller size.
        depth: Number of sizes.

    Raises:
        InputError: The sizes do not fit.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        channels, height, columns = shape
        if height % 2 ** (depth - 1) or columns % 2 ** (depth - 1):
            raise InputError(
                f"An image of {height}x{columns} cannot be halved {depth - 1} times; lower model.depth."
            )
        if width % _GROUPS:
            raise InputError(f"width {width} is not a multiple of {_GROUPS}, the groups of its norms.")
        widths = [width * 2**level for level in range(depth)]
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        before = [width, *widths[:-1]]
        self.down = nn.ModuleList(Block(b, w, 4 * width) for b, w in zip(before, widths, strict=True))
        self.middle = Block(widths[-1], widths[-1], 4 * width)
        self.up = nn.ModuleList(
            Block(2 * w, b, 4 * width) for b, w in reversed(list(zip(before, widths, strict=True)))
        )
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.head = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map images (n, channels, height, width) and times (n) in [0, 1] to noise of the images' shape."""
        time = F.silu(self.time(_waves(t, self.width)))
        x = self.stem(x)
        seen = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.avg_pool2d(x, 2), time)
            seen.append(x)
        x = self.middle(x, time)
        for level, block in enumerate(self.up):
            x = block(torch.cat([x, seen.pop()], dim=1), time)
            if level < len(self.up) - 1:
                x = F.interpolate(x, scale_factor=2.0)
        noise: Tensor = self.head(F.silu(self.norm(x)))
        return noise


def _waves(t: Tensor, width: int) -> Tensor:
    """Return sines and cosines (n, width) of times in [0, 1], counted as 1,000 steps."""
    exponents = torch.arange(width // 2, device=t.device) / (width // 2)
    angles = 1000.0 * t[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
