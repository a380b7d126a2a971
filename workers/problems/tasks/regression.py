"""Regression: rows of numbers (n, columns) in, a number (n) out, squared error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from anon_tune.workers.problems.data import Split, Table
from anon_tune.workers.problems.tasks.problem import Build, Problem, expect

__all__ = ["problem"]


def problem(table: Table, build: Build) -> Problem:
    """Return the problem of a table and a model."""
    return Problem(
        table.train,
        table.validation,
        table.test,
        partial(build, table.shape, 1),
        _loss,
        _metrics,
        partial(_in_its_unit, deviation=table.deviation),
    )


def _loss(model: nn.Module, examples: Split, label_smoothing: float) -> Tensor:
    """Return the mean squared error of the standardized target, which has no labels to smooth."""
    found = expect(model(examples.inputs), (len(examples), 1), examples.inputs)
    return F.mse_loss(found.squeeze(1), examples.targets)


def _metrics(model: nn.Module, examples: Split) -> dict[str, Tensor]:
    return {"loss": _loss(model, examples, 0.0)}


def _in_its_unit(means: Mapping[str, float], deviation: float) -> dict[str, float]:
    return {"rmse": deviation * math.sqrt(means["loss"])}
