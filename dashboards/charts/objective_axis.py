"""The axis of the objective: its scale, a range without outliers, and the edge for trials outside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

from anon_tune.dashboards.charts.data import ChartData

__all__ = ["ObjectiveAxis"]

_FAR = 4.0
"""Values that are worse than the best by more than this many times the median's distance are at the edge."""

_MARGIN, _EDGE = 0.05, 0.12
"""Share of the range beyond the best value, and beyond the worst one, where the edge is."""


@dataclass(frozen=True)
class ObjectiveAxis:
    """An axis of the objective. Its places are values, or their logarithms if `log`.

    Attributes:
        title: Name of the objective.
        log: Whether the axis is logarithmic.
        best: Place of the best value.
        worst: Place of the worst value that is drawn; worse ones are at the edge.
    """

    title: str
    log: bool
    best: float
    worst: float

    @classmethod
    def of(
        cls, data: ChartData, values: Iterable[float | None], always: Iterable[float | None] = ()
    ) -> ObjectiveAxis:
        """Return the axis for some values.

        Args:
            data: The job.
            values: Values of trials. Outliers among them, which may be off by orders of magnitude, do not count.
            always: Values that the axis must show.
        """
        found = [value for value in values if value is not None and math.isfinite(value)]
        shown = [value for value in always if value is not None and math.isfinite(value)]
        log = data.spec.objective.scale == "log" and all(value > 0 for value in found + shown)
        sign = 1.0 if data.minimizes else -1.0
        places = sorted(sign * _place(value, log) for value in found)
        if places:
            limit = places[0] + _FAR * (median(places) - places[0])
            places = [place for place in places if place <= limit] or places[:1]
        places += [sign * _place(value, log) for value in shown]
        low, high = min(places, default=0.0), max(places, default=1.0)
        if low == high:
            low, high = low - 0.1 * (abs(low) or 1.0), high + 0.1 * (abs(high) or 1.0)
        return cls(data.objective, log, sign * low, sign * high)

    def place(self, value: float) -> float:
        """Return the place of a value."""
        return _place(value, self.log)

    def value(self, place: float) -> float:
        """Return the value at a place."""
        return 10**place if self.log else place

    @property
    def edge(self) -> float:
        """The value at which trials outside the range are drawn, just inside the worse end."""
        return self.value(self.worst + 0.6 * _EDGE * (self.worst - self.best))

    def shows(self, value: float | None) -> bool:
        """Return whether a value lies within the range."""
        if value is None or not math.isfinite(value):
            return False
        return (self.worst - self.place(value)) * (self.worst - self.best) >= 0

    def layout(self) -> dict[str, Any]:
        """Return the axis as plotly takes it."""
        size = self.worst - self.best
        ends = sorted((self.best - _MARGIN * size, self.worst + _EDGE * size))
        ticks = 3 if self.log and ends[1] - ends[0] > 1 else 7  # 1, 2, 5, 10 on axes of one or two decades
        kind = "log" if self.log else "linear"
        title = {"text": self.title}
        return {"title": title, "type": kind, "range": ends, "tickformat": ".3~g", "nticks": ticks}


def _place(value: float, log: bool) -> float:
    return math.log10(value) if log else value
