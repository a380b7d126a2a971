"""Parallel coordinates: each search trial as a line across its coordinates.

Plotly's own `parcoords` needs WebGL, which not every browser has. The axes here are lines of an ordinary chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.marks import drawable, nothing
from anon_tune.dashboards.charts.style import (
    GREY,
    arm_colour,
    buttons,
    empty,
    faded,
    new_figure,
    note,
    short_id,
    tidy,
)
from anon_tune.dashboards.charts.thinning import left_out, thinned
from anon_tune.records import TrialState
from anon_tune.views import TrialView

__all__ = ["parallel"]

_MOST = 240
"""Most lines of all arms together."""

_BEST = 5
"""One of so many COMPLETE trials is among the best."""

_LOG = 20.0
"""A coordinate whose values differ by more than this factor has a log axis."""

_TICKS = 5
_BEYOND = 1.06
"""Height at which diverged trials end, above the largest objective (below the smallest one if larger is better)."""


@dataclass(frozen=True)
class _Axis:
    """An axis, from 0 to 1.

    Attributes:
        name: The coordinate or the objective.
        values: By trial: its value, a number or a choice.
        places: By trial: its place on the axis.
        ticks: Places and texts of its ticks.
    """

    name: str
    values: Mapping[str, Any]
    places: Mapping[str, float]
    ticks: Sequence[tuple[float, str]]


def parallel(data: ChartData) -> go.Figure:
    """Return the search trials as lines across their coordinates to the objective; buttons choose the arm."""
    known = {arm: drawable(data, data.search(arm)) for arm in data.arms}
    arms = [arm for arm in data.arms if known[arm]]
    if not arms:
        return empty(nothing(data.search()))
    figure = new_figure(margin={"l": 20, "r": 36, "t": 64, "b": 72})
    shares = {arm: thinned(data, known[arm], _MOST // len(arms)) for arm in arms}
    axes = {arm: list(_axes(data, known[arm])) for arm in arms}
    owners = []
    for arm in arms:
        for trace in (*_lines(data, arm, shares[arm], axes[arm]), *_axis_traces(axes[arm])):
            figure.add_scatter(**trace, visible=arm == arms[0])
            owners.append(arm)
    changes = [
        (arm, {"visible": [owner == arm for owner in owners]}, {"xaxis": _across(axes[arm])}) for arm in arms
    ]
    figure.update_layout(xaxis=_across(axes[arms[0]]))
    figure.update_yaxes(visible=False, range=[-0.08, 1.1], fixedrange=True)
    if len(arms) > 1:
        figure.update_layout(updatemenus=buttons(changes))
    drawn, total = sum(map(len, shares.values())), sum(map(len, known.values()))
    if drawn < total:
        note(figure, left_out(drawn, total))
    return figure


def _axes(data: ChartData, trials: Sequence[TrialView]) -> Iterator[_Axis]:
    """Yield an axis for each coordinate that trials differ in, and one for the objective."""
    for name in dict.fromkeys(name for trial in trials for name in trial.params):
        yield _axis(name, {trial.id: trial.params[name] for trial in trials if name in trial.params})
    values = {trial.id: data.value(trial) for trial in trials if trial.state is not TrialState.DIVERGED}
    found = _axis(data.objective, {trial: value for trial, value in values.items() if value is not None})
    beyond = _BEYOND if data.minimizes else 1 - _BEYOND
    lost = {trial.id: beyond for trial in trials if trial.state is TrialState.DIVERGED}
    yield _Axis(
        found.name, {**found.values, **dict.fromkeys(lost, "diverged")}, {**found.places, **lost}, found.ticks
    )


def _axis(name: str, values: Mapping[str, Any]) -> _Axis:
    if any(isinstance(value, bool | str) or not isinstance(value, int | float) for value in values.values()):
        return _choices(name, values)
    low, high = min(values.values(), default=0.0), max(values.values(), default=1.0)
    log = low > 0 and high / low > _LOG
    if low == high:
        return _Axis(name, values, dict.fromkeys(values, 0.5), [(0.5, f"{low:.3g}")] if values else [])
    start, size = (math.log(low), math.log(high / low)) if log else (low, high - low)
    places = {trial: ((math.log(value) if log else value) - start) / size for trial, value in values.items()}
    ticks = []
    for index in range(_TICKS):
        place = index / (_TICKS - 1)
        tick = start + place * size
        shown = math.exp(tick) if log else tick if abs(tick) > 0.01 * size else 0.0
        ticks.append((place, f"{shown:.2g}"))
    return _Axis(name, values, places, ticks)


def _choices(name: str, values: Mapping[str, Any]) -> _Axis:
    known = sorted(set(map(str, values.values())))
    place = {choice: (index + 0.5) / len(known) for index, choice in enumerate(known)}
    return _Axis(
        name,
        values,
        {trial: place[str(value)] for trial, value in values.items()},
        [(place[choice], choice) for choice in known],
    )


def _axis_traces(axes: Sequence[_Axis]) -> Iterator[dict[str, Any]]:
    """Yield the axes as lines, and their ticks as text."""
    shared = {"hoverinfo": "skip", "showlegend": False}
    across = [across for index in range(len(axes)) for across in (index, index, None)]
    up = [0, 1, None] * len(axes)
    yield {"x": across, "y": up, "mode": "lines", "line": {"color": GREY, "width": 1}, **shared}
    ticks = [(index, *tick) for index, axis in enumerate(axes) for tick in axis.ticks]
    yield {
        "x": [index for index, _, _ in ticks],
        "y": [place for _, place, _ in ticks],
        "text": [text for _, _, text in ticks],
        "mode": "text",
        "textposition": "middle right",
        "textfont": {"size": 11},
        **shared,
    }


def _lines(
    data: ChartData, arm: str, trials: Sequence[TrialView], axes: Sequence[_Axis]
) -> Iterator[dict[str, Any]]:
    """Yield the lines of an arm: those that ended early, the complete ones, and the best in front."""
    colour = arm_colour(data.arms, arm)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    ended = [trial for trial in trials if trial.state is not TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda trial: data.key(trial.value or 0.0))
    best = ranked[: -(-len(ranked) // _BEST)]
    groups = (
        ("ended early", ended, {"color": faded(GREY, 0.45), "width": 1}),
        ("complete", ranked[len(best) :], {"color": faded(colour, 0.55), "width": 1}),
        ("the best fifth", best[1:], {"color": colour, "width": 2}),
        ("the best", best[:1], {"color": colour, "width": 4}),
    )
    for name, group, line in groups:
        if group:
            yield _trace(data, f"{arm}: {name}", group, axes, line)


def _trace(
    data: ChartData, name: str, trials: Sequence[TrialView], axes: Sequence[_Axis], line: dict[str, Any]
) -> dict[str, Any]:
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        passed = [(index, axis) for index, axis in enumerate(axes) if trial.id in axis.places]
        x += [*(index for index, _ in passed), None]
        y += [*tidy(axis.places[trial.id] for _, axis in passed), None]
        mark = short_id(trial.id, data.job.id)
        text += [*(f"{mark}: {_shown(axis.values[trial.id])}" for _, axis in passed), ""]
    return {
        "x": x[:-1],
        "y": y[:-1],
        "mode": "lines",
        "name": name,
        "line": line,
        "text": text[:-1],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _across(axes: Sequence[_Axis]) -> dict[str, Any]:
    """Return the axis across, with the names of the coordinates as its ticks."""
    return {
        "tickvals": list(range(len(axes))),
        "ticktext": [axis.name.replace("_", "<br>").replace(" ", "<br>") for axis in axes],
        "range": [-0.2, len(axes) - 0.5],
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
        "tickangle": 0,
        "tickfont": {"size": 11},
    }
