"""Learning curves of the search trials."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.marks import nothing
from anon_tune.dashboards.charts.objective_axis import ObjectiveAxis
from anon_tune.dashboards.charts.style import (
    arm_colour,
    arm_symbol,
    empty,
    faded,
    new_figure,
    note,
    short_id,
    tidy,
)
from anon_tune.dashboards.charts.thinning import evenly, left_out, thinned
from anon_tune.records import TrialState
from anon_tune.views import TrialView

__all__ = ["curves"]

_MOST, _POINTS = 90, 40
"""Most curves, and most points of each."""

_MARK = 6
"""Size of the mark of a curve with one report."""

_KEPT = {TrialState.COMPLETE, TrialState.RUNNING}


def curves(data: ChartData) -> go.Figure:
    """Return the learning curves of the search trials: the best of each arm bold, pruned and diverged ones faded."""
    reported = [trial for trial in data.search() if trial.id in data.curves]
    if not reported:
        return empty("No trial has reported a value yet." if data.trials else nothing(data.trials))
    figure = new_figure()
    trials = []
    for arm in data.arms:
        own = thinned(data, [t for t in reported if t.arm == arm], _MOST // len(data.arms))
        _add_arm(figure, data, arm, own)
        trials += own
    shown = [value for trial in trials for value in data.curves[trial.id].values]
    best = _bests(data)
    bests = [value for trial in trials if trial.id in best for value in data.curves[trial.id].values[1:]]
    figure.update_yaxes(ObjectiveAxis.of(data, shown, bests).layout())
    figure.update_xaxes(title=data.job.unit, rangemode="tozero", zeroline=False)
    if len(trials) < len(reported):
        note(figure, left_out(len(trials), len(reported)))
    return figure


def _bests(data: ChartData) -> set[str]:
    """Return the ids of the best trial of each arm."""
    return {arm.best.trial for arm in data.job.arms.values() if arm.best is not None}


def _add_arm(figure: go.Figure, data: ChartData, arm: str, trials: Sequence[TrialView]) -> None:
    best = _bests(data)
    colour = arm_colour(data.arms, arm)
    kept = [trial for trial in trials if trial.id not in best and trial.state in _KEPT]
    ended = [trial for trial in trials if trial.id not in best and trial.state not in _KEPT]
    groups = (
        (ended, {"color": faded(colour, 0.4), "width": 1}),
        (kept, {"color": faded(colour, 0.7), "width": 1.3}),
        ([trial for trial in trials if trial.id in best], {"color": colour, "width": 4}),
    )
    found = [(group, line) for group, line in groups if group]
    for place, (group, line) in enumerate(found):
        _add_lines(figure, data, group, line, in_legend=place == len(found) - 1)
    diverged = [trial for trial in ended if trial.state is TrialState.DIVERGED]
    ends = [(data.curves[trial.id], trial) for trial in diverged if data.curves[trial.id].last is not None]
    if ends:
        figure.add_scatter(
            x=[max(s for s, v in zip(c.steps, c.values, strict=True) if v is not None) for c, _ in ends],
            y=tidy(curve.last for curve, _ in ends),
            mode="markers",
            name=arm,
            legendgroup=arm,
            showlegend=False,
            marker={"symbol": "x", "size": 8, "color": colour, "opacity": 0.7},
            text=[short_id(trial.id, data.job.id) for _, trial in ends],
            hovertemplate="%{text} diverged<extra></extra>",
        )


def _add_lines(
    figure: go.Figure,
    data: ChartData,
    trials: Sequence[TrialView],
    line: dict[str, object],
    *,
    in_legend: bool,
) -> None:
    """Add curves as one line with gaps, which is drawn far faster than a line for each.

    A curve of one report is a mark, since a line through one point is invisible.
    """
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    sizes: list[int] = []
    for trial in trials:
        curve = data.curves[trial.id]
        points = evenly(list(zip(curve.steps, curve.values, strict=True)), _POINTS)
        x += [*(step for step, _ in points), None]
        y += [*tidy(value for _, value in points), None]
        text += [*[short_id(trial.id, data.job.id)] * len(points), ""]
        sizes += [*[_MARK if len(points) == 1 else 0] * len(points), 0]
    arm = trials[0].arm
    has_marks = any(sizes)
    figure.add_scatter(
        x=x[:-1],
        y=y[:-1],
        mode="lines+markers" if has_marks else "lines",
        name=arm,
        legendgroup=arm,
        showlegend=in_legend,
        line=line,
        marker={"symbol": arm_symbol(data.arms, arm), **({"size": sizes[:-1]} if has_marks else {})},
        text=text[:-1],
        hovertemplate=f"%{{text}}<br>{data.job.unit} %{{x}}<br>%{{y:.4g}}<extra></extra>",
    )
