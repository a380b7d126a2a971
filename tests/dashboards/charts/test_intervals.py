"""Forest plots: verdict, costs of settings, and advice."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.advice.statement import Advice, Basis, Published, Source
from anon_tune.answer import Customary, Interval, Outcome
from anon_tune.dashboards.charts import CHARTS, advice_chart, is_empty
from anon_tune.dashboards.charts.style import arm_colour
from tests.answers import GAMMA, compared, stored
from tests.dashboards.charts import jobs


def draw(name: str, **answer: Any) -> Any:
    return CHARTS[name].draw(jobs.data(*jobs.FEW, result=stored(**answer)))


def rows(figure: Any) -> dict[str, tuple[float | None, list[float]]]:
    """The number and the interval of each row, by the first line of its label, from top to bottom."""
    found: dict[str, tuple[float, float | None, list[float]]] = {}
    for trace in figure.data:
        name = trace.name.split("<br>")[0]
        place, middle, ends = found.get(name, (trace.y[0], None, []))
        found[name] = (place, middle, list(trace.x)) if trace.mode == "lines" else (place, trace.x[0], ends)
    return {name: tuple(row[1:]) for name, row in sorted(found.items(), key=lambda item: -item[1][0])}


VERDICT = [
    compared("adamw", Outcome.BETTER, difference=-0.09, low=-0.12, high=-0.05),
    compared("adamw", of="optimizer", difference=-0.04, low=-0.2, high=0.1),
    compared("sgd", Outcome.EQUAL, difference=0.002, low=-0.006, high=0.008),
]


def test_the_verdict_shows_differences_with_intervals_and_outcomes_in_words():
    figure = draw("verdict", verdict=VERDICT)
    assert rows(figure) == {
        "<b>Anon is better than adamw</b>": (-0.09, [-0.12, -0.05]),
        "<b>Anon or adamw: undecided</b>": (-0.04, [-0.2, 0.1]),
        "<b>Anon and sgd are practically equal</b>": (0.002, [-0.006, 0.008]),
    }
    labels = " ".join(each.text for each in figure.layout.annotations)
    assert "these settings, 10 seeds: -9% (-12% to -5%)" in labels
    assert "if each is tuned anew: -4% (-20% to +10%)" in labels
    colours = [trace.line.color for trace in figure.data if trace.mode == "lines"]
    assert set(colours) == {arm_colour([], "adamw"), arm_colour([], "sgd")}


def test_the_practical_margin_is_shaded():
    figure = draw("verdict", verdict=VERDICT)
    (margin,) = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (margin.x0, margin.x1) == (-0.01, 0.01)
    without = GAMMA.model_copy(update={"practical": None})
    figure = draw("verdict", verdict=VERDICT, gamma=without)
    assert not [shape for shape in figure.layout.shapes if shape.type == "rect"]


def test_a_comparison_without_numbers_is_named():
    nothing = compared("sgd", difference=None, low=None, high=None, seeds=1)
    figure = draw("verdict", verdict=[nothing])
    assert "nothing could be compared" in figure.layout.annotations[0].text
    assert len(figure.data) == 0


def test_an_enormous_difference_is_cut_off():
    figure = draw("verdict", verdict=[compared("sgd", difference=3.0, low=0.5, high=1e9)])
    assert rows(figure) == {"<b>Anon or sgd: undecided</b>": (3.0, [0.5, 10.0])}
    assert figure.layout.xaxis.range[1] < 12
    assert "over +1,000%" in figure.layout.annotations[0].text


def test_an_answer_without_comparisons_says_so():
    assert is_empty(draw("verdict", verdict=[]))


@pytest.mark.parametrize(("scale", "ticks"), [("log", "+.1~%"), ("linear", ".3~g")])
def test_differences_are_in_percent_unless_the_scale_is_linear(scale: str, ticks: str):
    assert draw("verdict", verdict=VERDICT, scale=scale).layout.xaxis.tickformat == ticks


def test_importance_is_what_usual_settings_cost():
    customary = [Customary(coordinate="beta3", value=0.5, cost=Interval(low=-0.01, middle=0.01, high=0.05))]
    gamma = GAMMA.model_copy(update={"outside": Interval(low=-0.2, middle=-0.1, high=0.1)})
    assert rows(draw("importance", customary=customary, gamma=gamma)) == {
        "gamma 0, as SGD": (0.12, [0.05, 0.21]),
        "gamma 1, as Adam": (0.003, [0.0, 0.02]),
        "gamma outside 0 to 1, at its best": (-0.1, [-0.2, 0.1]),
        "the usual beta3, 0.5": (0.01, [-0.01, 0.05]),
    }


def test_an_answer_from_few_trials_has_no_costs():
    figure = draw("importance", gamma=GAMMA.model_copy(update={"costs": []}))
    assert is_empty(figure)
    assert "Too few trials" in figure.layout.annotations[0].text


# Advice


def basis(job: str, best: float | None, weight: float = 0.5, **keys: Any) -> Basis:
    return Basis(job=job, name=f"job <{job}>", best=best, low=0.1, high=0.9, weight=weight, **keys)


def test_advice_shows_the_advised_gamma_above_those_of_past_jobs():
    published = Published(low=-0.1, high=0.1, text="", source="a paper")
    found = Advice(
        family="cnn",
        gamma=0.4,
        low=0.0,
        high=0.8,
        source=Source.JOBS,
        jobs=[basis("a", 0.5), basis("b", None, 0.0, shipped=True)],
        published=published,
    )
    assert rows(advice_chart(found)) == {
        "<b>advised for cnn: 0.40</b>": (0.4, [0.0, 0.8]),
        "job &lt;a&gt; (job a)": (0.5, [0.1, 0.9]),
        "job &lt;b&gt; (shipped search)": (None, [0.1, 0.9]),
        "published examples": (None, [-0.1, 0.1]),
    }


def test_advice_from_many_jobs_shows_those_that_count_most():
    found = Advice(family="mlp", gamma=0.4, jobs=[basis(str(n), 0.5, n / 100) for n in range(50)])
    figure = advice_chart(found)
    assert len(rows(figure)) == 21
    assert "job &lt;49&gt; (job 49)" in rows(figure)
    assert "the 20 of 50 searches" in figure.layout.xaxis.title.text


def test_no_advice_is_said():
    figure = advice_chart(Advice(family="recurrent"))
    assert is_empty(figure)
    assert "recurrent" in figure.layout.annotations[0].text
