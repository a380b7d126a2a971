"""Optimizer of the check-up: it changes no parameter and measures gradients and learning rates. Needs torch alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from anon_tune.errors import InputError
from anon_tune.optim.groups import apply_lr_scales
from anon_tune.workers.trial.dry_run import FactoryArm, dry_run
from anon_tune.workers.trial.messages import GroupRates, OptimizerRun
from anon_tune.workers.trial.probe import PROBE_BATCHES

__all__ = ["Recorder"]

_CUSTOMARY = {"betas": (0.9, 0.999), "weight_decay": 0.0}
"""Keys of a param group that code around an optimizer expects, such as torch's OneCycleLR."""


class Recorder(Optimizer):
    """Optimizer that changes no parameter, measures the first gradients, and notes the learning rate of each step.

    Args:
        target: A model, parameters or param groups, as for `Context.optimizer`.
        lr: Learning rate.
        stepped: Is called after each step.
        arms: Arms with factories, which are tried at the first step.

    Attributes:
        steps: Number of steps.
    """

    def __init__(
        self,
        target: nn.Module | Iterable[Any],
        lr: float,
        stepped: Callable[[], None],
        arms: Sequence[FactoryArm],
    ) -> None:
        groups = target.parameters() if isinstance(target, nn.Module) else target
        super().__init__(groups, {"lr": lr, **_CUSTOMARY})
        apply_lr_scales(self)
        self._target = target
        self._arms = arms
        self._stepped = stepped
        self._squares: dict[Tensor, Tensor] = {}
        self._rates: list[list[float]] = []
        self.steps = 0
        self._weights = ""
        self._gradients: list[tuple[float, float]] = []

    @property
    def parameters(self) -> list[Tensor]:
        """Parameters of all groups."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @property
    def measured(self) -> OptimizerRun:
        """All that was measured."""
        bases = [group.get("initial_lr") for group in self.param_groups]
        groups = (
            GroupRates(used=tuple(used), base=None if base is None else float(base))
            for used, base in zip(self._rates, bases, strict=False)
        )
        return OptimizerRun(weights=self._weights, gradients=tuple(self._gradients), groups=tuple(groups))

    def mean_square(self, parameter: Tensor) -> Tensor:
        """Return the mean squared gradient of a parameter over the first steps, of its shape."""
        square = self._squares.get(parameter)
        if square is None:
            return torch.zeros_like(parameter, dtype=torch.float32)
        return square / min(self.steps, PROBE_BATCHES)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Measure the gradients. Raises InputError if one is sparse; or as `dry_run`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.steps:
            self._weights = _digest(self.parameters)
        if self.steps < PROBE_BATCHES:
            self._measure()
        self._note_rates()
        self.steps += 1
        arms, self._arms = self._arms, ()
        dry_run(arms, cast(nn.Module, self._target), closure)
        self._stepped()
        return loss

    def _measure(self) -> None:
        with_gradient = [each for each in self.parameters if each.grad is not None]
        gradients = [each.grad.detach() for each in with_gradient if each.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            raise InputError(
                "Anon needs dense gradients, and a parameter has a sparse one. Set sparse=False in nn.Embedding."
            )
        for parameter, gradient in zip(with_gradient, gradients, strict=True):
            square = gradient.float().square()
            before = self._squares.get(parameter)
            self._squares[parameter] = square if before is None else before.add_(square)
        self._gradients.append(_sketch(gradients))

    def _note_rates(self) -> None:
        for index, group in enumerate(self.param_groups):
            if index == len(self._rates):  # a new group: it had no learning rate before
                self._rates.append([0.0] * self.steps)
            self._rates[index].append(float(group["lr"]))


def _digest(tensors: Iterable[Tensor]) -> str:
    """Return a digest of the norms and sums of tensors: with the same values it is the same."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr(_norm_and_sum(tensor.detach())).encode())
    return found.hexdigest()[:16]


def _sketch(gradients: Iterable[Tensor]) -> tuple[float, float]:
    """Return the norm of all gradients, and their sums, each with a weight of its own, in one number.

    Both change with the gradients' rounding errors by about as much as the gradients do, relative to the norm.
    """
    pairs = [_norm_and_sum(gradient) for gradient in gradients]
    total = sum(part * math.cos(index + 1) for index, (_, part) in enumerate(pairs))
    return math.hypot(*(norm for norm, _ in pairs)), total


def _norm_and_sum(tensor: Tensor) -> tuple[float, float]:
    """Return the Euclidean norm and the sum of a tensor, in single precision or better."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    precision = torch.promote_types(real.dtype, torch.float32)
    return torch.linalg.vector_norm(real, dtype=precision).item(), real.sum(dtype=precision).item()
