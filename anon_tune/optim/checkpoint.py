"""Checks that saved state is Anon's and fits the parameters that it is loaded for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from anon_tune.errors import InputError

__all__ = ["STATE", "check_state_dict"]

_MOMENTUM = frozenset({"step", "exp_avg"})
_ADAPTIVE = _MOMENTUM | {"exp_avg_sq", "multiplier"}
STATE = _ADAPTIVE
"""Names of Anon's own state; a wrapper may keep more beside it."""

_START_AFRESH = "do not call load_state_dict, and Anon starts with fresh state"


def check_state_dict(source: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise if Anon cannot continue these param groups from a state dictionary.

    torch checks the numbers of groups and of parameters afterwards.

    Args:
        source: The `state_dict` of some optimizer.
        groups: The param groups of the optimizer that loads it.

    Raises:
        InputError: The state is another optimizer's, or its shapes do not match the parameters.
    """
    for saved, group in zip(source["param_groups"], groups, strict=False):
        if "gamma" not in saved:
            raise InputError(f"this state is {_owner(saved)}, which Anon cannot load; {_START_AFRESH}")
        for i, p in zip(saved["params"], group["params"], strict=False):
            state = source["state"].get(i)
            if state:
                _check_tensors(i, state, p)


def _owner(saved: Mapping[str, Any]) -> str:
    """Return whose param group this is, as far as its options tell."""
    if "dampening" in saved:
        return "SGD's"
    return "Adam's or AdamW's" if "amsgrad" in saved else "another optimizer's"


def _check_tensors(i: Any, state: Mapping[str, Any], p: Tensor) -> None:
    own = {name: value for name, value in state.items() if name in STATE}
    tensors = all(
        isinstance(t, Tensor) or (name == "step" and isinstance(t, Real)) for name, t in own.items()
    )
    if set(own) not in (set(), _MOMENTUM, _ADAPTIVE) or not tensors:
        raise InputError(
            f"The state of parameter {i} holds {', '.join(sorted(state))}; Anon needs the tensors step, exp_avg "
            f"and, unless gamma is 0, exp_avg_sq and multiplier. To start afresh, do not call load_state_dict."
        )
    for name, value in own.items():
        expected = () if name == "step" else tuple(p.shape)
        if isinstance(value, Tensor) and tuple(value.shape) != expected:
            raise InputError(
                f"{name} of parameter {i} has shape {tuple(value.shape)}, not {expected}: this state was saved for "
                "another model; build that model, or do not call load_state_dict"
            )
