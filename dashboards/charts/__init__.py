"""Charts of a job: functions from its data to plotly figures, for pages, MLflow, notebooks and files."""

from anon_tune.dashboards.charts.advice import advice_chart
from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.page import charts_page, figure_json, is_empty
from anon_tune.dashboards.charts.registry import CHARTS, Chart
from anon_tune.dashboards.charts.style import theme

__all__ = [
    "CHARTS",
    "Chart",
    "ChartData",
    "advice_chart",
    "charts_page",
    "figure_json",
    "is_empty",
    "theme",
]
