"""When each trial ran, and how much of the time went into which phase and arm."""

from __future__ import annotations

import datetime
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.style import GREY, arm_colour, empty, faded, new_figure, note, short_id, tidy
from anon_tune.dashboards.charts.units import time_in_words, time_unit
from anon_tune.records import Phase, TrialState
from anon_tune.views import TrialView

__all__ = ["timeline"]

_MOST = 600
"""Most trials that are drawn one by one; of more, the number that ran at a time is drawn."""

_TIMES = 150
_SHORTEST = 0.004
"""Share of the time that the shortest bar takes, so that it can be seen."""

_PATTERNS = {
    TrialState.PRUNED: "/",
    TrialState.DIVERGED: "x",
    TrialState.FAILED: "x",
    TrialState.CANCELLED: ".",
}
_PHASES = (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT)


@dataclass(frozen=True)
class _Bar:
    """A trial that ran, in seconds since the first one started; `lane` is its row."""

    trial: TrialView
    start: float
    end: float
    lane: int


def timeline(data: ChartData) -> go.Figure:
    """Return a bar for each trial from start to end, in the colour of its arm, and the phases behind them."""
    bars = _bars(data)
    if not bars:
        return empty("No trial has started yet.")
    unit, size = time_unit(max(bar.end for bar in bars))
    lanes = 1 + max(bar.lane for bar in bars)
    many = len(bars) > _MOST
    figure = new_figure(300 if many else min(560, 220 + 26 * lanes), barmode="overlay", bargap=0.2)
    (_add_counts if many else _add_bars)(figure, data, bars, size)
    for phase, start, end in _spans(bars):
        _add_phase(figure, phase, start / size, end / size, _share(bars, phase))
    figure.update_xaxes(title=f"{unit} since the first trial started", zeroline=False, rangemode="tozero")
    if many:
        figure.update_yaxes(title="trials at a time", range=[0, 1.2 * lanes])
        note(figure, f"{len(bars):,} trials are too many to draw one by one: this is how many ran at a time.")
    else:
        figure.update_yaxes(
            title="trials at a time", showticklabels=False, showgrid=False, range=[-0.6, lanes + 0.4]
        )
    return figure


def _bars(data: ChartData) -> list[_Bar]:
    """Return the trials that have started, each in the first row that is free."""
    started = [(trial.started, trial) for trial in data.trials if trial.started is not None]
    if not started:
        return []
    started.sort(key=lambda pair: (pair[0], pair[1].id))
    first, now = started[0][0], _now(data)
    shortest = _SHORTEST * (now - first).total_seconds()
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    bars = []
    for moment, trial in started:
        start = (moment - first).total_seconds()
        end = ((trial.finished or now) - first).total_seconds()
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, lane))
        bars.append(_Bar(trial, start, max(end, start + shortest), lane))
    return bars


def _now(data: ChartData) -> datetime.datetime:
    """Return the last moment that is known of a job."""
    ends = [
        moment for trial in data.trials for moment in (trial.started, trial.finished) if moment is not None
    ]
    lease = data.job.lease
    return max([*ends, *([lease.heartbeat] if lease is not None and lease.alive else [])])


def _add_bars(figure: go.Figure, data: ChartData, bars: Sequence[_Bar], size: float) -> None:
    for arm in data.arms:
        own = [bar for bar in bars if bar.trial.arm == arm]
        groups = (
            ([bar for bar in own if bar.trial.state is TrialState.COMPLETE], 0.95),
            ([bar for bar in own if bar.trial.state is not TrialState.COMPLETE], 0.5),
        )
        found = [(group, opacity) for group, opacity in groups if group]
        for place, (group, opacity) in enumerate(found):
            _add_group(figure, data, group, size, opacity=opacity, showlegend=not place)


def _add_group(figure: go.Figure, data: ChartData, bars: Sequence[_Bar], size: float, **look: Any) -> None:
    arm = bars[0].trial.arm
    patterns = [_PATTERNS.get(bar.trial.state, "") for bar in bars]
    marker: dict[str, Any] = {"color": arm_colour(data.arms, arm), "line": {"width": 0}}
    if any(patterns):
        marker["pattern"] = {"shape": patterns, "size": 6, "solidity": 0.4}
    figure.add_bar(
        base=tidy(bar.start / size for bar in bars),
        x=tidy((bar.end - bar.start) / size for bar in bars),
        y=[bar.lane for bar in bars],
        orientation="h",
        name=arm,
        legendgroup=arm,
        marker=marker,
        text=[_said(data, bar) for bar in bars],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
        **look,
    )


def _said(data: ChartData, bar: _Bar) -> str:
    trial = bar.trial
    state = f"{trial.phase.value}, {trial.state.value.lower()}"
    return f"{short_id(trial.id, data.job.id)}<br>{state}<br>{time_in_words(bar.end - bar.start)}"


def _add_counts(figure: go.Figure, data: ChartData, bars: Sequence[_Bar], size: float) -> None:
    """Add the number of trials of each arm that ran at a time, one above the other."""
    length = max(bar.end for bar in bars) / _TIMES
    for arm in data.arms:
        busy = [0.0] * _TIMES
        for bar in bars:
            if bar.trial.arm == arm:
                for place, share in _shares(bar, length):
                    busy[place] += share
        if any(busy):
            figure.add_scatter(
                x=tidy((place + 0.5) * length / size for place in range(_TIMES)),
                y=tidy(busy),
                mode="lines",
                name=arm,
                stackgroup="running",
                line={"color": arm_colour(data.arms, arm), "width": 0.5},
                fillcolor=faded(arm_colour(data.arms, arm), 0.8),
                hovertemplate=f"{arm}: %{{y:.2f}} at a time<extra></extra>",
            )


def _shares(bar: _Bar, length: float) -> Iterator[tuple[int, float]]:
    """Yield the slices of time that a bar reaches into, with the share of the slice that it takes."""
    for place in range(int(bar.start / length), min(int(bar.end / length), _TIMES - 1) + 1):
        yield place, (min(bar.end, (place + 1) * length) - max(bar.start, place * length)) / length


def _spans(bars: Sequence[_Bar]) -> Iterator[tuple[Phase, float, float]]:
    """Yield the phases with the start of their first trial and the end of their last one."""
    for phase in _PHASES:
        own = [bar for bar in bars if bar.trial.phase is phase]
        if own:
            yield phase, min(bar.start for bar in own), max(bar.end for bar in own)


def _share(bars: Sequence[_Bar], phase: Phase) -> float:
    """Return the share of the trials' time that a phase took."""
    total = sum(bar.end - bar.start for bar in bars) or 1.0
    return sum(bar.end - bar.start for bar in bars if bar.trial.phase is phase) / total


def _add_phase(figure: go.Figure, phase: Phase, start: float, end: float, share: float) -> None:
    figure.add_vline(x=start, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.add_annotation(
        text=f"{phase.value} {share:.0%}",
        x=start,
        xanchor="left",
        yref="paper",
        y=1,
        yanchor="top",
        showarrow=False,
        font={"size": 12},
    )
