"""Uses of advice: a configuration to start from, and a job's first points."""

from __future__ import annotations

from typing import Any

from anon_tune.advice.statement import Advice, Start
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search_spaces import Range, Space, load_space, space_names

__all__ = ["first_points", "start_of"]

_CUSTOMARY = (0.0, 1.0)
_DIGITS = 3


def first_points(space: Space, gamma: float) -> Space:
    """Return Anon's space with an advised gamma among the start points.

    The points at gamma 0 and gamma 1 stay. The others, which try a longer and a shorter step at a gamma in between,
    move to the advised gamma, so advice costs no extra trial.

    Args:
        space: A space that comes with anon_tune, for one family.
        gamma: The advised gamma, which is clipped to the space's range.
    """
    domain = space.parameters.get("gamma")
    if not isinstance(domain, Range):
        return space
    advised = min(max(gamma, domain.low), domain.high)
    points = tuple(
        point if point.get("gamma") in _CUSTOMARY else {**point, "gamma": advised}
        for point in space.start_points
    )
    return space.model_copy(update={"start": {"default": points}}) if points else space


def start_of(advice: Advice, log_mean_sigma: float) -> Start | None:
    """Return the optimizer that the advice suggests; None if the advice has no gamma.

    Args:
        advice: Advice for the model.
        log_mean_sigma: Scale of the model's gradients, from the probe.
    """
    if advice.gamma is None:
        return None
    space = load_space(advice.family if advice.family in space_names() else "default")
    params: dict[str, Any] = {**space.start_points[0], "gamma": advice.gamma}
    if advice.step_size is not None:
        params["step_size"] = advice.step_size
    hyperparameters = {
        name: _short(value) for name, value in optimizer_arguments(space, params, log_mean_sigma).items()
    }
    given = ", ".join(f"{name}={value!r}" for name, value in hyperparameters.items())
    return Start(hyperparameters=hyperparameters, line=f"Anon(model.parameters(), {given})")


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_short(each) for each in value)
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
