"""The best objective so far of each arm, against trials, epochs or steps, and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import plotly.graph_objects as go

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.marks import nothing
from anon_tune.dashboards.charts.objective_axis import ObjectiveAxis
from anon_tune.dashboards.charts.style import arm_colour, arm_symbol, buttons, empty, new_figure, tidy
from anon_tune.dashboards.charts.thinning import evenly
from anon_tune.dashboards.charts.units import time_unit
from anon_tune.records import TrialState
from anon_tune.views import TrialView

__all__ = ["best"]

_MOST = 200
"""Most points of a line."""


@dataclass(frozen=True)
class _Line:
    """One search of an arm: the best value after each trial, and the trials, work and seconds by then."""

    arm: str
    repeat: int
    values: Sequence[float]
    trials: Sequence[int]
    steps: Sequence[int]
    seconds: Sequence[float]


def best(data: ChartData) -> go.Figure:
    """Return the best objective so far of each search of each arm; buttons choose what it is drawn against."""
    lines = [line for arm in data.arms for line in _lines(data, arm)]
    if not lines:
        return empty(nothing(data.search()))
    figure = new_figure(margin={"l": 56, "r": 16, "t": 64, "b": 48})
    for line in lines:
        _add_line(figure, data, line)
    # The first values are far off as a rule; what counts is the end.
    axis = ObjectiveAxis.of(
        data, [v for line in lines for v in line.values], [line.values[-1] for line in lines]
    )
    figure.update_yaxes(axis.layout())
    unit, size = time_unit(max((line.seconds[-1] for line in lines), default=0.0))
    choices = (
        ("trials", "trials of the search", [line.trials for line in lines]),
        (f"{data.job.unit}s", f"{data.job.unit}s of all trials", [line.steps for line in lines]),
        ("time", f"{unit} of training", [[s / size for s in line.seconds] for line in lines]),
    )
    figure.update_xaxes(title=choices[0][1], rangemode="tozero", zeroline=False)
    changes = [
        (label, {"x": [tidy(x) for x in values]}, {"xaxis.title.text": title, "xaxis.autorange": True})
        for label, title, values in choices
    ]
    return figure.update_layout(updatemenus=buttons(changes))


def _lines(data: ChartData, arm: str) -> list[_Line]:
    searches: dict[int, list[TrialView]] = {}
    for trial in data.search(arm):
        if trial.state not in {TrialState.WAITING, TrialState.RUNNING}:
            searches.setdefault(trial.repeat, []).append(trial)
    found = (_line(data, trials) for _, trials in sorted(searches.items()))
    return [line for line in found if line is not None]


def _line(data: ChartData, trials: Sequence[TrialView]) -> _Line | None:
    """Return the line of one search, from its first COMPLETE trial on."""
    values: list[float | None] = []
    for trial in trials:
        before = values[-1] if values else None
        now = trial.value if trial.state is TrialState.COMPLETE else None
        known = [value for value in (before, now) if value is not None]
        values.append(min(known, key=data.key, default=None))
    first = next((place for place, value in enumerate(values) if value is not None), None)
    if first is None:
        return None
    steps = list(accumulate(trial.steps for trial in trials))
    seconds = list(accumulate(trial.seconds for trial in trials))
    kept = [first + place for place in _telling([v for v in values[first:] if v is not None])]
    return _Line(
        trials[0].arm,
        trials[0].repeat,
        [value for place in kept if (value := values[place]) is not None],
        [place + 1 for place in kept],
        [steps[place] for place in kept],
        [seconds[place] for place in kept],
    )


def _telling(values: Sequence[float]) -> list[int]:
    """Return the places of a line to draw: where it improves, and its end."""
    better = [place for place in range(len(values)) if not place or values[place] != values[place - 1]]
    return evenly(list(dict.fromkeys([*better, len(values) - 1])), _MOST)


def _add_line(figure: go.Figure, data: ChartData, line: _Line) -> None:
    several = "" if not line.repeat else f", search {line.repeat + 1}"
    figure.add_scatter(
        x=tidy(line.trials),
        y=tidy(line.values),
        mode="lines+markers",
        name=line.arm,
        legendgroup=line.arm,
        showlegend=line.repeat == 0,
        line={"color": arm_colour(data.arms, line.arm), "shape": "hv", "width": 2},
        marker={"symbol": arm_symbol(data.arms, line.arm), "size": 7},
        hovertemplate=f"{line.arm}{several}<br>%{{x:,.4~g}}<br>{data.objective} %{{y:.4g}}<extra></extra>",
    )
