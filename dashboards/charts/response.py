"""The objective over gamma: trials, the estimated response, and which gammas do well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from anon_tune.answer import Answer, Curve
from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.marks import drawable, marks, nothing
from anon_tune.dashboards.charts.objective_axis import ObjectiveAxis
from anon_tune.dashboards.charts.style import GREY, arm_colour, empty, faded, new_figure, note, tidy
from anon_tune.dashboards.charts.thinning import left_out, thinned
from anon_tune.records import TrialState
from anon_tune.sentences import amount
from anon_tune.views import TrialView

__all__ = ["gamma_of", "response"]

_MOST = 1500
_PLOT, _STRIP, _GAP = 340, 46, 72
"""Heights of the plot, of a strip below it, and of the axis title between them, in pixels."""
_TOP = 40


@dataclass(frozen=True)
class _Strip:
    """Ranges of gamma, drawn as a labelled strip below the plot."""

    label: str
    ranges: Sequence[tuple[float, float]]
    colour: str
    inner: tuple[float, float] | None = None


def response(data: ChartData) -> go.Figure:
    """Return the objective over gamma: a mark for each search trial of Anon, the response, and the good gammas."""
    search = [trial for trial in data.search("anon") if gamma_of(trial) is not None]
    known, answer = drawable(data, search), data.answer
    curve = None if answer is None else answer.gamma.curve
    if not known and curve is None:
        return empty(nothing(search))
    trials = thinned(data, known, _MOST)
    others = list(_others(data))
    shown = [value for _, value in others]
    if curve is not None:
        shown += [*curve.low50, *curve.high50, min([*curve.low, *curve.high], key=data.key)]
    axis = ObjectiveAxis.of(data, map(data.value, known), shown)
    strips = [] if answer is None else list(_strips(answer, arm_colour(data.arms, "anon")))
    figure = _canvas(len(strips))
    if curve is not None:
        _add_curve(figure, curve, arm_colour(data.arms, "anon"))
    _add_others(figure, data, others, _span(trials, curve))
    _add_trials(figure, data, trials, axis)
    figure.update_yaxes(axis.layout(), selector={"anchor": "x"})
    for place, strip in enumerate(reversed(strips)):
        _add_strip(figure, place, strip)
    if answer is not None and answer.gamma.best is not None:
        _mark_best(figure, answer.gamma.best)
    if all(trial.state is TrialState.DIVERGED for trial in known) and curve is None:
        figure.update_yaxes(showticklabels=False)
        note(figure, "All trials of Anon so far diverged, so there is no value to show.")
    elif len(trials) < len(known):
        note(figure, left_out(len(trials), len(known)))
    return figure


def gamma_of(trial: TrialView) -> float | None:
    """Return a trial's gamma; None if its optimizer has none."""
    found = trial.hyperparameters.get("gamma")
    return float(found) if isinstance(found, int | float) else None


def _canvas(strips: int) -> go.Figure:
    """Return a figure with a plot and room for strips below its axis, which they share."""
    below = _GAP + _STRIP * strips if strips else 0
    inside = _PLOT + below
    bottom = 12 if strips else 48
    figure = new_figure(inside + _TOP + bottom + 36, margin={"l": 56, "r": 16, "t": _TOP, "b": bottom})
    figure.update_layout(
        xaxis={"title": {"text": "gamma (0: as SGD, 1: as Adam)"}, "zeroline": False, "anchor": "y"},
        yaxis={"domain": [below / inside, 1.0], "anchor": "x"},
    )
    if strips:
        figure.update_layout(
            yaxis2={
                "domain": [0.0, _STRIP * strips / inside],
                "range": [-0.4, strips - 0.4],
                "anchor": "free",
                "visible": False,
                "fixedrange": True,
            }
        )
    return figure


def _add_curve(figure: go.Figure, curve: Curve, colour: str) -> None:
    """Add the response with its bands; the legend shows and hides all three."""
    shared = {"legendgroup": "response", "hoverinfo": "skip", "showlegend": False}
    for low, high, name, opacity in (
        (curve.low, curve.high, "90% band", 0.12),
        (curve.low50, curve.high50, "50% band", 0.22),
    ):
        figure.add_scatter(
            x=tidy([*curve.gamma, *reversed(curve.gamma)]),
            y=tidy([*high, *reversed(low)]),
            mode="none",
            fill="toself",
            fillcolor=faded(colour, opacity),
            name=name,
            **shared,
        )
    figure.add_scatter(
        x=tidy(curve.gamma),
        y=tidy(curve.median),
        mode="lines",
        name="estimate with all else tuned, 50% and 90% bands",
        legendgroup="response",
        line={"color": colour, "width": 3},
        customdata=[tidy(ends) for ends in zip(curve.low, curve.high, strict=True)],
        hovertemplate="gamma %{x:.2f}<br>%{y:.4g} (90%: %{customdata[0]:.4g} to %{customdata[1]:.4g})<extra></extra>",
    )


def _others(data: ChartData) -> Iterator[tuple[str, float]]:
    """Yield the other arms with what their best settings reached on the data that chose them."""
    for arm in data.arms:
        best = data.job.arms[arm].best
        won = None if data.answer is None else data.answer.winners.get(arm)
        value = won.confirm.mean if won is not None else best.value if best is not None else None
        if arm != "anon" and value is not None:
            yield arm, value


def _span(trials: Sequence[TrialView], curve: Curve | None) -> tuple[float, float]:
    gammas = [gamma for trial in trials if (gamma := gamma_of(trial)) is not None]
    gammas += [] if curve is None else [curve.gamma[0], curve.gamma[-1]]
    return min(gammas), max(gammas)


def _add_others(
    figure: go.Figure, data: ChartData, others: Sequence[tuple[str, float]], span: tuple[float, float]
) -> None:
    """Add a line at the best of each other arm, which has no gamma."""
    for arm, value in others:
        figure.add_scatter(
            x=tidy(span),
            y=tidy([value, value]),
            mode="lines",
            name=f"best of {arm}",
            line={"color": arm_colour(data.arms, arm), "width": 2, "dash": "dot"},
            hovertemplate=f"best of {arm}: %{{y:.4g}}<extra></extra>",
        )


def _add_trials(figure: go.Figure, data: ChartData, trials: Sequence[TrialView], axis: ObjectiveAxis) -> None:
    for group in marks(data, "anon", trials, axis):
        at_edge = group.state is TrialState.DIVERGED
        figure.add_scatter(
            x=tidy(map(gamma_of, group.trials)),
            y=tidy(value if axis.shows(value) else axis.edge for value in group.values),
            mode="markers",
            name=group.name,
            marker={**group.look, "color": arm_colour(data.arms, "anon")},
            text=group.ids(data),
            customdata=tidy(group.values),
            hovertemplate="%{text}<br>gamma %{x:.3g}<br>"
            + ("diverged" if at_edge else f"{data.objective} %{{customdata:.4g}}")
            + "<extra></extra>",
        )


def _strips(answer: Answer, colour: str) -> Iterator[_Strip]:
    """Yield the statements on which gammas do well, from the most to the least certain."""
    gamma = answer.gamma
    if gamma.low is not None and gamma.high is not None:
        inner = None if gamma.low50 is None or gamma.high50 is None else (gamma.low50, gamma.high50)
        label = f"where the best gamma lies ({gamma.level:.0%}; thick: 50%)"
        yield _Strip(label, [(gamma.low, gamma.high)], colour, inner)
    if gamma.flat and gamma.practical is not None:
        label = f"flat: costs less than {amount(gamma.practical, answer)} more"
        yield _Strip(label, gamma.flat, "#56B4E9")
    if gamma.indistinguishable:
        yield _Strip("differ less than seeds do", gamma.indistinguishable, GREY)


def _add_strip(figure: go.Figure, place: int, strip: _Strip) -> None:
    parts = [(each, 6 if strip.inner else 10) for each in strip.ranges]
    parts += [(strip.inner, 14)] if strip.inner else []
    for (low, high), width in parts:
        if high - low < 1e-3:  # a single choice of gamma
            low, high = low - 5e-3, high + 5e-3
        figure.add_scatter(
            x=tidy([low, high]),
            y=[place, place],
            yaxis="y2",
            mode="lines",
            name=strip.label,
            showlegend=False,
            line={"color": strip.colour, "width": width},
            hovertemplate=f"{strip.label}: {low:.2f} to {high:.2f}<extra></extra>",
        )
    figure.add_annotation(
        text=strip.label,
        xref="x domain",
        x=0,
        xanchor="left",
        yref="y2",
        y=place,
        yanchor="bottom",
        yshift=6,
        showarrow=False,
        font={"size": 12},
    )


def _mark_best(figure: go.Figure, best: float) -> None:
    """Mark the recommended gamma by a line through plot and strips."""
    line = {"color": GREY, "width": 2, "dash": "dash"}
    figure.add_shape(type="line", xref="x", yref="paper", x0=best, x1=best, y0=0, y1=1, line=line)
    figure.add_annotation(
        text=f"recommended: {best:.2f}",
        xref="x",
        yref="paper",
        x=best,
        y=1,
        yanchor="bottom",
        showarrow=False,
    )
