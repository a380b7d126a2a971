"""Figures of a job, by name, from any implementation of `Jobs`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from anon_tune.dashboards.charts import CHARTS, ChartData, figure_json, is_empty
from anon_tune.dashboards.charts.data import Source
from anon_tune.dashboards.pages.report import Picture
from anon_tune.documents import unknown
from anon_tune.errors import InputError

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["figure_of", "pictures_of"]


def figure_of(jobs: Source, job_id: str, name: str) -> go.Figure:
    """Return the figure of a name in CHARTS. Raises InputError, which lists the names, for another one."""
    if name not in CHARTS:
        raise InputError(unknown("figure", name, CHARTS))
    chart = CHARTS[name]
    return chart.draw(ChartData.of_jobs(jobs, job_id, curves=chart.needs_curves))


def pictures_of(jobs: Source, job_id: str, names: Iterable[str] = CHARTS) -> list[Picture]:
    """Return the figures that have something to show, each with its title and how to read it."""
    charts = [CHARTS[name] for name in names]
    data = ChartData.of_jobs(jobs, job_id, curves=any(chart.needs_curves for chart in charts))
    drawn = [(chart, chart.draw(data)) for chart in charts]
    return [
        Picture(chart.name, chart.title, chart.caption, figure_json(figure))
        for chart, figure in drawn
        if not is_empty(figure)
    ]
