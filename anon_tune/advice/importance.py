"""Importance of the coordinates that only Anon has, by joint draws from the arm's landscape.

The cost of a customary value compares two fixed places: the expected minimum with that value, and the expected
minimum overall. So noise alone does not make it large.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from anon_tune.answer import Customary, Interval
from anon_tune.search.landscape import Landscape
from anon_tune.search.scale import Scale
from anon_tune.search_spaces import Space

__all__ = ["LEVEL", "customary_values", "interval"]

LEVEL = 0.9
"""Probability with which a difference lies in its interval."""

_COMPARED = ("beta3", "delay")
_DRAWS = 256

Array = NDArray[np.float64]


def customary_values(landscape: Landscape, scale: Scale) -> Iterator[Customary]:
    """Yield the cost of the optimizer's default beta3 and delay when all else is tuned, if the space has them.

    Args:
        landscape: Anon's landscape; it must be known.
        scale: Scale of the objective.
    """
    best = landscape.low_points(1, landscape.mean)[0]
    for name in _COMPARED:
        value = _own_value(landscape.space, name)
        if value is not None:
            held = landscape.low_points(1, landscape.mean, name, [value])[0]
            drawn = landscape.draw(np.concatenate([held, best]), _DRAWS)
            cost = interval(drawn[:, 0] - drawn[:, 1], scale)
            yield Customary(coordinate=name, value=value, cost=cost)


def interval(differences: Array, scale: Scale) -> Interval:
    """Return the median of drawn differences, and the interval that holds them with a probability of LEVEL."""
    tail = (1 - LEVEL) / 2
    low, middle, high = (scale.difference(float(q)) for q in np.quantile(differences, [tail, 0.5, 1 - tail]))
    return Interval(low=low, middle=middle, high=high)


def _own_value(space: Space, name: str) -> float | None:
    """Return the optimizer's default of a coordinate, if all configurations search it and its range includes that."""
    domain = space.parameters.get(name)
    if domain is None or domain.when:
        return None
    value = float(space.constant(name))
    return value if domain.problem(value) is None else None
