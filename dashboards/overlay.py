"""The chart that compares jobs: the response of each to gamma."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from anon_tune.answer import Curve
from anon_tune.dashboards.charts.style import new_figure, plain
from anon_tune.spec import stored_spec
from anon_tune.views import JobView

__all__ = ["responses"]

# Okabe and Ito's palette, which people with colour blindness can distinguish; lines differ by their dashes too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("solid", "dash", "dot", "dashdot")


def responses(jobs: Sequence[JobView]) -> go.Figure:
    """Return the cost of each gamma over the job's best one, a line for each job that has a response.

    Losses of different data cannot be compared, so each line is relative to its own best gamma.
    """
    figure = new_figure(showlegend=True)
    scales = {job.result.scale == "linear" for job in jobs if job.result is not None}
    for number, job in enumerate(jobs):
        curve = None if job.result is None else job.result.gamma.curve
        if curve is None:
            continue
        figure.add_scatter(
            x=curve.gamma,
            y=_costs(job, curve),
            mode="lines",
            name=f"{plain(job.name)} ({job.id})",
            line={
                "color": _COLOURS[number % len(_COLOURS)],
                "dash": _DASHES[number % len(_DASHES)],
                "width": 3,
            },
            hovertemplate="gamma %{x:.2f}<br>%{y:+.3g}<extra>%{fullData.name}</extra>"
            if scales == {True}
            else "gamma %{x:.2f}<br>%{y:+.1%}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(title="gamma (0: as SGD, 1: as Adam)")
    figure.update_yaxes(title="cost over its best gamma", tickformat="" if scales == {True} else ".0%")
    return figure


def _costs(job: JobView, curve: Curve) -> list[float]:
    """Return the cost of each gamma, as `Answer.scale` counts it: a share of the loss or error, or a difference."""
    scale = "linear" if job.result is None else job.result.scale
    sign = 1.0 if stored_spec(job.spec).objective.mode == "min" else -1.0
    if scale == "linear":
        values = [sign * value for value in curve.median]
        return [value - min(values) for value in values]
    values = [1.0 - value if scale == "log_error" else value for value in curve.median]
    return [value / min(values) - 1.0 for value in values]
