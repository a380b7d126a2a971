"""Minimization of a function: the model is a point (dimensions), and the loss is its value over that at the start.

A batch's gradient has noise, the mean of one draw for each example. The model holds the displacement from the start,
so weight decay pulls towards the start; a pull towards 0 would lead to the minimum of some functions.
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
    """Build the model with a count of training examples, which checkpoints include and which moves the function."""
    model = build((dimensions,), dimensions)
    model.register_buffer(_SEEN, torch.zeros((), dtype=torch.int64))
    return model


def _place(model: nn.Module, examples: Split, surface: Surface) -> Tensor:
    """Return the model's point (dimensions), relative to the moved function."""
    away = expect(model(examples.inputs), tuple(surface.start.shape), examples.inputs)
    return surface.start.to(away) + away - surface.moved(model.get_buffer(_SEEN))


def _loss(model: nn.Module, examples: Split, label_smoothing: float, surface: Surface) -> Tensor:
    """Return the loss with noise, from torch's global random state, on the gradient only; there are no labels."""
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
