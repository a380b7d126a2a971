"""The charts show the records, each trial once."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from anon_tune.dashboards.charts import best_so_far, charts_page, learning_curves, loss_over_gamma
from anon_tune.records import JobRecord, JobState, Phase, Trial, TrialState
from tests import builders
from tests.answers import CURVE, GAMMA, stored


def job(*trials: Trial, mode: str = "min", result: dict[str, Any] | None = None) -> JobRecord:
    metric = "loss" if mode == "min" else "accuracy"
    spec = builders.spec(objective={"metric": metric, "mode": mode}).model_dump(mode="json")
    return JobRecord(
        "j", "a <job>", JobState.SUCCEEDED, Phase.VERDICT, spec, builders.EPOCH, result=result, trials=trials
    )


def anon(
    number: int, gamma: float, value: float | None, state: TrialState = TrialState.COMPLETE, **keys: Any
) -> Trial:
    return builders.trial(
        number,
        state,
        value,
        params={"gamma": gamma, "step_size": 1.0},
        hyperparameters={"gamma": gamma},
        **keys,
    )


TRIALS = (
    anon(0, 0.5, 0.3, curve=(0.9, 0.3)),
    anon(1, -0.2, 0.1, curve=(0.8, 0.1)),
    anon(2, 1.5, None, TrialState.DIVERGED, curve=(0.9, math.nan)),
    anon(3, 1.0, None, TrialState.PRUNED, curve=(0.7,)),
    anon(4, 0.9, 0.2, curve=(0.5, 0.2)),
    builders.trial(
        0, value=0.25, arm="adamw", params={"lr": 0.1}, hyperparameters={"lr": 0.1}, curve=(0.6, 0.25)
    ),
    anon(0, 0.5, 0.4, phase=Phase.CONFIRM, curve=(0.9, 0.4)),
)


def test_the_charts_are_in_the_unit_of_the_budget() -> None:
    in_steps = job(*TRIALS)
    spec = {**in_steps.spec, "budget": {"trials": 4, "steps": 2000, "epochs": None}}
    for record, unit in ((job(*TRIALS), "epoch"), (dataclasses.replace(in_steps, spec=spec), "step")):
        curves = learning_curves(record)
        assert curves.layout.xaxis.title.text == unit
        assert f"<br>{unit} %{{x}}<br>" in curves.data[0].hovertemplate
        (pruned,) = [t for t in loss_over_gamma(record).data if t.name == "pruned (last report)"]
        assert pruned.text[0].endswith(f", {unit} 1")


def test_loss_over_gamma_has_every_search_trial_of_anon_once() -> None:
    figure = loss_over_gamma(job(*TRIALS))
    shown = {trace.name: list(trace.x) for trace in figure.data}
    assert shown == {"complete": [0.5, -0.2, 0.9], "pruned (last report)": [1.0], "diverged": [1.5]}
    (diverged,) = [trace for trace in figure.data if trace.name == "diverged"]
    assert diverged.y[0] > 0.7, "beyond the worst value shown"
    assert not figure.layout.shapes


def test_the_response_is_drawn_with_its_bands_and_where_the_best_gamma_lies() -> None:
    figure = loss_over_gamma(job(*TRIALS, result=stored(("anon",))))
    (band,) = figure.layout.shapes
    assert (band.x0, band.x1) == (GAMMA.low, GAMMA.high)
    drawn = {trace.name: trace for trace in figure.data}
    assert list(drawn["response: all else at its best"].y) == CURVE.median
    assert list(drawn["90% band"].y) == [*CURVE.high, *reversed(CURVE.low)]


def test_learning_curves_are_the_reports_and_the_best_is_bold() -> None:
    figure = learning_curves(job(*TRIALS))
    curves = {trace.text[0]: trace for trace in figure.data if trace.text}
    assert len(curves) == 6
    assert list(curves["j-anon-s001"].y) == [0.8, 0.1]
    bold = {name for name, trace in curves.items() if trace.line.width > 1}
    assert bold == {"j-anon-s001", "j-adamw-s000"}
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2


@pytest.mark.parametrize(
    ("mode", "anons"), [("min", [0.3, 0.1, 0.1, 0.1, 0.1]), ("max", [0.3, 0.3, 0.3, 0.3, 0.3])]
)
def test_best_so_far_never_gets_worse(mode: str, anons: list[float]) -> None:
    figure = best_so_far(job(*TRIALS, mode=mode))
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines["anon"].x) == [1, 2, 3, 4, 5]
    assert list(lines["anon"].y) == anons
    assert list(lines["adamw"].y) == [0.25]


def test_best_so_far_has_a_line_for_each_search_of_an_arm() -> None:
    further = (anon(0, 0.4, 0.5, repeat=1), anon(1, 0.3, 0.2, repeat=1))
    lines = [trace for trace in best_so_far(job(*TRIALS, *further)).data if trace.name == "anon"]
    assert [list(line.y) for line in lines] == [[0.3, 0.1, 0.1, 0.1, 0.1], [0.5, 0.2]]
    assert [line.showlegend for line in lines] == [True, False]
    assert lines[0].line.color == lines[1].line.color


def test_the_page_stands_alone_and_escapes_names() -> None:
    page = charts_page(job(*TRIALS))
    assert "a &lt;job&gt; (j)" in page
    assert "<job>" not in page
    assert 'src="http' not in page
    assert page.count("Plotly.newPlot(") >= 3


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("trials", [(), TRIALS[2:3], TRIALS[3:4]])
def test_a_job_that_has_hardly_begun_is_drawn_too(trials: tuple[Trial, ...], mode: str) -> None:
    assert charts_page(job(*trials, mode=mode))
