"""A recurrent language model."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LSTM"]


class LSTM(nn.Module):
    """Embedding, LSTM layers from a state of zeros, linear.

    Args:
        shape: Of one input: (length,); any length will do.
        classes: Size of the vocabulary.
        width: Of the embedding and of the state.
        depth: Layers.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, width)
        self.lstm = nn.LSTM(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, length) integers -> (n, length, vocabulary)."""
        states, _ = self.lstm(self.embed(tokens))  # (n, length, width)
        logits: Tensor = self.head(states)
        return logits
