"""Which configuration is recommended: by a smoothed value where there are enough trials."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from anon_tune.records import Trial, TrialState
from anon_tune.search import landscape
from anon_tune.search.landscape import Landscape
from anon_tune.search.recommend import ranked, recommended
from anon_tune.search_spaces import Space, load_space
from anon_tune.spec import Objective
from tests.builders import trial
from tests.search.spaces import LINE, MIXED, anon_space

PLANE = anon_space({"gamma": {"low": 0.0, "high": 1.0}, "step_size": {"low": 0.01, "high": 1.0, "log": True}})


def true(space: Space, params: Mapping[str, Any]) -> float:
    """The loss of a bowl, least in the middle."""
    return 0.5 + float(sum((u - 0.5) ** 2 for u in space.unit(params)))


def bowl(space: Space, seed: int, count: int, noise: float) -> tuple[list[Trial], list[float]]:
    """Trials at random places, with noisy losses; and their true ones."""
    rng = np.random.default_rng(seed)
    trials, truths = [], []
    for n in range(count):
        params = space.complete(rng.random(len(space.parameters)), {})
        truths.append(true(space, params))
        trials.append(trial(n, value=truths[-1] * math.exp(noise * rng.normal()), params=params))
    return trials, truths


def test_on_a_noisy_bowl_the_recommendation_is_closer_to_the_middle_than_the_luckiest_trial():
    anywhere, tried, luckiest = [], [], []
    for seed in range(30):
        trials, truths = bowl(PLANE, seed, 24, noise=0.15)
        found = recommended(Landscape(PLANE, trials, Objective()))
        assert found is not None
        anywhere.append(true(PLANE, found))
        tried.append(truths[ranked(Landscape(PLANE, trials, Objective()))[0].number])
        luckiest.append(truths[min(range(len(trials)), key=lambda n: trials[n].value or 0.0)])
    best = 0.5
    assert np.mean(anywhere) - best < 0.7 * (np.mean(luckiest) - best)
    assert np.mean(tried) - best < 0.75 * (np.mean(luckiest) - best)


@pytest.mark.slow
def test_scores_are_smoothed_too():
    """Where larger is better it is the same choice, but for the scale."""
    smoothed, luckiest = [], []
    objective = Objective(metric="score", mode="max")
    for seed in range(40):
        trials, truths = bowl(LINE, seed, 20, noise=0.2)
        scores = [trial(t.number, value=1.0 - (t.value or 0.0), params=t.params) for t in trials]
        found = recommended(Landscape(LINE, scores, objective))
        assert found is not None
        smoothed.append(true(LINE, found))
        luckiest.append(truths[max(range(20), key=lambda n: scores[n].value or 0.0)])
    assert np.mean(smoothed) - 0.5 < 0.8 * (np.mean(luckiest) - 0.5)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_on_a_linear_scale_the_unit_does_not_matter(unit: float):
    trials, _ = bowl(LINE, 3, 14, noise=0.1)
    trials = [*trials, trial(14, TrialState.DIVERGED, params={"gamma": 0.9})]
    scaled = [trial(t.number, t.state, t.value and t.value * unit, params=t.params) for t in trials]
    found, same = (recommended(Landscape(LINE, of, Objective(scale="linear"))) for of in (trials, scaled))
    assert found == pytest.approx(same, abs=0.02)


def test_a_point_far_from_all_trials_is_not_recommended():
    """A slope leads on beyond the trials, where a cliff may be."""
    params = [{"gamma": n / 40} for n in range(16)]  # up to 0.375
    trials = [trial(n, value=math.exp(-point["gamma"]), params=point) for n, point in enumerate(params)]
    found = recommended(Landscape(LINE, trials, Objective()))
    assert found is not None
    assert found["gamma"] < 0.6


@pytest.mark.parametrize("space", [load_space("delays"), LINE], ids=["conditional", "few trials"])
def test_without_a_landscape_nothing_untried_is_recommended(space: Space):
    trials, _ = bowl(space, 1, 18 if space.is_conditional else 4, noise=0.1)
    assert recommended(Landscape(space, trials, Objective())) is None


def test_without_noise_the_best_by_value_stay_in_front():
    trials, truths = bowl(PLANE, 0, 16, noise=0.0)
    first = [t.number for t in ranked(Landscape(PLANE, trials, Objective()))[:3]]
    assert set(first) == set(sorted(range(16), key=truths.__getitem__)[:3])


@pytest.mark.parametrize(("mode", "order"), [("min", [2, 0, 3, 1]), ("max", [1, 0, 3, 2])])
def test_few_trials_are_ranked_by_value(mode: str, order: list[int]):
    values = [0.5, 0.9, 0.1, 0.5]
    trials = [trial(n, value=value, params={"gamma": n / 4}) for n, value in enumerate(values)]
    assert [t.number for t in ranked(Landscape(LINE, trials, Objective(mode=mode)))] == order


@pytest.mark.parametrize("count", [3, 8])
def test_equal_values_are_ordered_by_trial(count: int):
    trials = [trial(n, value=0.5, params={"gamma": n / 9}) for n in range(count)]
    assert ranked(Landscape(LINE, trials[::-1], Objective())) == trials


def test_only_complete_trials_are_ranked():
    ends = [trial(n, state, curve=[0.01]) for n, state in enumerate(TrialState) if state != "COMPLETE"]
    good = [trial(n, value=1.0 + n, params={"gamma": n / 30}) for n in range(10, 16)]
    assert {t.number for t in ranked(Landscape(LINE, [*ends, *good], Objective()))} == set(range(10, 16))
    assert ranked(Landscape(LINE, ends, Objective())) == []


@pytest.mark.parametrize(
    "space", [LINE, PLANE, MIXED, load_space("delays")], ids=["1", "2", "mixed", "delays"]
)
def test_the_order_of_the_trials_does_not_matter(space: Space):
    trials, _ = bowl(space, 1, 18, noise=0.1)
    expected = ranked(Landscape(space, trials, Objective()))
    assert sorted(t.number for t in expected) == list(range(18))
    landscape.forget()
    assert ranked(Landscape(space, random.Random(0).sample(trials, 18), Objective())) == expected


def test_a_conditional_space_distinguishes_families():
    """The one family is better by more than the noise; a trial of another that was very lucky does not come first."""
    space = load_space("delays")
    rng = np.random.default_rng(0)
    families = ("geometric", "polynomial", "every")
    trials = []
    for n in range(30):
        params: dict[str, Any] = space.complete(rng.random(8), {"delay_family": families[n % 3]})
        value = (0.5 if n % 3 == 1 else 1.0) * math.exp(0.1 * rng.normal())
        trials.append(trial(n, value=0.45 if n == 2 else value, params=params))
    first = [t.params["delay_family"] for t in ranked(Landscape(space, trials, Objective()))[:5]]
    assert first[0] == "polynomial"
    assert first.count("polynomial") >= 4


@pytest.mark.parametrize("extreme", [1e-300, 1e300])
def test_one_extreme_value_is_not_an_error(extreme: float):
    trials, _ = bowl(LINE, 2, 12, noise=0.1)
    odd = [*trials, trial(12, value=extreme, params={"gamma": 0.5}), trial(13, value=0.0)]
    for of in (odd[:-1], odd):  # by factors, and where a 0 makes that impossible
        assert {t.number for t in ranked(Landscape(LINE, of, Objective()))} == {t.number for t in of}


def test_the_landscape_fits_the_best_and_some_others_of_many_trials(monkeypatch: pytest.MonkeyPatch):
    """The time grows with the cube of their number; without the others the bad regions would be forgotten."""
    trials, _ = bowl(LINE, 4, 40, noise=0.1)
    monkeypatch.setattr(landscape, "_MOST", 20)
    by_value = sorted(trials, key=lambda t: t.value or 0.0)
    fitted = Landscape(LINE, trials, Objective()).trials
    assert len(fitted) == 20
    assert {t.number for t in by_value[:10]} < {t.number for t in fitted}
    assert by_value[-1] in fitted
    found = ranked(Landscape(LINE, trials, Objective()))
    assert {t.number for t in found[:20]} == {t.number for t in fitted}
    assert found[20:] == [t for t in by_value if t not in fitted]
