"""A function to minimize: a model says a point (dimensions); the loss is the value there over that at the start.

A batch's gradient has noise on it, the mean of one draw for each example. The model says how far the point is from
the start, so that weight decay pulls towards the start: towards 0 it would pull towards the lowest point of some
functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from anon_tune.workers.problems.data import Split, Surface
from anon_tune.workers.problems.tasks.problem import Build, Problem, expect

__all__ = ["problem"]

_SEEN = "examples_seen"


def problem(surface: Surface, build: Build) -> Problem:
    """Return the problem of one function and one model."""
    return Problem(
        surface.train,
        surface.validation,
        surface.test,
        partial(_build, build, len(surface.lowest)),
        partial(_loss, surface=surface),
        partial(_metrics, surface=surface),
        partial(_in_its_unit, unit=surface.first_value),
    )


def _build(build: Build, dimensions: int) -> nn.Module:
    """The function moves with the examples that were trained on; their count is the model's, to be in checkpoints."""
    model = build((dimensions,), dimensions)
    model.register_buffer(_SEEN, torch.zeros((), dtype=torch.int64))
    return model


def _place(model: nn.Module, examples: Split, surface: Surface) -> Tensor:
    """The model's point (dimensions), as seen from a function that has moved."""
    away = expect(model(examples.inputs), tuple(surface.start.shape), examples.inputs)
    return surface.start.to(away) + away - surface.moved(model.get_buffer(_SEEN))


def _loss(model: nn.Module, examples: Split, label_smoothing: float, surface: Surface) -> Tensor:
    """Noise from torch's global random state is on the gradient alone; there are no labels to smooth."""
    place = _place(model, examples, surface)
    noise = surface.noise(examples).mean(0)
    if model.training:
        model.get_buffer(_SEEN).add_(len(examples))
    return surface.value(place) / surface.first_value + (noise * (place - place.detach())).sum()


def _metrics(model: nn.Module, examples: Split, surface: Surface) -> dict[str, Tensor]:
    place = _place(model, examples, surface)
    return {
        "loss": surface.value(place) / surface.first_value,
        "distance": (place - surface.lowest.to(place)).norm(),
    }


def _in_its_unit(means: Mapping[str, float], unit: float) -> dict[str, float]:
    return {"value": unit * means["loss"]}
