"""Regression: rows of numbers (n, columns) in, a number (n) out, squared error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.data import Split, read_table
from anon_tune.workers.models import build_model
from anon_tune.workers.tasks.problem import Problem

__all__ = ["problem"]


def problem(
    data: str, data_options: Mapping[str, Any], model: str, model_options: Mapping[str, Any]
) -> Problem:
    """Return the problem of one table and one model. Raises as read_table and build_model."""
    table = read_table(data, data_options)
    return Problem(
        table.train,
        table.validation,
        table.test,
        partial(build_model, model, (table.columns,), 1, model_options),
        _loss,
        _metrics,
        partial(_in_its_unit, deviation=table.deviation),
    )


def _loss(model: nn.Module, examples: Split, label_smoothing: float) -> Tensor:
    """Mean squared error of the standardized target, which has no labels to smooth."""
    return F.mse_loss(model(examples.inputs).squeeze(1), examples.targets)


def _metrics(model: nn.Module, examples: Split) -> dict[str, Tensor]:
    return {"loss": _loss(model, examples, 0.0)}


def _in_its_unit(means: Mapping[str, float], deviation: float) -> dict[str, float]:
    return {"rmse": deviation * math.sqrt(means["loss"])}
