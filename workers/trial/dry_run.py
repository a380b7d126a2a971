"""Dry run of the user's factories before the first trial. Needs torch alone."""

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
from anon_tune.optim.groups import GroupedModel

__all__ = ["FactoryArm", "dry_run"]

_SHOWN = 3


@dataclass(frozen=True)
class FactoryArm:
    """An arm whose optimizer is created by a user's function.

    Attributes:
        name: Name of the arm.
        optimizer: The factory, "module:function".
        file: File of the arm's space, for messages.
        folder: Folder to search first for the factory's module.
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
    """Create each arm's optimizer for a model with gradients, make one step, and undo it.

    Args:
        arms: The arms to try.
        model: The model to train, perhaps with param groups. Anything else is an error: a factory needs a model.
        closure: Closure for the steps, if the training uses one.

    Raises:
        InputError: A factory cannot be called with its hyperparameters, raises an error, does not return an
            optimizer, or leaves out parameters. The message names the arm and the file of its space.
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
    model = model.model if isinstance(model, GroupedModel) else model
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
        raise InputError(
            f"{factory}: a param group has no lr. Each needs one, since the schedule changes it."
        )
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    left = [name for name, parameter in wanted.items() if id(parameter) not in trained]
    if left and len(left) == len(wanted):
        raise InputError(
            f"{factory} trains no parameter of the model. Use the parameters of the model that is passed to it."
        )
    if left:
        shown = ", ".join(left[:_SHOWN]) + (f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
        raise InputError(
            f"{factory} leaves out {shown}. Put each parameter into a group, or freeze it in the model "
            "(requires_grad_(False))."
        )
