"""A recurrent language model."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LSTM"]


class LSTM(nn.Module):
    """Embedding, LSTM layers from a state of zeros, linear.

    Args:
        shape: Shape of one input: (length,); any length works.
        classes: Size of the vocabulary.
        width: Width of the embedding and of the state.
        depth: Number of layers.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, width)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (n, length) integers to (n, length, vocabulary)."""
        states, _ = self.lstm(self.embed(tokens))  # (n, length, width)
        logits: Tensor = self.head(states)
        return logits
