"""The verdict as a forest plot: how much Anon differs from each baseline, and how sure that is."""

from __future__ import annotations

import plotly.graph_objects as go

from anon_tune.answer import Answer, Comparison, Outcome
from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.intervals import Row, forest
from anon_tune.dashboards.charts.style import arm_colour, arm_symbol, empty
from anon_tune.sentences import signed

__all__ = ["verdict"]

_WORDS = {
    Outcome.BETTER: "Anon is better than {}",
    Outcome.WORSE: "Anon is worse than {}",
    Outcome.EQUAL: "Anon and {} are practically equal",
    Outcome.UNDECIDED: "Anon or {}: undecided",
}


def verdict(data: ChartData) -> go.Figure:
    """Return the differences between Anon and each baseline with their intervals, and the outcome in words."""
    answer = data.answer
    if answer is None:
        return empty(data.without_answer("Verdicts"))
    if not answer.verdict:
        return empty("There is no verdict: no other arm was compared with Anon.")
    rows = [_row(each, answer, data) for each in answer.verdict]
    shares = answer.scale != "linear"
    split, metric = "test" if answer.tested else "validation", data.spec.objective.metric
    measured = f"{split} error (1 - {metric})" if answer.scale == "log_error" else f"{split} {metric}"
    if answer.scale == "linear" and not data.minimizes:
        measured = f"-{metric}"
    title = f"{measured}: Anon compared with the other<br>left of 0: Anon is better"
    return forest(rows, title, shares=shares, practical=answer.gamma.practical, lines=2)


def _row(each: Comparison, answer: Answer, data: ChartData) -> Row:
    outcome = _WORDS[each.outcome].format(each.baseline)
    runs = f"these settings, {each.seeds} seeds" if each.of == "configuration" else "if each is tuned anew"
    measured = "nothing could be compared"
    if each.low is not None and each.high is not None:
        ends = f"{signed(each.low, answer)} to {signed(each.high, answer)}"
        measured = ends if each.difference is None else f"{signed(each.difference, answer)} ({ends})"
    arms = data.arms
    look = (arm_colour(arms, each.baseline), arm_symbol(arms, each.baseline))
    label = f"<b>{outcome}</b><br>{runs}: {measured}"
    hover = f"{outcome}<br>{measured}, {each.level:.0%} interval"
    return Row(label, each.difference, each.low, each.high, *look, hover)
