"""The objective over gamma."""

from __future__ import annotations

import dataclasses
from typing import Any

from anon_tune.dashboards.charts import CHARTS
from anon_tune.records import TrialState
from tests.answers import CURVE, GAMMA, stored
from tests.dashboards.charts import jobs


def draw(*trials: Any, **keys: Any) -> Any:
    return CHARTS["response"].draw(jobs.data(*trials, **keys))


def named(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def test_every_search_trial_of_anon_is_drawn_once():
    drawn = named(draw(*jobs.FEW))
    shown = {
        name: (list(trace.x), list(trace.text)) for name, trace in drawn.items() if trace.mode == "markers"
    }
    assert shown == {
        "complete": ([0.5, -0.2, 0.9], ["anon-s000", "anon-s001", "anon-s004"]),
        "pruned early (last value)": ([1.0], ["anon-s003"]),
        "diverged": ([1.5], ["anon-s002"]),
    }
    assert list(drawn["complete"].y) == [0.3, 0.1, 0.2]
    assert list(drawn["pruned early (last value)"].y) == [0.7]


def test_diverged_trials_are_at_the_worse_end_of_the_axis():
    for mode, metric in (("min", "loss"), ("max", "accuracy")):
        figure = draw(*jobs.FEW, objective={"metric": metric, "mode": mode})
        (y,) = named(figure)["diverged"].y
        low, high = figure.layout.yaxis.range
        if mode == "min":
            assert figure.layout.yaxis.type == "log"
            assert 0.7 < y < 10**high
        else:
            assert figure.layout.yaxis.type == "linear"
            assert low < y < 0.1


def test_a_value_that_is_far_off_does_not_stretch_the_axis():
    far = jobs.anon(9, 0.7, 1e9)
    figure = draw(*jobs.FEW, far)
    (outside,) = [trace for trace in figure.data if trace.name == "worse than the axis shows"]
    assert (list(outside.x), list(outside.customdata)) == ([0.7], [1e9])
    assert 10 ** figure.layout.yaxis.range[1] < 10
    assert 0.7 < outside.y[0] < 10 ** figure.layout.yaxis.range[1]


def test_the_response_is_drawn_with_its_bands():
    figure = draw(*jobs.FEW, result=stored(("anon",)))
    drawn = named(figure)
    assert list(drawn["90% band"].y) == [*CURVE.high, *reversed(CURVE.low)]
    assert list(drawn["50% band"].y) == [*CURVE.high50, *reversed(CURVE.low50)]
    median = drawn["estimate with all else tuned, 50% and 90% bands"]
    assert (list(median.x), list(median.y)) == (CURVE.gamma, CURVE.median)


def test_the_good_gammas_are_labelled_strips_and_the_recommended_one_is_marked():
    figure = draw(*jobs.FEW, result=stored(("anon",)))
    strips: dict[str, list[tuple[float, float]]] = {}
    for trace in figure.data:
        if trace.yaxis == "y2":
            strips.setdefault(trace.name, []).append(tuple(trace.x))
    assert strips == {
        "where the best gamma lies (90%; thick: 50%)": [(0.2, 0.8), (0.4, 0.6)],
        "flat: costs less than 1% more": [(0.4, 0.6)],
        "differ less than seeds do": [(-0.2, 0.9)],
    }
    labels = [each.text for each in figure.layout.annotations]
    assert set(labels) == {*strips, "recommended: 0.50"}
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == GAMMA.best


def test_other_arms_are_lines_at_their_best():
    without = named(draw(*jobs.FEW))
    assert list(without["best of adamw"].y) == [0.25, 0.25]
    with_answer = named(draw(*jobs.FEW, result=stored(("anon", "adamw"))))
    assert list(with_answer["best of adamw"].y) == [0.9, 0.9], "the mean of the winner's confirm runs"
    assert "best of anon" not in without


def test_an_answer_without_an_interval_has_no_strips():
    few = GAMMA.model_copy(
        update={"low": None, "high": None, "curve": None, "flat": [], "indistinguishable": []}
    )
    figure = draw(*jobs.FEW, result=stored(("anon",), gamma=few))
    assert not any(trace.yaxis == "y2" for trace in figure.data)
    assert [each.text for each in figure.layout.annotations] == ["recommended: 0.50"]


def test_that_all_trials_diverged_is_said_and_no_value_is_made_up():
    figure = draw(*jobs.DIVERGED)
    assert "so far diverged" in figure.layout.legend.title.text.replace("<br>", " ")
    assert figure.layout.yaxis.showticklabels is False
    assert [trace.name for trace in figure.data] == ["diverged"]


def test_a_running_trial_is_drawn_at_its_last_value():
    running = dataclasses.replace(jobs.FEW[3], state=TrialState.RUNNING)
    drawn = named(draw(jobs.FEW[0], running))["running (last value)"]
    assert list(drawn.y) == [0.7]
    assert drawn.marker.symbol == "circle-open-dot"
