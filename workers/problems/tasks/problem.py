"""A training problem: three splits of data, a model factory, a loss and metrics."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from anon_tune.catalogue import TASKS, Kind, resolve
from anon_tune.documents import is_function, unknown
from anon_tune.errors import InputError
from anon_tune.workers.problems.data import Examples, Split, read_images, read_surface, read_table, read_text
from anon_tune.workers.problems.models import build_model

__all__ = ["Build", "Problem", "expect", "load_problem"]


_LARGEST_BATCH = 2**24
"""Most input numbers that are evaluated at once, because several batches of large images may be waiting."""

Build = Callable[[tuple[int, ...], int], nn.Module]
"""Function that makes a model for the shape of one input and a number of outputs."""


def expect(outputs: object, shape: tuple[int, ...], inputs: Tensor) -> Tensor:
    """Return a model's output as a tensor of this shape, in 32 bits at least for the loss.

    Raises:
        InputError: The output is not a tensor of this shape.
    """
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if not isinstance(outputs, Tensor) or found != shape:
        raise InputError(
            f"The model returned {found} for inputs of shape {tuple(inputs.shape)}; this data needs a tensor of "
            f"shape {shape}."
        )
    return outputs.float() if outputs.dtype in {torch.bfloat16, torch.float16} else outputs


def _nothing(_means: Mapping[str, float]) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Problem:
    """A training problem for the training loop.

    Attributes:
        train: Data to train on.
        validation: Data that selects configurations.
        test: Data that only the verdict uses.
        build_model: Makes a freshly initialized model from torch's global random state.
        loss: Maps (model, examples, label_smoothing) to the mean loss over the examples, a scalar with a gradient.
        metrics: Maps (model, examples) to each metric's mean over the examples, a scalar.
        derive: Maps means over a whole split to metrics that are not means, such as perplexity.
    """

    train: Examples
    validation: Examples
    test: Examples
    build_model: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Split, float], Tensor]
    metrics: Callable[[nn.Module, Split], Mapping[str, Tensor]]
    derive: Callable[[Mapping[str, float]], Mapping[str, float]] = _nothing

    def to(self, device: torch.device) -> Problem:
        """Return the problem with its data on a device."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return dataclasses.replace(self, **splits)

    @torch.no_grad()
    def measure(
        self, model: nn.Module, split: Examples, batch_size: int = 1024, batches: int | None = None
    ) -> dict[str, float]:
        """Return all metrics over a split; the model stays in its mode (training or evaluation).

        Args:
            model: A model of the problem.
            split: One of its splits.
            batch_size: Examples at once, at most; fewer where they are large.
            batches: The number of batches to use, from the first, at least 1.
        """
        totals: dict[str, Tensor] = {}
        count = 0
        at_once = min(batch_size, max(1, _LARGEST_BATCH // math.prod(split.shape)))
        for examples in itertools.islice(split.batches(at_once), batches):
            count += len(examples)
            for name, mean in self.metrics(model, examples).items():
                totals[name] = totals.get(name, 0.0) + mean.double() * len(examples)
        means = {name: total.item() / count for name, total in totals.items()}
        return {**means, **self.derive(means)}


def load_problem(
    task: str,
    data: str,
    model: str,
    options: Mapping[str, Any],
    data_options: Mapping[str, Any] | None = None,
    folder: str | None = None,
    num_workers: int = 0,
) -> Problem:
    """Return the problem of a job.

    Args:
        task: A task of the catalogue.
        data: A data set of the task, or the user's function; see data.user_data.
        model: A model of the task, or the user's function; see build_model.
        options: Options of the model that differ from its defaults.
        data_options: Options of the data that differ from its defaults.
        folder: Folder to search first for the user's module.
        num_workers: Processes that make the user's examples, unless they are held in memory.

    Raises:
        InputError: The task, data set, model or an option is unknown, or the data cannot be read.
    """
    if task not in TASKS:
        raise InputError(unknown("task", task, TASKS))
    if data not in TASKS[task].datasets and not (is_function(data) and TASKS[task].own_data):
        raise InputError(unknown(f"data set of {task}", data, TASKS[task].datasets))
    if model not in TASKS[task].models and not is_function(model):
        raise InputError(unknown(f"model of {task}", model, TASKS[task].models))
    entry = TASKS[task]

    def build(shape: tuple[int, ...], outputs: int) -> nn.Module:
        return build_model(model, shape, outputs, options, folder)

    source = data, data_options or {}, folder, num_workers
    read: Mapping[Kind, Callable[[], object]] = {
        "images": lambda: read_images(*source, labelled=entry.labelled),
        "surface": lambda: read_surface(data, data_options or {}),
        "table": lambda: read_table(*source),
        "text": lambda: read_text(*source),
    }
    problem: Problem = resolve(entry.problem)(read[entry.kind](), build)
    return problem
