"""A decoder-only transformer of the shape of GPT-2 (Radford et al. 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anon_tune.workers.problems.models.transformer import Block

__all__ = ["GPT"]

_STD = 0.02


class GPT(nn.Module):
    """Token and position embeddings, causal pre-norm blocks, and a head that shares the embedding.

    Args:
        shape: Shape of one input: (length,), the longest context.
        classes: Size of the vocabulary.
        width: Width of the tokens.
        depth: Number of blocks.
        heads: Number of attention heads.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        (length,) = shape
        self.embed = nn.Embedding(classes, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)
        self.head.weight = self.embed.weight
        self.apply(_initialize)
        # The sum over the blocks has the same scale at any depth.
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "mlp.2.weight")):
                nn.init.normal_(parameter, std=_STD / math.sqrt(2 * depth))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (n, length) integers to (n, length, vocabulary)."""
        x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
