"""A small vision transformer: patches as tokens, pre-norm encoder, mean over tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.errors import InputError

__all__ = ["ViT"]


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each behind a layer norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> (n, tokens, width)."""
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, width / heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(attended)
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


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
        if width % heads:
            raise InputError(f"width {width} is not a multiple of heads {heads}.")
        patch = (patch_height, patch_width)
        self.embed = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        tokens = (rows // patch_height) * (columns // patch_width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, classes)."""
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position  # (n, tokens, width)
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits
