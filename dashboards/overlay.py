"""The chart that compares jobs: the response of each to gamma."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from anon_tune.answer import Curve
from anon_tune.dashboards.charts.style import PALETTE, new_figure, note, plain, tidy
from anon_tune.spec import stored_spec
from anon_tune.views import JobView

__all__ = ["responses"]

_DASHES = ("solid", "dash", "dot", "dashdot")
"""Lines differ by these, too, for the colour-blind and for print."""


def responses(jobs: Sequence[JobView]) -> go.Figure:
    """Return the cost of each gamma over the job's best one, a line for each job that has a response.

    Losses of different data cannot be compared, so each line is relative to its own best gamma. Costs on the linear
    scale are no shares, so beside jobs of other scales they are left out.
    """
    figure = new_figure(showlegend=True)
    found = [(job, curve) for job in jobs if (curve := _curve(job)) is not None]
    shares = [(job, curve) for job, curve in found if not _is_linear(job)]
    shown, value = (shares, "%{y:+.1%}") if shares else (found, "%{y:+.3g}")
    for number, (job, curve) in enumerate(shown):
        figure.add_scatter(
            x=tidy(curve.gamma),
            y=tidy(_costs(job, curve)),
            mode="lines",
            name=f"{plain(job.name)} ({job.id})",
            line={
                "color": PALETTE[number % len(PALETTE)],
                "dash": _DASHES[number % len(_DASHES)],
                "width": 3,
            },
            hovertemplate=f"gamma %{{x:.2f}}<br>{value}<extra>%{{fullData.name}}</extra>",
        )
    figure.update_xaxes(title="gamma (0: as SGD, 1: as Adam)")
    figure.update_yaxes(title="cost over its best gamma", tickformat=".0%" if shares else "")
    if left_out := [job.id for job, _ in found if shares and _is_linear(job)]:
        note(figure, f"Left out, since costs on a linear scale are no shares: {', '.join(left_out)}.")
    return figure


def _curve(job: JobView) -> Curve | None:
    return None if job.result is None else job.result.gamma.curve


def _is_linear(job: JobView) -> bool:
    return job.result is not None and job.result.scale == "linear"


def _costs(job: JobView, curve: Curve) -> list[float]:
    """Return the cost of each gamma, as `Answer.scale` counts it: a share of the loss or error, or a difference."""
    scale = "linear" if job.result is None else job.result.scale
    sign = 1.0 if stored_spec(job.spec).objective.mode == "min" else -1.0
    if scale == "linear":
        values = [sign * value for value in curve.median]
        return [value - min(values) for value in values]
    values = [1.0 - value if scale == "log_error" else value for value in curve.median]
    return [value / min(values) - 1.0 for value in values]
