"""A training problem: three splits of data, a model factory, and a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anon_tune.catalogue import TASKS
from anon_tune.documents import unknown
from anon_tune.errors import InputError
from anon_tune.workers.data import Split

__all__ = ["Problem", "load_problem"]


def _unchanged(inputs: Tensor) -> Tensor:
    return inputs


@dataclass(frozen=True)
class Problem:
    """What the training loop needs of a task.

    Attributes:
        train: What the model is fitted to.
        validation: What configurations are chosen by.
        test: What only the verdict looks at.
        build_model: Makes a freshly initialized model from torch's global random state.
        loss: (outputs, targets, label_smoothing) -> scalar tensor.
        metrics: (outputs, targets) -> metric name to value, over a whole split.
        prepare: Inputs of a split, as they are stored -> inputs of the model.
    """

    train: Split
    validation: Split
    test: Split
    build_model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor, float], Tensor]
    metrics: Callable[[Tensor, Tensor], Mapping[str, float]]
    prepare: Callable[[Tensor], Tensor] = _unchanged

    def to(self, device: torch.device) -> Problem:
        """Return the problem with its data on a device."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return dataclasses.replace(self, **splits)

    def batch(self, split: Split, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return (inputs of the model, targets) of some examples of a split."""
        chosen = split[index]
        return self.prepare(chosen.inputs), chosen.targets


def load_problem(
    task: str,
    data: str,
    model: str,
    options: Mapping[str, Any],
    data_options: Mapping[str, Any] | None = None,
) -> Problem:
    """Return the problem of a job.

    Args:
        task: One of the catalogue.
        data: A data set of the catalogue.
        model: A model of the catalogue.
        options: Of the model, those that differ from its defaults.
        data_options: Of the data, likewise.

    Raises:
        InputError: The task, data set, model or an option is unknown, or the data cannot be read.
    """
    if task not in TASKS:
        raise InputError(unknown("task", task, TASKS))
    from anon_tune.workers.tasks import image_classification

    return image_classification.problem(data, data_options or {}, model, options)
