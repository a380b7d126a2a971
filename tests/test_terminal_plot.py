"""The plot of a response in characters: its points are where the trials are, in any terminal."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
from rich.console import Console

from anon_tune.answer import Curve
from anon_tune.console import live_view, response_view
from anon_tune.records import ArmRecord, JobRecord, JobState, Overview, Phase, Trial, TrialState
from anon_tune.terminal_plot import ResponsePlot, has_response
from anon_tune.views import JobView, TrialView, job_view, trial_view
from tests import builders
from tests.answers import GAMMA, stored
from tests.test_console import text


def job(result: dict[str, Any] | None = None, **objective: Any) -> JobView:
    spec = builders.spec(objective={"metric": "loss", "mode": "min", **objective}).model_dump(mode="json")
    record = JobRecord("j", "a job", JobState.RUNNING, Phase.SEARCH, spec, builders.EPOCH, result=result)
    return job_view(Overview(record, {"anon": ArmRecord({}, {}, None, 0, 0.0)}, 0))


def anon(
    number: int, gamma: float, value: float | None, state: TrialState = TrialState.COMPLETE
) -> TrialView:
    return trial_view(made(number, gamma, value, state))


def made(number: int, gamma: float, value: float | None, state: TrialState) -> Trial:
    return builders.trial(number, state, value, hyperparameters={"gamma": gamma})


def drawn(job: JobView, trials: list[TrialView], width: int = 80, encoding: str = "utf-8") -> list[str]:
    """Lines of the plot in a terminal of a width and an encoding."""
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(width=width, file=written, color_system=None).print(ResponsePlot(job, trials))
    written.seek(0)
    return written.read().splitlines()


SQUARE = [anon(n, n / 10, 10 ** -(n / 2)) for n in range(11)]
"""Trials on a line, where the objective is on a log axis."""


def places(lines: list[str], symbol: str) -> list[tuple[int, int]]:
    """Row and column of each point of the plot itself."""
    inside = [line.partition("│")[2] for line in lines if "│" in line]
    return [(row, at) for row, line in enumerate(inside) for at, sign in enumerate(line) if sign == symbol]


def test_a_loss_has_a_log_axis_on_which_factors_are_a_line():
    lines = drawn(job(), SQUARE)
    assert lines[0] == "validation loss (log axis) over gamma, search trials of anon"
    found = sorted(places(lines, "●"), key=lambda place: place[1])
    assert len(found) == 11
    slopes = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in itertools.pairwise(found)]
    assert max(slopes) - min(slopes) < 0.2, "a line, to a character"
    assert found[0][0] == 0
    assert found[-1][0] == len([line for line in lines if "│" in line]) - 1


def test_where_more_is_better_the_best_is_on_top_and_diverged_trials_at_the_bottom():
    trials = [anon(0, 0.0, 0.5), anon(1, 1.0, 0.9), anon(2, 0.5, None, TrialState.DIVERGED)]
    lines = drawn(job(metric="accuracy", mode="max"), trials)
    assert "(log axis)" not in lines[0]
    (worse, best), (diverged,) = sorted(places(lines, "●"), reverse=True), places(lines, "×")
    assert best[0] == 0
    assert worse[0] == diverged[0] > best[0]
    assert best[1] > diverged[1] > worse[1]


def test_each_state_has_a_shape_and_a_count():
    trials = [
        *SQUARE[:3],
        anon(4, 0.3, None, TrialState.PRUNED),
        anon(5, 0.4, None, TrialState.DIVERGED),
        anon(6, 0.5, None, TrialState.RUNNING),
        anon(7, 0.6, None, TrialState.FAILED),
    ]
    lines = drawn(job(), trials)
    assert lines[-1] == "● 3 complete   ○ 1 pruned   × 1 diverged   ▵ 1 running"
    assert {row for row, _ in (*places(lines, "○"), *places(lines, "×"))} == {0}
    (axis,) = [line for line in lines if "└" in line]
    assert axis.count("▵") == 1


def test_an_answer_adds_the_curve_the_good_gammas_and_the_recommended_one():
    quiet = GAMMA.model_copy(update={"deviation": 0.01})
    lines = drawn(job(stored(gamma=quiet)), SQUARE)
    legend = " ".join(lines)
    assert "estimate with all else tuned" in legend
    assert "━━ costs less than 1% more than the best" in legend
    assert "◆ recommended: 0.50" in legend
    marks = next(line for line in lines if set(line.strip()) == {"━", "◆"}).strip()
    assert 0.15 < len(marks) / len(lines[-5]) < 0.3, "from 0.4 to 0.6 of 0 to 1"
    assert any(0x2800 < ord(sign) < 0x2900 for line in lines for sign in line)
    noisy = " ".join(drawn(job(stored()), SQUARE))
    assert "━━ one run each cannot rank these" in noisy
    unsure = GAMMA.model_copy(update={"enough": False})
    assert "━" not in " ".join(drawn(job(stored(gamma=unsure)), SQUARE))


def test_the_last_number_of_an_axis_is_whole():
    trials = [anon(0, 0.0, 0.5), anon(1, 1.0, 0.9)]
    for width in range(40, 100):
        (numbers,) = [
            line.split() for line in drawn(job(), trials, width) if "gamma " in line and "over" not in line
        ]
        assert numbers[-1] == "1"
    (numbers,) = [
        line.split() for line in drawn(job(), [anon(0, 0.0, 0.5), anon(1, 1.5, 0.9)]) if " gamma  " in line
    ]
    assert numbers == ["gamma", "0", "0.5", "1", "1.5"]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_the_terminal_and_its_characters(width: int, encoding: str):
    trials = [*SQUARE, *(anon(20, 0.2, None, state) for state in TrialState)]
    lines = drawn(job(stored()), trials, width, encoding)
    assert max(map(len, lines)) <= min(width, 100)
    assert "?" not in "".join(lines)
    assert "\x1b" not in "".join(lines)
    points = "●" if encoding == "utf-8" else "o"
    assert sum(line.count(points) for line in lines if line.lstrip(" 0123456789.e-")[:1] in "│|") >= 9


def test_a_trial_that_is_far_off_does_not_flatten_the_others():
    trials = [*(anon(n, n / 10, 1.0 + n / 100) for n in range(12)), anon(12, 0.7, 1e9)]
    lines = drawn(job(), trials)
    assert len({row for row, _ in places(lines, "●")}) > 8
    assert len(places(lines, "▲")) >= 1
    assert "▲ worse than shown" in " ".join(lines)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-300, 1e300, 0.5])
def test_equal_and_extreme_values_are_drawn(value: float):
    lines = drawn(job(scale="linear"), [anon(0, 0.1, value), anon(1, 0.9, value)])
    assert len(places(lines, "●")) == 2


def test_a_curve_below_zero_has_no_place_on_a_log_axis():
    curve = Curve(
        gamma=[0.0, 1.0],
        median=[-0.5, 0.5],
        low=[-1, 0],
        high=[0, 1],
        low50=[-1, 0],
        high50=[0, 1],
        flat=[0, 1],
    )
    gamma = GAMMA.model_copy(update={"curve": curve})
    assert drawn(job(stored(gamma=gamma)), SQUARE)


def test_without_values_of_different_gammas_there_is_no_plot():
    same = [anon(0, 0.5, 1.0), anon(1, 0.5, 2.0)]
    waiting = [anon(0, 0.5, None, TrialState.RUNNING), anon(1, 0.9, None, TrialState.FAILED)]
    other = [trial_view(builders.trial(n, value=1.0, arm="sgd", hyperparameters={"lr": n})) for n in range(9)]
    rerun = [
        trial_view(builders.trial(n, value=1.0, phase=Phase.CONFIRM, hyperparameters={"gamma": n}))
        for n in (0, 1)
    ]
    for trials in ([], same, waiting, other, rerun):
        assert not has_response(trials)
        assert "No plot: " in text(response_view(job(), trials))
    assert has_response(SQUARE)


def test_the_live_view_has_a_plot_once_it_shows_something_and_fits():
    seen = job()

    def plotted(trials: list[TrialView], rows: int) -> tuple[bool, int]:
        lines = text(live_view(seen, 1.0, seen, trials, rows), 80).splitlines()
        return any("└" in line for line in lines), len(lines)

    assert not plotted(SQUARE[:3], 50)[0]
    assert not plotted(SQUARE, 12)[0]
    for rows in (24, 50):
        is_plotted, lines = plotted(SQUARE, rows)
        assert is_plotted
        assert lines < rows
