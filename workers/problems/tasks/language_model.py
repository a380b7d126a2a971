"""Language modelling: tokens (n, length) in, the next token at each position out, cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.problems.data import Split, Text
from anon_tune.workers.problems.tasks.problem import Build, Problem, expect

__all__ = ["problem"]


def problem(text: Text, build: Build) -> Problem:
    """Return the problem of a text and a model."""
    return Problem(
        text.train,
        text.validation,
        text.test,
        partial(build, (text.length,), text.vocabulary),
        partial(_loss, vocabulary=text.vocabulary),
        partial(_metrics, vocabulary=text.vocabulary),
        _perplexity,
    )


def _logits(model: nn.Module, examples: Split, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return the logits (n * length, vocabulary) and their target tokens (n * length)."""
    tokens = examples.inputs.long()
    logits = expect(model(tokens), (*tokens.shape, vocabulary), tokens)
    return logits.flatten(0, 1), examples.targets.long().flatten()


def _loss(model: nn.Module, examples: Split, label_smoothing: float, vocabulary: int) -> Tensor:
    return F.cross_entropy(*_logits(model, examples, vocabulary), label_smoothing=label_smoothing)


def _metrics(model: nn.Module, examples: Split, vocabulary: int) -> dict[str, Tensor]:
    """Return the mean cross-entropy in nats per token, and the share of tokens that the model ranks first."""
    logits, targets = _logits(model, examples, vocabulary)
    return {
        "loss": F.cross_entropy(logits, targets),
        "accuracy": (logits.argmax(dim=1) == targets).float().mean(),
    }


def _perplexity(means: Mapping[str, float]) -> dict[str, float]:
    return {"perplexity": math.exp(min(means["loss"], 700.0))}  # beyond this, exp overflows a float
