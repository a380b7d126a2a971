"""Trials as marks: the colour and symbol are those of the arm, and the state changes the symbol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.objective_axis import ObjectiveAxis
from anon_tune.dashboards.charts.style import arm_symbol, short_id
from anon_tune.records import TrialState
from anon_tune.views import TrialView

__all__ = ["Marks", "drawable", "marks", "nothing"]

_SIZE, _SMALL = 9, 6
_MANY = 300
"""Trials from which on marks are smaller and fainter, because they overlap."""

_LOOKS = {
    TrialState.DIVERGED: ("diverged", "x", 0.8),
    TrialState.PRUNED: ("pruned early (last value)", "{}-open", 0.7),
    TrialState.RUNNING: ("running (last value)", "{}-open-dot", 0.9),
    TrialState.COMPLETE: ("complete", "{}", 0.9),
}
"""Name in legends, symbol and opacity of the states that are drawn, in the order of drawing."""


@dataclass(frozen=True)
class Marks:
    """Trials that look alike.

    Attributes:
        name: Their name in a legend.
        state: Their state.
        trials: The trials.
        values: Their objectives; None for one that diverged.
        look: Marker as plotly takes it, without a colour.
    """

    name: str
    state: TrialState
    trials: Sequence[TrialView]
    values: Sequence[float | None]
    look: dict[str, Any]

    def ids(self, data: ChartData) -> list[str]:
        """Return the ids of the trials, as charts show them."""
        return [short_id(trial.id, data.job.id) for trial in self.trials]


def drawable(data: ChartData, trials: Iterable[TrialView]) -> list[TrialView]:
    """Return the trials that have something to show: a value, or that they diverged."""
    return [
        trial
        for trial in trials
        if trial.state is TrialState.DIVERGED or (trial.state in _LOOKS and data.value(trial) is not None)
    ]


def marks(
    data: ChartData, arm: str, trials: Iterable[TrialView], axis: ObjectiveAxis | None = None
) -> Iterator[Marks]:
    """Yield the trials of each state, and those that are too bad for the axis, if one is given."""
    found = [(trial, None if trial.state is TrialState.DIVERGED else data.value(trial)) for trial in trials]
    inside = [value is None or axis is None or axis.shows(value) for _, value in found]
    within = [pair for pair, shown in zip(found, inside, strict=True) if shown]
    outside = [pair for pair, shown in zip(found, inside, strict=True) if not shown]
    symbol = arm_symbol(data.arms, arm)
    faint, size = (0.6, _SMALL) if len(found) > _MANY else (1.0, _SIZE)
    for state, (name, pattern, opacity) in _LOOKS.items():
        look = {"symbol": pattern.format(symbol), "opacity": faint * opacity, "size": size}
        yield from _group(name, state, [pair for pair in within if pair[0].state is state], look)
    towards = "up" if data.minimizes else "down"
    look = {"symbol": f"triangle-{towards}-open", "opacity": 0.7 * faint, "size": size}
    yield from _group("worse than the axis shows", TrialState.COMPLETE, outside, look)


def _group(
    name: str, state: TrialState, pairs: Sequence[tuple[TrialView, float | None]], look: dict[str, Any]
) -> Iterator[Marks]:
    if pairs:
        yield Marks(name, state, [trial for trial, _ in pairs], [value for _, value in pairs], look)


def nothing(trials: Sequence[TrialView]) -> str:
    """Return why there is nothing to draw of some trials."""
    if not trials:
        return "No trial has started yet."
    if any(trial.state in {TrialState.WAITING, TrialState.RUNNING} for trial in trials):
        return "No trial has finished yet."
    return "No trial has a value. The job's log says why they ended."
