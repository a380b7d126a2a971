"""Language modelling: tokens (n, length) in, the token that follows each out, cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.data import Split, read_text
from anon_tune.workers.models import build_model
from anon_tune.workers.tasks.problem import Problem

__all__ = ["problem"]


def problem(
    data: str, data_options: Mapping[str, Any], model: str, model_options: Mapping[str, Any]
) -> Problem:
    """Return the problem of one text and one model. Raises as read_text and build_model."""
    text = read_text(data, data_options)
    return Problem(
        text.train,
        text.validation,
        text.test,
        partial(build_model, model, (text.length,), text.vocabulary, model_options),
        _loss,
        _metrics,
        _perplexity,
    )


def _logits(model: nn.Module, examples: Split) -> tuple[Tensor, Tensor]:
    """Logits (n * length, vocabulary) and the tokens (n * length) that they are about."""
    return model(examples.inputs.long()).flatten(0, 1), examples.targets.long().flatten()


def _loss(model: nn.Module, examples: Split, label_smoothing: float) -> Tensor:
    return F.cross_entropy(*_logits(model, examples), label_smoothing=label_smoothing)


def _metrics(model: nn.Module, examples: Split) -> dict[str, Tensor]:
    """Mean cross-entropy in nats a token, and the share of tokens that are the most likely one."""
    logits, targets = _logits(model, examples)
    return {
        "loss": F.cross_entropy(logits, targets),
        "accuracy": (logits.argmax(dim=1) == targets).float().mean(),
    }


def _perplexity(means: Mapping[str, float]) -> dict[str, float]:
    return {"perplexity": math.exp(min(means["loss"], 700.0))}  # beyond which a float has no room
