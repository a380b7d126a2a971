"""Charts of single trials: surface, delays, learning curves, parallel coordinates, best so far, timeline."""

from __future__ import annotations

import math
from typing import Any

import pytest

from anon_tune.dashboards.charts import CHARTS, is_empty
from anon_tune.dashboards.charts.style import arm_colour
from anon_tune.dashboards.charts.units import time_in_words
from anon_tune.records import Phase, TrialState
from tests.dashboards.charts import jobs


def draw(name: str, *trials: Any, **keys: Any) -> Any:
    return CHARTS[name].draw(jobs.data(*trials, **keys))


def marks(figure: Any) -> dict[str, Any]:
    """Traces of trials by name, without those for the legend alone."""
    return {trace.name: trace for trace in figure.data if list(trace.x) != [None]}


def lines(trace: Any) -> list[tuple[list[Any], list[Any]]]:
    """The lines that a trace draws with gaps between them."""
    found: list[tuple[list[Any], list[Any]]] = [([], [])]
    for x, y in zip(trace.x, trace.y, strict=True):
        if x is None:
            found.append(([], []))
        else:
            found[-1][0].append(x)
            found[-1][1].append(y)
    return found


# Surface and delays


def test_the_surface_has_gamma_step_size_and_the_objective_as_colour():
    figure = draw("surface", *jobs.FEW)
    complete = marks(figure)["complete"]
    assert (list(complete.x), list(complete.y)) == ([0.5, -0.2, 0.9], [1.0, 4.0, 1.0])
    assert list(complete.customdata) == [0.3, 0.1, 0.2]
    assert list(complete.marker.color) == pytest.approx([math.log10(v) for v in (0.3, 0.1, 0.2)], abs=1e-4)
    assert marks(figure)["diverged"].marker.symbol == "x"
    assert figure.layout.yaxis.type == "log"
    axis = figure.layout.coloraxis
    assert axis.reversescale, "a small loss is bright"
    assert axis.colorbar.ticktext[0] == "0.1"


def test_the_colours_of_an_accuracy_are_brightest_at_the_largest():
    figure = draw("surface", *jobs.FEW, objective={"metric": "accuracy", "mode": "max"})
    axis = figure.layout.coloraxis
    assert not axis.reversescale
    assert (axis.cmin, axis.cmax) == (0.1, 0.7)


def test_without_step_sizes_the_surface_has_learning_rates():
    params = {"gamma": 0.5}
    trial = jobs.trial(0, 0.3, params=params, hyperparameters={**params, "lr": 0.02}, curve=(0.3,))
    figure = draw("surface", trial)
    assert list(marks(figure)["complete"].y) == [0.02]
    assert figure.layout.yaxis.title.text == "learning rate"


def test_delays_has_a_plot_for_each_family_of_refreshes():
    assert list(marks(draw("delays", *jobs.FEW))["complete"].y) == [2.0, 3.0, 2.0]
    assert list(marks(draw("delays", *jobs.FEW))["complete"].x) == [0.5, 0.7, 0.5]
    betas = {"gamma": 0.5, "betas": [0.9, 0.99, 0.4]}
    every = jobs.trial(9, 0.2, params={"delay_period": 20}, hyperparameters=betas, curve=(0.2,))
    figure = draw("delays", *jobs.FEW, every)
    by_plot = {
        trace.yaxis: list(trace.y) for trace in figure.data if trace.name == "complete" and trace.x != (None,)
    }
    assert by_plot == {"y": [2.0, 3.0, 2.0], "y2": [20.0]}
    assert "period" in figure.layout.yaxis2.title.text


def test_a_delay_that_is_fixed_is_said():
    fixed = jobs.trial(0, 0.3, params={"gamma": 0.5}, hyperparameters={"gamma": 0.5}, curve=(0.3,))
    figure = draw("delays", fixed)
    assert is_empty(figure)
    assert "fixes the delay" in figure.layout.annotations[0].text


# Learning curves


def test_learning_curves_are_the_reports_and_the_best_of_each_arm_is_bold():
    figure = draw("curves", *jobs.FEW)
    bold = {
        trace.name: lines(trace) for trace in figure.data if trace.mode == "lines" and trace.line.width == 4
    }
    assert bold == {"anon": [([1, 2], [0.8, 0.1])], "adamw": [([1, 2], [0.6, 0.25])]}
    kept, ended = (
        [trace for trace in figure.data if "lines" in trace.mode and trace.line.width == width]
        for width in (1.3, 1)
    )
    assert [lines(trace) for trace in kept] == [[([1, 2], [0.9, 0.3]), ([1, 2], [0.5, 0.2])]]
    assert [lines(trace) for trace in ended] == [[([1, 2], [0.9, None]), ([1], [0.7])]]
    assert [trace.mode for trace in (*kept, *ended)] == ["lines", "lines+markers"]
    assert list(ended[0].marker.size) == [0, 0, 0, 6], "a line of one report is invisible"
    (cross,) = [trace for trace in figure.data if trace.mode == "markers"]
    assert (list(cross.x), list(cross.y), list(cross.text)) == ([1], [0.9], ["anon-s002"])
    assert [trace.name for trace in figure.data if trace.showlegend] == ["anon", "adamw"]


def test_learning_curves_are_in_the_unit_of_the_budget():
    keys = {
        "budget": {"trials": 4, "steps": 2000},
        "task": "train:train",
        "folder": "/x",
        "data": None,
        "model": None,
    }
    for given, unit in (({}, "epoch"), (keys, "step")):
        figure = draw("curves", *jobs.FEW, **given)
        assert figure.layout.xaxis.title.text == unit
        assert f"<br>{unit} %{{x}}<br>" in figure.data[0].hovertemplate


def test_long_curves_keep_their_ends():
    long = jobs.anon(0, 0.5, 0.001, curve=[1 / step for step in range(1, 1001)])
    ((x, y),) = lines(draw("curves", long).data[0])
    assert len(x) == 40
    assert (x[0], x[-1], y[0], y[-1]) == (1, 1000, 1.0, 0.001)


# Parallel coordinates


def test_a_line_goes_through_the_coordinates_to_the_objective():
    figure = draw("parallel", *jobs.FEW)
    drawn = {trace.name: trace for trace in figure.data if trace.name}
    names = [text.replace("<br>", " ") for text in figure.layout.xaxis.ticktext]
    assert names == ["gamma", "step size", "beta3", "delay", "validation loss"]
    ((x, y),) = lines(drawn["anon: the best"])
    assert x == [0, 1, 2, 3, 4]
    assert y == [0.0, 1.0, 1.0, 1.0, 0.0], "the smallest gamma and loss, the largest of the others"
    assert drawn["anon: the best"].text[1] == "anon-s001: 4"
    ends = [y[-1] for _, y in lines(drawn["anon: ended early"])]
    assert ends[0] > 1, "diverged, beyond the worst value"
    assert ends[1] == 1.0


def test_a_button_shows_the_lines_of_one_arm():
    figure = draw("parallel", *jobs.FEW)
    first, second = figure.layout.updatemenus[0].buttons
    assert (first.label, second.label) == ("anon", "adamw")
    shown = [trace.name for trace, seen in zip(figure.data, second.args[0]["visible"], strict=True) if seen]
    assert [name for name in shown if name] == ["adamw: the best"]
    assert list(second.args[1]["xaxis"]["ticktext"]) == ["lr", "validation<br>loss"]
    assert [trace.visible for trace in figure.data] == first.args[0]["visible"]


def test_choices_and_wide_ranges_have_axes_too():
    def trial(number: int, lr: float, kind: str) -> Any:
        params = {"lr": lr, "kind": kind}
        return jobs.trial(
            number, 0.3 + number, arm="adamw", params=params, hyperparameters=params, curve=(0.3,)
        )

    figure = draw("parallel", trial(0, 1e-4, "b"), trial(1, 1e-3, "a"), trial(2, 1e-2, "a"))
    places = [y for trace in figure.data if trace.name for _, y in lines(trace)]
    assert sorted(y[0] for y in places) == pytest.approx([0.0, 0.5, 1.0]), "a log axis"
    assert sorted(y[1] for y in places) == [0.25, 0.25, 0.75]
    (ticks,) = [trace for trace in figure.data if trace.mode == "text"]
    assert {"a", "b", "0.0001", "0.01"} <= set(ticks.text)


# Best so far


@pytest.mark.parametrize(
    ("mode", "x", "y"),
    [("min", [1, 2, 5], [0.3, 0.1, 0.1]), ("max", [1, 5], [0.3, 0.3])],
)
def test_best_so_far_never_gets_worse(mode: str, x: list[int], y: list[float]):
    objective = {"metric": "loss" if mode == "min" else "accuracy", "mode": mode}
    drawn = marks(draw("best", *jobs.FEW, objective=objective))
    assert (list(drawn["anon"].x), list(drawn["anon"].y)) == (x, y)
    assert (list(drawn["adamw"].x), list(drawn["adamw"].y)) == ([1], [0.25])


def test_best_so_far_can_be_seen_against_epochs_and_time():
    figure = draw("best", *jobs.FEW)
    trials, epochs, time = figure.layout.updatemenus[0].buttons
    assert [button.label for button in (trials, epochs, time)] == ["trials", "epochs", "time"]
    assert trials.args[0]["x"][0] == [1, 2, 5]
    assert epochs.args[0]["x"][0] == [2, 4, 9], "with the epochs of trials that ended early"
    assert time.args[0]["x"][0] == [20, 50, 80]
    assert time.args[1]["xaxis.title.text"] == "seconds of training"


def test_best_so_far_has_a_line_for_each_search_of_an_arm():
    further = (jobs.anon(0, 0.4, 0.5, repeat=1), jobs.anon(1, 0.3, 0.2, repeat=1))
    drawn = [trace for trace in draw("best", *jobs.FEW, *further).data if trace.name == "anon"]
    assert [list(line.y) for line in drawn] == [[0.3, 0.1, 0.1], [0.5, 0.2]]
    assert [line.showlegend for line in drawn] == [True, False]
    assert drawn[0].line.color == drawn[1].line.color


# Timeline


def test_the_timeline_has_each_trial_from_start_to_end_in_a_free_row():
    figure = draw("timeline", *jobs.FEW)
    bars = {
        text.split("<br>")[0]: (base, length, row, trace.marker.color)
        for trace in figure.data
        for text, base, length, row in zip(trace.text, trace.base, trace.x, trace.y, strict=True)
    }
    blue = arm_colour([], "anon")
    assert bars["anon-s000"] == (0, 20, 0, blue)
    assert bars["anon-s001"] == (0, 30, 1, blue)
    assert bars["anon-s002"] == (20, 10, 0, blue)
    assert bars["adamw-s000"] == (40, 10, 0, arm_colour([], "adamw"))
    assert len(bars) == len(jobs.FEW)


def test_the_timeline_says_the_share_of_each_phase():
    verdict = jobs.anon(0, 0.5, 0.4, phase=Phase.VERDICT, curve=(0.4,), start=60, seconds=50)
    figure = draw("timeline", *jobs.FEW, verdict)
    # 20 + 30 + 10 + 10 + 10 + 10 seconds of search, 10 of confirm, 50 of verdict.
    assert [each.text for each in figure.layout.annotations] == ["search 60%", "confirm 7%", "verdict 33%"]
    assert [each.x for each in figure.layout.annotations] == [0, 50, 60]


def test_a_running_trial_reaches_to_the_last_moment_that_is_known():
    running = jobs.anon(5, 0.5, None, TrialState.RUNNING, curve=(0.9,), start=10)
    figure = draw("timeline", *jobs.FEW, running)
    (bar,) = [
        (base, length)
        for trace in figure.data
        for text, base, length in zip(trace.text, trace.base, trace.x, strict=True)
        if "running" in text
    ]
    assert bar == (10, 50)


def test_many_trials_are_counted_over_time():
    figure = draw("timeline", *jobs.many(2000))
    drawn = marks(figure)
    together = [sum(pair) for pair in zip(drawn["anon"].y, drawn["adamw"].y, strict=True)]
    # Three start every 5 seconds and take 14, so 8.4 run at a time.
    assert sum(together) / len(together) == pytest.approx(8.4, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, "0 seconds"), (90, "90 seconds"), (600, "10 minutes"), (1e5, "27.8 hours")]
)
def test_times_are_in_units_that_people_use(seconds: float, said: str):
    assert time_in_words(seconds) == said
