"""Param groups: what a user says of some parameters holds for the optimizer of any arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from anon_tune.errors import HyperparameterError, InputError

__all__ = ["LR_SCALE", "GroupedModel", "apply_lr_scales", "set_options"]

LR_SCALE = "lr_scale"
"""Key of a param group: its learning rate is so many times that of the optimizer, as in timm."""

_PER_PARAMETER = ("params", "param_names")
"""Keys of a param group whose values have an item for each parameter."""


class GroupedModel:
    """A model, and param groups of those of its parameters that are trained differently.

    Iterate over it to get the param groups of all its parameters, as torch's optimizers take them.

    Args:
        model: The model. All its parameters are trained.
        groups: Param groups: `params` and the options that differ from the optimizer's, such as
            `{"params": biases, "weight_decay": 0.0, "lr_scale": 0.1}`.

    Attributes:
        model: The argument `model`.

    Raises:
        InputError: `model` is not a model, a group has no `params`, or they are not parameters of the model or are
            in another group.
    """

    def __init__(self, model: Any, groups: Iterable[Mapping[str, Any]]) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(
                f"Param groups after the first argument need a model there, not a {type(model).__name__}."
            )
        self.model: nn.Module = model
        self._groups = [_with_params(group) for group in groups]
        self._options: dict[int, Mapping[str, Any]] = {}
        self._no_options: Mapping[str, Any] = {}
        known = {id(parameter) for parameter in model.parameters()}
        for group in self._groups:
            options = {key: group[key] for key in group if key != "params"}
            for parameter in group["params"]:
                if id(parameter) not in known:
                    raise InputError("A param group has a parameter that the model does not have.")
                if id(parameter) in self._options:
                    raise InputError("A parameter is in two param groups.")
                self._options[id(parameter)] = options

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the groups, and then one of all other parameters of the model."""
        others = [each for each in self.model.parameters() if id(each) not in self._options]
        yield from (dict(group) for group in self._groups if group["params"])
        if others:
            yield {"params": others}

    def options(self, parameter: Tensor) -> Mapping[str, Any]:
        """Return the options of a parameter's group; the same empty ones for all that are in none."""
        return self._options.get(id(parameter), self._no_options)


def set_options(optimizer: Optimizer, grouped: GroupedModel) -> None:
    """Set the options of a model's param groups in an optimizer that has groups of its own.

    Such a group is split if its parameters are in different groups of the model's. Call `apply_lr_scales` next.
    """
    for group in list(optimizer.param_groups):
        parts = list(_parts(group, grouped))
        for index, (part, options) in enumerate(parts):
            if index:
                optimizer.add_param_group({**part, **options})
            else:
                group.update({**part, **options})


def _parts(
    group: Mapping[str, Any], grouped: GroupedModel
) -> Iterator[tuple[dict[str, Any], Mapping[str, Any]]]:
    """Yield a group of an optimizer in parts whose parameters have the same options, with these options."""
    places: dict[int, list[int]] = {}
    found = [grouped.options(parameter) for parameter in group["params"]]
    for place, options in enumerate(found):
        places.setdefault(id(options), []).append(place)
    for each in places.values():
        lists = {key: [group[key][place] for place in each] for key in _PER_PARAMETER if key in group}
        yield {**group, **lists}, found[each[0]]


def apply_lr_scales(optimizer: Optimizer) -> None:
    """Multiply the learning rate of each group by its `lr_scale`, and remove that key, since it is done.

    Schedules of torch then start from the group's own learning rate.

    Raises:
        HyperparameterError: An `lr_scale` is not a finite number >= 0.
    """
    for group in optimizer.param_groups:
        if LR_SCALE not in group:
            continue
        scale = group.pop(LR_SCALE)
        if isinstance(scale, bool) or not isinstance(scale, Real) or not 0.0 <= float(scale) < math.inf:
            raise HyperparameterError(
                f"lr_scale of a param group must be a finite number >= 0, not {scale!r}"
            )
        if "lr" not in group:
            raise InputError("A param group has lr_scale and no lr. Give it an lr.")
        group["lr"] = group["lr"] * float(scale)


def _with_params(group: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(group, Mapping) or "params" not in group:
        raise InputError('A param group is a dictionary with the key "params" and the options that differ.')
    params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    return {**group, "params": [each[1] if isinstance(each, tuple) else each for each in params]}
