"""A training problem: three splits of data, a model factory, and a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anon_tune.catalogue import DATASETS, TASKS
from anon_tune.documents import unknown
from anon_tune.errors import InputError

__all__ = ["Problem", "Split", "load_problem"]


@dataclass(frozen=True)
class Split:
    """Examples of one split: inputs (n, ...) and targets (n, ...), on one device."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> Split:
        """Return the split on a device."""
        return Split(self.inputs.to(device), self.targets.to(device))


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
    """

    train: Split
    validation: Split
    test: Split
    build_model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor, float], Tensor]
    metrics: Callable[[Tensor, Tensor], Mapping[str, float]]

    def to(self, device: torch.device) -> Problem:
        """Return the problem with its data on a device."""
        return Problem(
            self.train.to(device),
            self.validation.to(device),
            self.test.to(device),
            self.build_model,
            self.loss,
            self.metrics,
        )


def load_problem(task: str, data: str, model: str, options: Mapping[str, Any]) -> Problem:
    """Return the problem of a job.

    Raises:
        InputError: The task, data set or model is unknown.
    """
    if task not in TASKS:
        raise InputError(unknown("task", task, TASKS))
    if data not in DATASETS:
        raise InputError(unknown("data set", data, DATASETS))
    from anon_tune.workers.tasks import image_classification

    return image_classification.problem(data, model, options)
