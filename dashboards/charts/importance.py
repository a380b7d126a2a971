"""The cost of moving Anon's coordinates to their usual values, from the job's answer."""

from __future__ import annotations

from collections.abc import Iterator

import plotly.graph_objects as go

from anon_tune.answer import Answer, Cost, Interval
from anon_tune.dashboards.charts.data import ChartData
from anon_tune.dashboards.charts.intervals import Row, forest
from anon_tune.dashboards.charts.style import arm_colour, arm_symbol, empty
from anon_tune.sentences import signed

__all__ = ["importance"]

_GAMMAS = {0.0: "gamma 0, as SGD", 1.0: "gamma 1, as Adam"}


def importance(data: ChartData) -> go.Figure:
    """Return what it costs to fix a coordinate when all others are tuned, with 90% intervals."""
    answer = data.answer
    if answer is None:
        return empty(data.without_answer("Costs of settings"))
    look = arm_colour(data.arms, "anon"), arm_symbol(data.arms, "anon")
    rows = [_row(label, cost, answer, *look) for label, cost in _costs(answer)]
    if not rows:
        return empty("Too few trials of Anon completed to estimate what its coordinates cost.")
    shares = answer.scale != "linear"
    of = (
        f"error (1 - {data.spec.objective.metric})"
        if answer.scale == "log_error"
        else data.spec.objective.metric
    )
    title = f"more {of} than with the best value" if shares else f"worse {of} than with the best value"
    return forest(rows, title, shares=shares, practical=answer.gamma.practical, lines=2)


def _costs(answer: Answer) -> Iterator[tuple[str, Interval | Cost]]:
    for cost in answer.gamma.costs:
        yield _GAMMAS.get(cost.gamma, f"gamma {cost.gamma:g}"), cost
    if answer.gamma.outside is not None:
        yield "gamma outside 0 to 1, at its best", answer.gamma.outside
    for each in answer.customary:
        yield f"the usual {each.coordinate}, {each.value:g}", each.cost


def _row(label: str, cost: Interval | Cost, answer: Answer, colour: str, symbol: str) -> Row:
    middle = cost.cost if isinstance(cost, Cost) else cost.middle
    said = f"{signed(middle, answer)} ({signed(cost.low, answer)} to {signed(cost.high, answer)})"
    return Row(f"{label}<br><b>{said}</b>", middle, cost.low, cost.high, colour, symbol, said)
