"""Two coordinates of Anon's trials with the objective as colour: gamma by step size, and the memory of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.marks import Marks, drawable, marks, nothing
from anon_tune.dashboards.charts.objective_axis import ObjectiveAxis
from anon_tune.dashboards.charts.response import gamma_of
from anon_tune.dashboards.charts.style import GREY, SCALE, arm_colour, empty, new_figure, note, tidy
from anon_tune.dashboards.charts.thinning import left_out, thinned
from anon_tune.records import TrialState
from anon_tune.views import TrialView

__all__ = ["delays", "surface"]

_MOST = 1500
_TICKS = 5

Value = Callable[[TrialView], float | None]


@dataclass(frozen=True)
class _Axis:
    """A coordinate on an axis."""

    name: str
    title: str
    value: Value
    log: bool = False


def surface(data: ChartData) -> go.Figure:
    """Return the search trials of Anon by gamma and step size, with the objective as colour."""
    trials = data.search("anon")
    step = _param("step_size", "step size, in units of a typical step", log=True)
    if trials and all(step.value(trial) is None for trial in trials):
        step = _Axis("lr", "learning rate", lambda trial: _number(trial.hyperparameters.get("lr")), log=True)
    return _coloured(data, _Axis("gamma", "gamma (0: as SGD, 1: as Adam)", gamma_of), [step])


def delays(data: ChartData) -> go.Figure:
    """Return the search trials of Anon by beta3 and the delay of its refreshes a_n, a plot for each family."""
    families = [
        _param("delay", "delay b: a_n = b^(n-1)", log=True),
        _param("delay_power", "power p: a_n = n^p"),
        _param("delay_period", "period k: a_n = 1 + k(n-1)", log=True),
    ]
    trials = data.search("anon")
    used = [axis for axis in families if any(axis.value(trial) is not None for trial in trials)]
    if trials and not used:
        return empty("The search space fixes the delay, so there is nothing to compare.")
    return _coloured(
        data, _Axis("beta3", "beta3 (share of old step sizes kept)", _beta3), used or families[:1]
    )


def _coloured(data: ChartData, across: _Axis, up: Sequence[_Axis]) -> go.Figure:
    """Return trials by a coordinate across and one of others up, each in a plot of its own."""
    search = data.search("anon")
    known = [trial for trial in drawable(data, search) if across.value(trial) is not None]
    if not known:
        return empty(nothing(search))
    trials = thinned(data, known, _MOST)
    colours = ObjectiveAxis.of(data, map(data.value, known))
    figure = new_figure(340 * len(up) + 110, margin={"l": 56, "r": 8, "t": 24, "b": 96})
    _add_legend(figure, data, trials)
    for place, axis in enumerate(up):
        shown = [trial for trial in trials if axis.value(trial) is not None]
        _add_plot(figure, place, len(up), axis, across, shown)
        _add_trials(figure, data, shown, across, axis, colours, place)
    figure.update_layout(coloraxis=_colour_axis(data, colours))
    if len(trials) < len(known):
        note(figure, left_out(len(trials), len(known)))
    return figure


def _add_legend(figure: go.Figure, data: ChartData, trials: Sequence[TrialView]) -> None:
    """Add marks for the legend alone, whose colour does not seem to be a value."""
    for group in marks(data, "anon", trials):
        marker = {**_look(group), "color": GREY}
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=group.name, legendgroup=group.name, marker=marker
        )


def _add_plot(
    figure: go.Figure, place: int, count: int, axis: _Axis, across: _Axis, trials: Sequence[TrialView]
) -> None:
    mark = str(place + 1) if place else ""
    high = 1 - place / count
    domain = [high - 1 / count + (0.14 if place < count - 1 else 0.0), high]
    kind = "log" if axis.log else "linear"
    ticks: dict[str, Any] = {
        "type": kind,
        "tickformat": "~g",
        "zeroline": False,
        "minor": {"showgrid": False},
    }
    values = [value for trial in trials if (value := axis.value(trial)) is not None]
    if axis.log and max(values, default=1.0) > 10 * min(values, default=1.0):
        ticks["dtick"] = "D2"  # 1, 2, 5, 10
    title = {"text": axis.title}
    figure.update_layout(
        {
            f"xaxis{mark}": {"title": {"text": across.title}, "anchor": f"y{mark}", "zeroline": False},
            f"yaxis{mark}": {"title": title, "anchor": f"x{mark}", "domain": domain, "nticks": 6, **ticks},
        }
    )


def _add_trials(
    figure: go.Figure,
    data: ChartData,
    trials: Sequence[TrialView],
    across: _Axis,
    up: _Axis,
    colours: ObjectiveAxis,
    place: int,
) -> None:
    mark = str(place + 1) if place else ""
    for group in marks(data, "anon", trials):
        diverged = group.state is TrialState.DIVERGED
        colour: dict[str, Any] = (
            {"color": arm_colour(data.arms, "anon")}
            if diverged
            else {
                "color": tidy(_places(group, colours)),
                "coloraxis": "coloraxis",
                "line": {"color": GREY, "width": 1},
            }
        )
        said = "diverged" if diverged else f"{data.objective} %{{customdata:.4g}}"
        figure.add_scatter(
            x=tidy(map(across.value, group.trials)),
            y=tidy(map(up.value, group.trials)),
            xaxis=f"x{mark}",
            yaxis=f"y{mark}",
            mode="markers",
            name=group.name,
            legendgroup=group.name,
            showlegend=False,
            marker={**_look(group), **colour},
            text=group.ids(data),
            customdata=tidy(group.values),
            hovertemplate=f"%{{text}}<br>{across.name} %{{x:.3g}}<br>{up.name} %{{y:.3g}}<br>{said}<extra></extra>",
        )


def _colour_axis(data: ChartData, axis: ObjectiveAxis) -> dict[str, Any]:
    """Return the scale of colours, without outliers, which have the colour of the worst value."""
    low, high = sorted((axis.best, axis.worst))
    places = [low + (high - low) * index / (_TICKS - 1) for index in range(_TICKS)]
    return {
        "colorscale": SCALE,
        "reversescale": data.minimizes,  # the best is bright
        "cmin": low,
        "cmax": high,
        "colorbar": {
            "title": {"text": data.objective, "side": "right"},
            "tickvals": tidy(places),
            "ticktext": [f"{axis.value(place):.3g}" for place in places],
            "thickness": 12,
            "outlinewidth": 0,
        },
    }


def _look(group: Marks) -> dict[str, Any]:
    """Return how trials look: filled, so that their colours show, and small if they are not COMPLETE."""
    size = group.look["size"]
    whole = group.state in {TrialState.COMPLETE, TrialState.DIVERGED}
    symbol = group.look["symbol"].replace("-open", "")
    return {**group.look, "symbol": symbol, "size": size + 2 if whole else size - 2}


def _places(group: Marks, axis: ObjectiveAxis) -> list[float | None]:
    return [None if value is None else axis.place(value) for value in group.values]


def _param(name: str, title: str, *, log: bool = False) -> _Axis:
    return _Axis(name, title, lambda trial: _number(trial.params.get(name)), log)


def _beta3(trial: TrialView) -> float | None:
    betas = trial.hyperparameters.get("betas")
    known = isinstance(betas, list | tuple) and len(betas) > 2
    return _number(betas[2]) if known and betas is not None else _number(trial.params.get("beta3"))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
