"""A training problem: three splits of data, a model factory, and what is minimized and measured."""

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


def _nothing(_means: Mapping[str, float]) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Problem:
    """What the training loop needs of a task.

    Attributes:
        train: What the model is fitted to.
        validation: What configurations are chosen by.
        test: What only the verdict looks at.
        build_model: Makes a freshly initialized model from torch's global random state.
        loss: (model, examples, label_smoothing) -> mean loss over the examples, a scalar with a gradient.
        metrics: (model, examples) -> metric name to its mean over the examples, a scalar.
        derive: Means over a whole split -> metrics that are no means, such as perplexity.
    """

    train: Split
    validation: Split
    test: Split
    build_model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Split, float], Tensor]
    metrics: Callable[[nn.Module, Split], Mapping[str, Tensor]]
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] = _nothing

    def to(self, device: torch.device) -> Problem:
        """Return the problem with its data on a device."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return dataclasses.replace(self, **splits)

    @torch.no_grad()
    def measure(self, model: nn.Module, split: Split, batch_size: int = 1024) -> dict[str, float]:
        """Return all metrics over a split, of the model as it is (in evaluation mode or not)."""
        totals: dict[str, Tensor] = {}
        for start in range(0, len(split), batch_size):
            examples = split[start : start + batch_size]
            for name, mean in self.metrics(model, examples).items():
                totals[name] = totals.get(name, 0.0) + mean.double() * len(examples)
        means = {name: total.item() / len(split) for name, total in totals.items()}
        return {**means, **self.derive(means)}


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
        data: A data set of the task.
        model: A model of the task.
        options: Of the model, those that differ from its defaults.
        data_options: Of the data, likewise.

    Raises:
        InputError: The task, data set, model or an option is unknown, or the data cannot be read.
    """
    if task not in TASKS:
        raise InputError(unknown("task", task, TASKS))
    for kind, name, known in (("data set", data, TASKS[task].datasets), ("model", model, TASKS[task].models)):
        if name not in known:
            raise InputError(unknown(f"{kind} of {task}", name, known))
    from anon_tune.workers.tasks import diffusion, image_classification, language_model, regression

    problem = {
        "diffusion": diffusion.problem,
        "image_classification": image_classification.problem,
        "language_model": language_model.problem,
        "regression": regression.problem,
    }[task]
    return problem(data, data_options or {}, model, options)
