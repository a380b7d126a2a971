"""The advice on a model as a forest plot: the best gammas of past jobs, and the advised one."""

from __future__ import annotations

from collections.abc import Iterator

import plotly.graph_objects as go

from anon_tune.advice.statement import Advice, Basis
from anon_tune.dashboards.charts.intervals import Row, forest
from anon_tune.dashboards.charts.style import GREY, arm_colour, empty, plain

__all__ = ["advice_chart"]

_MOST = 20
_PAST = "#56B4E9"


def advice_chart(found: Advice) -> go.Figure:
    """Return the advised gamma with its interval, and below it those of the searches that it is based on."""
    rows = list(_rows(found))
    if not rows:
        return empty(f"Nothing is known about gamma for {plain(found.family)} yet.")
    title = "gamma (0: as SGD, 1: as Adam)"
    if len(found.jobs) > _MOST:
        title += f"<br>the {_MOST} of {len(found.jobs)} searches with the most weight"
    return forest(rows, title, zero=False)


def _rows(found: Advice) -> Iterator[Row]:
    if found.gamma is not None:
        colour = arm_colour((), "anon")
        label = f"<b>advised for {plain(found.family)}: {found.gamma:.2f}</b>"
        hover = f"the best gamma of the next model, {found.level:.0%} interval"
        yield Row(label, found.gamma, found.low, found.high, colour, "diamond", hover)
    kept = sorted(found.jobs, key=lambda job: -job.weight)[:_MOST]
    yield from (_row(job) for job in found.jobs if job in kept)
    if found.published is not None:
        low, high = found.published.low, found.published.high
        yield Row("published examples", None, low, high, GREY, hover=plain(found.published.source))


def _row(job: Basis) -> Row:
    kind = "shipped search" if job.shipped else f"job {job.job}"
    weight = f"weight {job.weight:.0%}" if job.weight >= 0.005 else "weight 0%: it cannot distinguish gammas"
    hover = f"{kind}<br>{weight}"
    return Row(f"{plain(job.name)} ({kind})", job.best, job.low, job.high, _PAST, hover=hover)
