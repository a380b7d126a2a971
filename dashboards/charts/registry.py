"""All charts of a job, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from anon_tune.dashboards.charts.best import best
from anon_tune.dashboards.charts.curves import curves
from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.importance import importance
from anon_tune.dashboards.charts.parallel import parallel
from anon_tune.dashboards.charts.response import response
from anon_tune.dashboards.charts.surface import delays, surface
from anon_tune.dashboards.charts.timeline import timeline
from anon_tune.dashboards.charts.verdict import verdict

__all__ = ["CHARTS", "Chart"]


@dataclass(frozen=True)
class Chart:
    """A chart of a job.

    Attributes:
        name: Its name in addresses and in `result.plot`.
        title: Its title.
        draw: Return the figure; one that has nothing to show says why.
        caption: How to read it.
        needs_curves: Whether it uses the learning curves.
    """

    name: str
    title: str
    draw: Callable[[ChartData], go.Figure]
    caption: str
    needs_curves: bool = False


_ALL = (
    Chart(
        "response",
        "How the result depends on gamma",
        response,
        "Each mark is one trial of Anon. The line is the estimate for each gamma with all other settings at their "
        "best, so most trials lie above it. The strips below show which gammas do well, and how sure that is.",
        needs_curves=True,
    ),
    Chart(
        "verdict",
        "Anon against the others",
        verdict,
        "Each mark is a measured difference, and the bar is its interval. A bar wholly left of 0 means that Anon is "
        "better. Differences within the shaded band are too small to matter.",
    ),
    Chart(
        "best",
        "Best so far",
        best,
        "The best value that each arm had found after so many trials, so much training or so much time. It is from "
        "one seed each; the verdict compares the winners on fresh seeds.",
    ),
    Chart(
        "curves",
        "Learning curves",
        curves,
        "Each line is one trial of the search. The bold ones are the best trial of each arm. Trials that ended early "
        "are faded, and a cross shows where one diverged.",
        needs_curves=True,
    ),
    Chart(
        "surface",
        "Gamma by step size",
        surface,
        "Each mark is one trial of Anon, and the colour is its result: bright is good. Crosses diverged. A bright "
        "region shows which step sizes go with which gamma.",
        needs_curves=True,
    ),
    Chart(
        "delays",
        "Beta3 by delay",
        delays,
        "How long Anon keeps old step sizes: beta3 is the share kept at a refresh, and the delay is how far apart "
        "refreshes are. Bright is good; crosses diverged.",
        needs_curves=True,
    ),
    Chart(
        "parallel",
        "All settings at once",
        parallel,
        "Each line is one trial, from its settings on the left to its result on the right. Settings that matter are "
        "those where the bold lines, the best trials, come close together.",
        needs_curves=True,
    ),
    Chart(
        "importance",
        "Cost of the usual settings",
        importance,
        "How much worse the result gets if one setting of Anon keeps its usual value and all others are tuned. The "
        "bars are 90% intervals. Costs within the shaded band are too small to matter.",
    ),
    Chart(
        "timeline",
        "Where the time went",
        timeline,
        "Each bar is one trial from start to end; bars above one another ran at the same time. Hatched ones ended "
        "early. The percentages are each phase's share of the trials' time.",
    ),
)

CHARTS: Mapping[str, Chart] = {chart.name: chart for chart in _ALL}
"""Charts by name, the most important ones first."""
