"""The profile of a landscape over gamma, by joint draws; each draw is one plausible surface."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anon_tune.search.landscape import Landscape
from anon_tune.search_spaces import Choice, Range

__all__ = ["GAMMAS", "Response"]

GAMMAS = 49
"""Number of gammas of a range at which the response is computed."""

_DRAWS = 256

_POINTS = 24
"""Number of points of the other coordinates for each gamma."""

Array = NDArray[np.float64]


class Response:
    """The response of one arm, by draws.

    Args:
        gamma: The searched range or choices of gamma.
        landscape: The arm's landscape; it must be known.

    Attributes:
        gammas: Shape (g,), ascending.
        profiles: The lowest value at each gamma on the objective's scale, shape (draws, g).
        expected: The value at each gamma at the point of the lowest expected value, shape (draws, g). Unlike the
            minimum of each draw it is not biased.
    """

    def __init__(self, gamma: Range | Choice, landscape: Landscape) -> None:
        if isinstance(gamma, Choice):
            self.gammas = np.sort([float(value) for value in gamma.choices])
        else:
            self.gammas = np.unique([gamma.at(u) for u in np.linspace(0.0, 1.0, GAMMAS)])
        points = landscape.low_points(_POINTS, landscape.mean, "gamma", self.gammas.tolist())
        drawn = landscape.draw(points.reshape(-1, points.shape[-1]), _DRAWS)
        drawn = drawn.reshape(_DRAWS, len(self.gammas), -1)
        self.profiles: Array = drawn.min(axis=2)
        self.expected: Array = drawn[:, :, 0]

    @property
    def costs(self) -> Array:
        """The difference between each gamma and the best one in the same draw, shape (draws, g)."""
        found: Array = self.profiles - self.profiles.min(axis=1, keepdims=True)
        return found

    def interval(self, level: float, within: tuple[float, float] | None = None) -> tuple[float, float]:
        """Return the shortest interval that holds the best gamma with a probability of `level`.

        The shortest 50% interval need not lie in the shortest 90% interval; pass that as `within` to ensure it.
        """
        best = np.sort(self.gammas[self.profiles.argmin(axis=1)])
        held = math.ceil(level * len(best))
        if within is not None:
            best = best[(best >= within[0]) & (best <= within[1])]
        widths = best[held - 1 :] - best[: len(best) - held + 1]
        first = int(widths.argmin())
        return float(best[first]), float(best[first + held - 1])

    def are_within(self, margin: float) -> NDArray[np.bool_]:
        """Return which gammas cost less than `margin`, each with a probability of at least one half, shape (g,)."""
        return self._shares(margin) >= 0.5

    def within(self, margin: float) -> list[tuple[float, float]]:
        """Return the ranges between gammas that `are_within` a margin.

        A gap whose probability differs from one half by less than the error of the draws is ignored: it would depend
        on their seed.
        """
        shares = self._shares(margin)
        inside, near = shares >= 0.5, shares >= 0.5 - 1.0 / math.sqrt(len(self.profiles))
        ends = np.flatnonzero(np.diff(np.concatenate([[False], near, [False]]).astype(int)))
        parts = (a + np.flatnonzero(inside[a:b]) for a, b in ends.reshape(-1, 2))
        return [(float(self.gammas[part[0]]), float(self.gammas[part[-1]])) for part in parts if len(part)]

    def _shares(self, margin: float) -> Array:
        """Return the share of draws in which each gamma costs less than a margin, shape (g,)."""
        found: Array = (self.costs < margin).mean(axis=0)
        return found

    def share(self, ranges: Sequence[tuple[float, float]]) -> float:
        """Return the share of the gammas that lies in some ranges."""
        inside = [any(low <= gamma <= high for low, high in ranges) for gamma in self.gammas]
        return float(np.mean(inside))
