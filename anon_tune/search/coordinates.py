"""Conversion of search coordinates to optimizer arguments.

The search uses the coordinates (gamma, step_size, decay) instead of (gamma, lr, weight_decay). A change of 0.1 in
gamma alone changes the length of Anon's step by a factor that depends on the model's gradients, so the best lr varies
by orders of magnitude over the range of gamma. With V(gamma) a typical multiplier at that gamma,

    lr = step_size / V(gamma)        weight_decay = decay * V(gamma)

so that lr * weight_decay = step_size * decay. V comes from the probe's gradient scale; see docs/search.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from anon_tune.search_spaces import DELAYS, Range, Space

__all__ = ["optimizer_arguments", "typical_multiplier"]


def typical_multiplier(gamma: float, log_mean_sigma: float) -> float:
    """Return V(gamma) = (mean over coordinates of sigma)^(-gamma/2), the gradient's RMS to the power of -gamma.

    With this candidate the best step size depends least on gamma, of all that were measured (docs/search.md).

    Args:
        gamma: Adaptivity.
        log_mean_sigma: Logarithm of the mean over the model's coordinates of sigma, which is the second moment of
            the gradient with the floor added; the probe measures it.
    """
    return math.exp(-0.5 * gamma * log_mean_sigma)


def optimizer_arguments(space: Space, params: Mapping[str, Any], log_mean_sigma: float) -> dict[str, Any]:
    """Return keyword arguments of the arm's optimizer, or of its factory, for one point of its space.

    A factory gets the values of the point and of `fixed` unchanged; whole numbers of choices, of integer ranges and
    of `fixed` are ints.

    Args:
        space: The arm's space.
        params: Values of its searched coordinates; those whose condition does not hold are ignored.
        log_mean_sigma: From the probe; only Anon's arguments depend on it.
    """
    if space.of_factory:
        return _factory_arguments(space, params)

    def given(name: str) -> float | str:
        return params[name] if name in params and space.active(name, params) else space.constant(name)

    def value(name: str) -> float:
        return float(given(name))

    if space.optimizer == "adamw":
        betas = (value("beta1"), 1.0 - value("one_minus_beta2"))
        return {"lr": value("lr"), "betas": betas, "eps": value("eps"), "weight_decay": value("weight_decay")}
    if space.optimizer == "sgd":
        return {"lr": value("lr"), "momentum": value("momentum"), "weight_decay": value("weight_decay")}
    multiplier = typical_multiplier(value("gamma"), log_mean_sigma)
    family = str(given("delay_family"))
    delay = value(DELAYS[family])
    return {
        "lr": value("step_size") / multiplier,
        "betas": (value("beta1"), value("beta2"), value("beta3")),
        "gamma": value("gamma"),
        "delay": delay if family == "geometric" else f"{family}:{int(delay) if family == 'every' else delay}",
        "eps": value("eps"),
        "floor": value("floor"),
        "weight_decay": value("decay") * multiplier,
    }


def _factory_arguments(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name, domain in space.parameters.items():
        if name in params and space.active(name, params):
            counted = not isinstance(domain, Range) or domain.integer
            arguments[name] = _whole(params[name]) if counted else params[name]
    return {**arguments, **{name: _whole(value) for name, value in space.fixed.items()}}


def _whole(value: float | str) -> int | float | str:
    """Return a whole number as the int that the user wrote; a space holds every number as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
