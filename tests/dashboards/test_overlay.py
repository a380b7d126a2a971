"""The chart that compares jobs."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.answer import Gamma
from anon_tune.dashboards.overlay import responses
from anon_tune.records import JobRecord, JobState, Overview, Phase
from anon_tune.views import JobView, job_view
from tests import builders
from tests.answers import CURVE, GAMMA, stored


def job(name: str, mode: str = "min", **answer: Any) -> JobView:
    metric = "loss" if mode == "min" else "accuracy"
    spec = builders.spec(name=name, objective={"metric": metric, "mode": mode}).model_dump(mode="json")
    result = stored(**answer) if answer else None
    return job_view(
        Overview(
            JobRecord(name, name, JobState.SUCCEEDED, Phase.VERDICT, spec, builders.EPOCH, result=result),
            {},
            0,
        )
    )


def test_each_response_is_relative_to_its_own_best_gamma() -> None:
    larger = CURVE.model_copy(update={"median": [3.0, 2.0, 4.0]})
    figure = responses(
        [
            job("a", scale="log", gamma=GAMMA),
            job("b", scale="log", gamma=GAMMA.model_copy(update={"curve": larger})),
        ]
    )
    assert [line.name for line in figure.data] == ["a (a)", "b (b)"]
    for line in figure.data:
        assert list(line.y) == pytest.approx([0.5, 0.0, 1.0])
    assert len({(line.line.color, line.line.dash) for line in figure.data}) == 2


@pytest.mark.parametrize(
    ("scale", "mode", "medians", "costs"),
    [
        ("log_error", "max", [0.7, 0.8, 0.6], [0.5, 0.0, 1.0]),
        ("linear", "min", [3.0, 2.0, -1.0], [4.0, 3.0, 0.0]),
        ("linear", "max", [3.0, 2.0, -1.0], [0.0, 1.0, 4.0]),
    ],
)
def test_a_cost_is_counted_on_the_scale_of_the_answer(
    scale: str, mode: str, medians: list[float], costs: list[float]
) -> None:
    gamma = GAMMA.model_copy(update={"curve": CURVE.model_copy(update={"median": medians})})
    (line,) = responses([job("a", mode, scale=scale, gamma=gamma)]).data
    assert list(line.y) == pytest.approx(costs)


def test_jobs_without_a_response_are_left_out() -> None:
    assert len(responses([]).data) == 0
    assert len(responses([job("a"), job("b", gamma=Gamma(best=None))]).data) == 0


def test_costs_that_are_no_shares_are_not_drawn_as_shares() -> None:
    linear, other = job("a", scale="linear", gamma=GAMMA), job("b", scale="log", gamma=GAMMA)
    figure = responses([linear, other])
    assert [line.name for line in figure.data] == ["b (b)"]
    assert "linear scale are no shares: a." in figure.layout.legend.title.text.replace("<br>", " ")
    assert figure.layout.yaxis.tickformat == ".0%"
    alone = responses([linear, job("c")])
    assert [line.name for line in alone.data] == ["a (a)"]
    assert alone.layout.legend.title.text is None
    assert not alone.layout.yaxis.tickformat
