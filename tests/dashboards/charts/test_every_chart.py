"""What all charts have in common: jobs of any kind are drawn, small enough for a page, and alike."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from anon_tune.dashboards.charts import CHARTS, ChartData, charts_page, figure_json, is_empty, theme
from anon_tune.dashboards.charts.style import arm_colour, arm_symbol
from anon_tune.records import JobState, TrialState
from tests.answers import compared, stored
from tests.dashboards.charts import jobs
from tests.sources import ROOT

NAMES = ["response", "surface", "delays", "curves", "parallel", "importance", "best", "verdict", "timeline"]
OF_THE_ANSWER = {"importance", "verdict"}
ANSWERED = stored(("anon", "adamw", "sgd"), verdict=[compared("adamw"), compared("sgd", of="optimizer")])

WAITING = jobs.anon(0, 0.5, None, TrialState.WAITING)
RUNNING = jobs.anon(0, 0.5, None, TrialState.RUNNING, curve=(0.9, 0.8))


@pytest.fixture(scope="module")
def many() -> ChartData:
    return jobs.data(*jobs.many(), result=ANSWERED)


def texts(figure: Any) -> str:
    """All text of a figure that is not about single trials."""
    legend = figure.layout.legend.title.text or ""
    return " ".join([legend, *(each.text for each in figure.layout.annotations)]).replace("<br>", " ")


def values(drawn: Any) -> Iterator[Any]:
    """All values in JSON, also those in lists and objects."""
    if isinstance(drawn, dict | list):
        for each in drawn.values() if isinstance(drawn, dict) else drawn:
            yield from values(each)
    else:
        yield drawn


def test_the_names_are_the_addresses_of_the_pages():
    assert set(CHARTS) == set(NAMES)
    assert [chart.name for chart in CHARTS.values()] == list(CHARTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "trials",
    [
        (),
        (WAITING,),
        (RUNNING,),
        jobs.FEW[:1],
        jobs.FEW[2:3],
        jobs.FEW[3:4],
        jobs.FEW[5:6],
        jobs.DIVERGED,
        jobs.FEW,
    ],
    ids=["none", "waiting", "running", "one", "diverged", "pruned", "of a baseline", "all diverged", "few"],
)
def test_a_job_is_drawn_at_any_time(name: str, mode: str, trials: tuple[Any, ...]):
    objective = {"metric": "loss" if mode == "min" else "accuracy", "mode": mode}
    figure = CHARTS[name].draw(jobs.data(*trials, objective=objective))
    assert json.loads(figure_json(figure))["layout"]["height"] > 0
    if not trials or name in OF_THE_ANSWER:
        assert is_empty(figure)
        assert texts(figure)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ((), "No trial has started yet."),
        ((WAITING,), "No trial has finished yet."),
        (jobs.DIVERGED, "has a value"),
    ],
)
def test_an_empty_chart_says_why(trials: tuple[Any, ...], said: str):
    assert said in texts(CHARTS["best"].draw(jobs.data(*trials)))


@pytest.mark.parametrize("name", sorted(OF_THE_ANSWER))
def test_what_the_answer_lacks_is_not_promised_of_a_job_that_has_ended(name: str):
    ended = jobs.data(*jobs.FEW)
    running = dataclasses.replace(ended, job=ended.job.model_copy(update={"state": JobState.RUNNING}))
    assert "ended without an answer" in texts(CHARTS[name].draw(ended))
    assert "when the job has finished" in texts(CHARTS[name].draw(running))


@pytest.mark.parametrize("name", NAMES)
def test_five_thousand_trials_are_drawn_in_part_and_that_is_said(name: str, many: ChartData):
    figure = CHARTS[name].draw(many)
    assert len(figure_json(figure)) < 150_000
    marks = sum(len(trace.x) for trace in figure.data if trace.x is not None)
    assert marks < 6_000
    if name not in OF_THE_ANSWER | {"best"}:
        assert any(count in texts(figure) for count in ("5,000", "3,333"))


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_leaves_the_colours_of_text_and_grids_to_the_theme(name: str):
    figure = CHARTS[name].draw(jobs.data(*jobs.FEW, result=ANSWERED))
    assert not is_empty(figure)
    sent = json.loads(figure_json(figure))
    assert "template" not in sent["layout"]
    assert "color" not in sent["layout"].get("font", {})
    assert not any("color" in each.get("font", {}) for each in sent["layout"].get("annotations", ()))
    assert sent["themes"] == {"light": theme(dark=False), "dark": theme(dark=True)}
    assert not any(isinstance(value, float) and not math.isfinite(value) for value in values(sent))
    assert '"bdata"' not in figure_json(figure), "numbers are sent as numbers"


def test_the_themes_differ_in_colours_alone():
    def without_colours(drawn: Any) -> Any:
        if isinstance(drawn, dict):
            return {key: without_colours(value) for key, value in drawn.items() if "color" not in key}
        return drawn

    assert theme(dark=True) != theme(dark=False)
    assert without_colours(theme(dark=True)) == without_colours(theme(dark=False))


def test_an_arm_has_its_own_colour_and_symbol_in_every_job():
    arms = ["anon", "adamw", "lion", "muon", "sgd"]
    assert len({arm_colour(arms, arm) for arm in arms}) == len({arm_symbol(arms, arm) for arm in arms}) == 5
    assert arm_colour(["sgd", "anon"], "sgd") == arm_colour(arms, "sgd")
    data = jobs.data(*jobs.FEW)
    for name in ("best", "curves", "timeline"):
        drawn = {trace.name: trace for trace in CHARTS[name].draw(data).data if trace.showlegend}
        for arm in ("anon", "adamw"):
            colour = drawn[arm].marker.color if name == "timeline" else drawn[arm].line.color
            assert colour == arm_colour(data.arms, arm), (name, arm)


# Data


def test_the_data_of_a_record_are_its_trials_curves_and_progress():
    data = jobs.data(*jobs.FEW, result=ANSWERED)
    assert [trial.id for trial in data.trials] == [trial.id for trial in jobs.FEW]
    assert data.curves["j-anon-s001"].values == [0.8, 0.1]
    assert data.curves["j-anon-s002"].values == [0.9, None]
    anon = data.job.arms["anon"]
    assert anon.best is not None
    assert (anon.best.trial, anon.best.value) == ("j-anon-s001", 0.1)
    assert anon.trials == {TrialState.COMPLETE: 3, TrialState.PRUNED: 1, TrialState.DIVERGED: 1}
    assert anon.reruns == {TrialState.COMPLETE: 1}
    assert anon.seconds == 90.0
    assert data.job.winners.keys() == {"anon", "adamw", "sgd"}


def test_the_best_of_a_record_follows_the_mode():
    data = jobs.data(*jobs.FEW, objective={"metric": "accuracy", "mode": "max"})
    best = data.job.arms["anon"].best
    assert best is not None
    assert best.trial == "j-anon-s000"


def test_curves_are_read_only_if_they_are_asked_for():
    whole = jobs.data(*jobs.FEW)

    class Source:
        def job(self, job_id: str) -> Any:
            return whole.job

        def list_trials(self, job_id: str) -> Any:
            return whole.trials

        def curves(self, job_id: str) -> Any:
            return whole.curves

    assert ChartData.of_jobs(Source(), "j") == whole
    assert ChartData.of_jobs(Source(), "j", curves=False).curves == {}
    for chart in CHARTS.values():
        without = dataclasses.replace(whole, curves={})
        if not chart.needs_curves:
            assert chart.draw(without) == chart.draw(whole), chart.name


# The page


def test_the_page_stands_alone_and_escapes_names():
    page = charts_page(jobs.data(*jobs.FEW, result=ANSWERED))
    assert "a &lt;job&gt; (j)" in page
    assert "<job>" not in page
    assert 'src="http' not in page
    assert page.count('class="chart" data-figure') == len(CHARTS)
    assert len(page) < 6_000_000


def test_the_page_leaves_out_charts_that_have_nothing_to_show():
    few = charts_page(jobs.data(*jobs.FEW))
    assert "figure-response" in few
    assert "figure-verdict" not in few
    assert "No trial has started yet." in charts_page(jobs.data())


def test_a_figure_cannot_end_the_script_that_it_stands_in():
    space = {"</script><b>": 0.1}
    odd = jobs.trial(0, 0.3, arm="adamw", params=space, hyperparameters=space, curve=(0.3,))
    other = dataclasses.replace(odd, id="j-adamw-s001", params={"</script><b>": 0.2})
    page = charts_page(jobs.data(odd, other))
    assert "</script><b>" not in page


# Documentation


def test_every_chart_is_in_the_documentation():
    page = (ROOT / "docs" / "charts.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == list(CHARTS)


def test_no_trace_needs_webgl():
    figures = [chart.draw(jobs.data(*jobs.FEW, result=ANSWERED)) for chart in CHARTS.values()]
    assert {trace.type for figure in figures for trace in figure.data} == {"scatter", "bar"}
