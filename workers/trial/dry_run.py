"""The arms that the user's factories make, tried before the first trial. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from anon_tune.errors import InputError
from anon_tune.optim import make_optimizer

__all__ = ["FactoryArm", "dry_run"]

_SHOWN = 3


@dataclass(frozen=True)
class FactoryArm:
    """An arm whose optimizer a function of the user makes.

    Attributes:
        name: Of the arm.
        optimizer: The factory, "module:function".
        file: Where the user wrote its space, for messages.
        folder: Where its module is looked for first.
        points: Hyperparameters to try it with.
    """

    name: str
    optimizer: str
    file: str | PathLike[str]
    folder: str | None
    points: Sequence[Mapping[str, Any]]


def dry_run(
    arms: Iterable[FactoryArm], model: nn.Module | Iterable[Any], closure: Callable[[], Any] | None = None
) -> None:
    """Make each arm's optimizer for a model that has its gradients, let it make one step, and take that back.

    Args:
        arms: Which.
        model: What the arm is to train; it is a mistake if it is no model, since a factory takes nothing else.
        closure: For the steps, where the training gives them one.

    Raises:
        InputError: A factory cannot be called with its hyperparameters, what it makes is no optimizer or does not
            train the whole model, or an error was raised in it; names the arm and the file of its space.
    """
    for arm in arms:
        for hyperparameters in arm.points:
            try:
                _try(arm, model, hyperparameters, closure)
            except InputError as error:
                raise InputError(f"arm {arm.name} ({arm.file}): {error}") from error
            except Exception as error:
                what = f"{arm.optimizer} failed: {type(error).__name__}: {error}"
                raise InputError(f"arm {arm.name} ({arm.file}): {what}") from error


def _try(
    arm: FactoryArm, model: Any, hyperparameters: Mapping[str, Any], closure: Callable[[], Any] | None
) -> None:
    optimizer = make_optimizer(arm.optimizer, model, hyperparameters, arm.folder)
    _check_groups(arm.optimizer, optimizer, model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    try:
        if closure is None:
            optimizer.step()
        else:
            optimizer.step(closure)
    finally:
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.copy_(old)


def _check_groups(factory: str, optimizer: Optimizer, model: nn.Module) -> None:
    if not all("lr" in group for group in optimizer.param_groups):
        raise InputError(f"{factory}: a param group has no lr; the schedule moves it, so each needs one.")
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    left = [name for name, parameter in wanted.items() if id(parameter) not in trained]
    if left and len(left) == len(wanted):
        raise InputError(
            f"{factory} trains no parameter of the model; take them from the model that it is given."
        )
    if left:
        shown = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
        raise InputError(
            f"{factory} leaves out {shown}; put each parameter into a group, or freeze it in the model "
            "(requires_grad_(False))."
        )
