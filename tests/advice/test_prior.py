"""What is advised for a family, what it rests on, and how often it is right."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from anon_tune.advice.evidence import SHIPPED, ShippedEvidence, distinct, evidence_of, shipped
from anon_tune.advice.pooling import USUAL_SPREAD, Location, located, pool
from anon_tune.advice.prior import GAMMAS, PUBLISHED, advise
from anon_tune.advice.statement import Advice, Evidence, Fingerprint, Source
from anon_tune.answer import Curve, Gamma
from anon_tune.records import JobRecord, JobState, Phase
from benchmarks.advice import LAWS, cell
from tests.answers import CURVE, GAMMA, stored
from tests.builders import EPOCH


def curve(best: float, steepness: float) -> Curve:
    at = np.linspace(*GAMMAS, 41)
    values = np.exp(steepness * (at - best) ** 2).tolist()
    return Curve(
        gamma=at.tolist(), median=values, low=values, high=values, low50=values, high50=values, flat=values
    )


def searched(
    name: str, best: float, error: float = 0.1, steepness: float = 0.5, family: str = "mlp", **keys: object
) -> Evidence:
    """A search whose best gamma is known with a standard deviation of `error`."""
    low, high = max(best - 1.645 * error, GAMMAS[0]), min(best + 1.645 * error, GAMMAS[1])
    gamma = Gamma(best=best, low=low, high=high, curve=curve(best, steepness), enough=True, trials=20)
    usual = {"id": name, "name": name, "subject": name, "scale": "log", "gamma": gamma}
    return Evidence.model_validate({**usual, "architecture": Fingerprint(family=family), **keys})


FLAT = searched("flat", 0.5, error=1.0, steepness=0.0)


def interval(advice: Advice) -> tuple[float, float]:
    assert advice.low is not None
    assert advice.high is not None
    return advice.low, advice.high


def test_without_evidence_there_is_no_advised_gamma() -> None:
    found = advise("mlp", [])
    assert (found.gamma, found.source, found.published) == (None, Source.NOTHING, None)
    assert found.would_change


def test_unknown_layers_have_no_advice() -> None:
    assert advise("unknown", [searched("a", 0.5, family="unknown")]).gamma is None


def test_published_examples_alone_give_a_gamma_and_a_wide_interval() -> None:
    found = advise("transformer", [])
    assert found.source is Source.PUBLISHED
    assert found.gamma is not None
    assert 0.8 <= found.gamma <= 1.15
    low, high = interval(found)
    assert high - low > 1.0
    assert found.published == PUBLISHED["transformer"]


def test_jobs_of_the_family_alone_count_and_are_named() -> None:
    found = advise("mlp", [searched("a", 0.2), searched("b", 0.4), searched("c", 1.2, family="cnn")])
    assert [each.job for each in found.jobs] == ["a", "b"]
    assert found.gamma == pytest.approx(0.3, abs=0.06)
    assert sum(each.weight for each in found.jobs) == pytest.approx(1)
    low, high = interval(found)
    assert low < 0.2 < 0.4 < high


def test_a_flat_search_changes_nothing_and_weighs_next_to_nothing() -> None:
    sharp = [searched("a", 0.9), searched("b", 1.0)]
    alone, with_flat = advise("mlp", sharp), advise("mlp", [*sharp, FLAT])
    assert with_flat.gamma is not None
    assert alone.gamma == pytest.approx(with_flat.gamma, abs=0.051)
    weights = {each.job: each.weight for each in with_flat.jobs}
    assert weights["flat"] < 0.1 * weights["a"]


def test_the_advised_gamma_minimises_the_mean_cost_and_not_the_mean_best() -> None:
    found = advise("mlp", [searched("steep", 0.0, steepness=2.0), searched("shallow", 1.0, steepness=0.1)])
    assert found.gamma is not None
    assert found.gamma < 0.25


def test_more_agreeing_jobs_narrow_the_interval() -> None:
    widths = []
    for count in (1, 3, 8):
        low, high = interval(advise("mlp", [searched(str(index), 0.5) for index in range(count)]))
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_costs_of_gamma_0_and_1_have_intervals() -> None:
    jobs = [searched(str(index), 0.5 + 0.1 * index, steepness=0.4) for index in range(-1, 2)]
    costs = {each.gamma: each for each in advise("mlp", jobs).costs}
    assert costs.keys() == {0.0, 1.0}
    for each in costs.values():
        assert each.low < each.cost < each.high
        assert each.cost == pytest.approx(math.expm1(0.4 * 0.25), abs=0.01)
    assert advise("mlp", jobs[:1]).costs == []


def test_advice_names_the_decisive_job() -> None:
    found = advise("mlp", [searched("odd one", 1.4, steepness=2.0), searched("a", 0.2), searched("b", 0.3)])
    assert any("Without odd one the advised gamma would be" in sentence for sentence in found.would_change)


def test_advice_says_that_gamma_hardly_matters() -> None:
    found = advise("mlp", [searched(str(index), 0.5, 0.6, 0.002) for index in range(3)])
    assert any("no gamma costs 1%" in sentence for sentence in found.would_change)


def test_jobs_on_a_linear_scale_advise_by_their_best_gammas() -> None:
    found = advise("mlp", [searched(name, 1.2, scale="linear") for name in "abcd"])
    assert found.gamma == pytest.approx(1.15, abs=0.1)
    assert found.costs == []


def test_searches_of_one_subject_count_once_and_jobs_stand_before_shipped_ones() -> None:
    more = searched("more", 0.8).model_copy(
        update={"gamma": searched("more", 0.8).gamma.model_copy(update={"trials": 40})}
    )
    same = {"subject": "s"}
    given = [
        searched("new", 0.1, **same),
        more.model_copy(update=same),
        searched("theirs", 0.2, shipped=True, **same),
        searched("other", 0.3, shipped=True),
    ]
    assert [each.id for each in distinct(given)] == ["more", "other"]
    assert [each.id for each in distinct(given[2:])] == ["theirs", "other"]
    assert [each.job for each in advise("mlp", given, without="s").jobs] == ["other"]


def job(**keys: object) -> JobRecord:
    spec = {"task": "t", "data": {"name": "d", "options": {}}, "model": {"name": "m", "options": {}}}
    plain = JobRecord(
        "a", "a name", JobState.SUCCEEDED, Phase.VERDICT, spec, EPOCH,
        architecture={"family": "cnn", "parameters": 10, "layers": {}, "share": {}}, result=stored(),
    )  # fmt: skip
    return dataclasses.replace(plain, **keys)  # type: ignore[arg-type]


def test_a_finished_job_with_a_wide_interval_is_evidence() -> None:
    found = evidence_of(job(result=stored(gamma=GAMMA.model_copy(update={"enough": False}))))
    assert found is not None
    assert (found.id, found.name, found.architecture.family, found.scale) == ("a", "a name", "cnn", "log")
    assert found.gamma.curve == CURVE


@pytest.mark.parametrize(
    "keys", [{"result": None}, {"architecture": None}, {"result": stored(gamma=Gamma(best=0.2))}]
)
def test_a_job_without_an_interval_does_not_count(keys: dict[str, object]) -> None:
    assert evidence_of(job(**keys)) is None


def test_the_same_model_on_other_data_is_another_subject() -> None:
    one, other = evidence_of(job()), evidence_of(job(spec={**job().spec, "data": {"name": "e"}}))
    again = evidence_of(job(id="b", spec={**job().spec, "budget": {"trials": 60}}))
    assert one is not None
    assert other is not None
    assert again is not None
    assert one.subject == again.subject != other.subject


def test_one_job_has_the_usual_spread_and_equal_jobs_a_smaller_one() -> None:
    one = pool([Location(0.5, 0.0)])
    assert one is not None
    assert one.spread == pytest.approx(USUAL_SPREAD, rel=1e-3)
    assert one.freedom == 3
    # The conjugate prior's: 3 * 0.4^2 / (3 + 7).
    eight = pool([Location(0.5, 0.0)] * 8)
    assert eight is not None
    assert eight.spread == pytest.approx(USUAL_SPREAD * math.sqrt(3 / 10), rel=1e-3)


def test_uninformative_jobs_do_not_count() -> None:
    assert pool([Location(0.5, math.inf)]) is None
    found = pool([Location(0.2, 0.1), Location(1.5, math.inf)])
    assert found is not None
    assert (found.mean, found.weights) == (pytest.approx(0.2), (pytest.approx(1.0), 0.0))


def test_an_interval_of_the_whole_range_is_uninformative() -> None:
    assert located(-0.5, 1.5, -0.5, 1.5).deviation == math.inf
    told = located(0.4, 0.6, -0.5, 1.5)
    assert told.mean == pytest.approx(0.5, abs=0.01)
    assert told.deviation == pytest.approx(0.2 / 3.29, rel=0.05)


@pytest.mark.parametrize("law", ["normal, deviation 0.1", "normal, deviation 0.4", "one in ten anywhere"])
@pytest.mark.parametrize("jobs", [3, 8])
def test_the_interval_holds_the_best_gamma_of_the_next_job(law: str, jobs: int) -> None:
    found = cell(LAWS[law], jobs, 150)
    assert found["holds"] >= 0.85  # 90% and two standard errors
    assert found["width"] < 1.9
    assert found["cost"] < min(found["cost of 0"], found["cost of 1"])


def test_the_shipped_evidence_is_consistent() -> None:
    file = ShippedEvidence.model_validate_json(SHIPPED.read_bytes())
    assert shipped() == tuple(file.searches)
    assert len({each.subject for each in file.searches}) == len(file.searches) >= 12
    assert {each.architecture.family for each in file.searches} == {"cnn", "mlp", "recurrent", "transformer"}
    for each in file.searches:
        assert each.shipped
        assert each.gamma.trials <= file.trials
        assert each.gamma.curve is not None
