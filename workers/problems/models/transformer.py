"""The transformer block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.errors import InputError

__all__ = ["Block"]


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each behind a layer norm and added to its input.

    Raises:
        InputError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        if width % heads:
            raise InputError(f"width {width} is not a multiple of heads {heads}.")
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, tokens, width) to (n, tokens, width)."""
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, width / heads)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(attended.transpose(1, 2).reshape(n, tokens, width))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed
