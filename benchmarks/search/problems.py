"""The real trainings whose surfaces are recorded: digits, Fashion-MNIST, tinyshakespeare."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.problems.data import Split
from anon_tune.workers.problems.models import build_model
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.problems.tasks.image_classification import loss as image_loss
from anon_tune.workers.problems.tasks.image_classification import metrics as image_metrics

__all__ = ["TRAININGS", "RecordedTraining"]

_EXAMPLES = 4096
_HELD_OUT = 2048
_WINDOWS = 1024
_CONTEXT = 32


@dataclass(frozen=True)
class RecordedTraining:
    """One training whose surface is recorded; `make` takes the folder of the data sets."""

    make: Callable[[Path], Problem]
    epochs: int
    batch_size: int = 64


class SmallGPT(nn.Module):
    """A pre-norm causal transformer over characters, two layers of width 32."""

    def __init__(self, vocabulary: int, width: int = 32, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(_CONTEXT, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, vocabulary)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(_CONTEXT))

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, context) -> (n, vocabulary, context): classes second, as cross-entropy wants them."""
        hidden = self.blocks(self.embed(tokens) + self.position, mask=self.mask, is_causal=True)
        return self.head(hidden).transpose(1, 2)


def _digits(model: str, options: Mapping[str, int]) -> Callable[[Path], Problem]:
    return lambda folder: load_problem("image_classification", "digits", model, options)


def _fashion(folder: Path) -> Problem:
    """Fashion-MNIST from its published IDX files; a fixed subset, scaled by the training images."""

    def read(name: str, header: int) -> np.ndarray:
        raw = gzip.decompress((folder / "fashion-mnist" / name).read_bytes())
        return np.frombuffer(raw, np.uint8, offset=header)

    images = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
    classes = read("train-labels-idx1-ubyte.gz", 8)
    train, held_out = slice(0, _EXAMPLES), slice(_EXAMPLES, _EXAMPLES + _HELD_OUT)
    test = slice(_EXAMPLES + _HELD_OUT, _EXAMPLES + 3 * _HELD_OUT)
    mean, std = images[train].mean(), images[train].std()

    def split(where: slice) -> Split:
        inputs = torch.tensor((images[where] - mean) / std, dtype=torch.float32)
        return Split(F.avg_pool2d(inputs, 2), torch.tensor(classes[where], dtype=torch.int64))  # 14 x 14

    def model() -> nn.Module:
        return build_model("cnn", (1, 14, 14), 10, {"width": 8})

    return Problem(
        split(train),
        split(held_out),
        split(test),
        model,
        partial(image_loss, classes=10),
        partial(image_metrics, classes=10),
    )


def _shakespeare(folder: Path) -> Problem:
    """Characters of tinyshakespeare: the next one from those before, in windows of 32."""
    text = (folder / "tinyshakespeare" / "input.txt").read_text()
    letters = sorted(set(text))
    windows = torch.tensor([letters.index(letter) for letter in text[: 4 * _WINDOWS * _CONTEXT]])
    windows = windows.view(-1, _CONTEXT)
    # The window's own letters are the targets, one later; the last has none, and stands for a line's end.
    targets = torch.cat([windows[:, 1:], windows[:, :1]], dim=1)
    targets[:, -1] = -100

    def split(where: slice) -> Split:
        return Split(windows[where], targets[where])

    def loss(model: nn.Module, examples: Split, smoothing: float) -> Tensor:
        return F.cross_entropy(model(examples.inputs), examples.targets, label_smoothing=smoothing)

    def metrics(model: nn.Module, examples: Split) -> dict[str, Tensor]:
        return {"loss": loss(model, examples, 0.0)}

    held_out, test = slice(_WINDOWS, 2 * _WINDOWS), slice(2 * _WINDOWS, None)
    return Problem(
        split(slice(0, _WINDOWS)),
        split(held_out),
        split(test),
        lambda: SmallGPT(len(letters)),
        loss,
        metrics,
    )


TRAININGS: Mapping[str, RecordedTraining] = {
    "digits-cnn": RecordedTraining(_digits("cnn", {}), epochs=12),
    "digits-transformer": RecordedTraining(_digits("vit_tiny", {}), epochs=12),
    "fashion-cnn": RecordedTraining(_fashion, epochs=9),
    "shakespeare-gpt": RecordedTraining(_shakespeare, epochs=9, batch_size=32),
}
"""Name of a surface -> its training; the last two need the files of their data sets."""
