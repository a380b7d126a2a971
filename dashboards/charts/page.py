"""Figures for pages: JSON for a browser to draw, and one HTML file with all charts of a job."""

from __future__ import annotations

import gzip
import json

import plotly.graph_objects as go

from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.registry import CHARTS
from anon_tune.dashboards.charts.style import theme
from anon_tune.dashboards.pages import render, static_file

__all__ = ["charts_page", "figure_json"]


def figure_json(figure: go.Figure) -> str:
    """Return a figure as JSON for `charts.js`: data, layout, and the themes `light` and `dark` of pages."""
    found = json.loads(figure.to_json())
    themes = {"light": theme(dark=False), "dark": theme(dark=True)}
    del found["layout"]["template"]
    return json.dumps(
        {"data": found["data"], "layout": found["layout"], "themes": themes}, separators=(",", ":")
    )


def is_empty(figure: go.Figure) -> bool:
    """Return whether a figure only says why it shows nothing."""
    return bool(figure.layout.meta)


def charts_page(data: ChartData) -> str:
    """Return the charts of a job that have something to show as one HTML file, which needs no network."""
    drawn = [(chart, chart.draw(data)) for chart in CHARTS.values()]
    shown = [(chart, _embedded(figure_json(figure))) for chart, figure in drawn if not is_empty(figure)]
    return render(
        "charts_page.html",
        job=data.job,
        charts=shown or [(chart, _embedded(figure_json(figure))) for chart, figure in drawn[:1]],
        scripts=[_script("plotly.min.js"), _script("charts.js")],
    )


def _embedded(text: str) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    return text.replace("<", "\\u003c")


def _script(name: str) -> str:
    found = static_file(name)
    if found is None:
        raise KeyError(name)
    return gzip.decompress(found.content).decode()
