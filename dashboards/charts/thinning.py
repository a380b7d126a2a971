"""Fewer marks where a job has too many trials to draw or to send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.views import TrialView

__all__ = ["evenly", "left_out", "thinned"]

T = TypeVar("T")


def thinned(data: ChartData, trials: Sequence[TrialView], most: int) -> list[TrialView]:
    """Return at most so many trials in their order: the best half by value, and others spread over the rest."""
    if len(trials) <= most:
        return list(trials)
    values = {trial.id: data.value(trial) for trial in trials}
    ranked = sorted(trials, key=_by_value(data, values))
    chosen = {trial.id for trial in ranked[: most // 2]}
    chosen |= {trial.id for trial in evenly(ranked[most // 2 :], most - most // 2)}
    return [trial for trial in trials if trial.id in chosen]


def _by_value(data: ChartData, values: dict[str, float | None]) -> Callable[[TrialView], tuple[bool, float]]:
    def key(trial: TrialView) -> tuple[bool, float]:
        value = values[trial.id]
        return value is None, 0.0 if value is None else data.key(value)

    return key


def evenly(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many items, evenly spread, with the first and the last."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def left_out(shown: int, of: int) -> str:
    """Return the sentence on trials that were left out."""
    return f"{shown:,} of {of:,} trials are drawn: the best, and some of the others."
