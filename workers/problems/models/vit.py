"""A small vision transformer: patches as tokens, pre-norm encoder, mean over tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anon_tune.errors import InputError
from anon_tune.workers.problems.models.transformer import Block

__all__ = ["ViT"]


class ViT(nn.Module):
    """A transformer over patches; patches of 1 x width make each row of the image a token."""

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
        patch_height: int,
        patch_width: int,
    ) -> None:
        super().__init__()
        channels, rows, columns = shape
        if rows % patch_height or columns % patch_width:
            raise InputError(
                f"Patches of {patch_height}x{patch_width} do not tile an image of {rows}x{columns}; "
                "choose patch_height and patch_width that divide it."
            )
        patch = (patch_height, patch_width)
        self.embed = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        tokens = (rows // patch_height) * (columns // patch_width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, height, width) to (n, classes)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position  # (n, tokens, width)
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits
