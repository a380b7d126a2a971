"""What a job does next, on simulated jobs with random outcomes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anon_tune.errors import InputError
from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.history import History
from anon_tune.search.policy import (
    Decision,
    Plan,
    draws,
    finalists,
    next_trial,
    repeated_failure,
)
from anon_tune.search.winners import winner
from anon_tune.search_spaces import Space
from anon_tune.spec import spaces_of
from tests import builders
from tests.builders import begun, trial
from tests.search.simulation import ENDS, Simulation
from tests.search.spaces import LINE

ARMS = ("anon", "adamw", "sgd")


def plan(trials: int = 4, spaces: dict[str, Space] | None = None, **keys: Any) -> Plan:
    keys.setdefault("confirm", {"finalists": 2, "seeds": 2, "verdict_seeds": 3})
    keys.setdefault("search", {"sampler": "random"})
    spec = builders.spec(budget={"trials": trials, "epochs": 9}, **keys)
    return Plan(spec, spaces or spaces_of(spec), log_mean_sigma=-9.0)


def count(trials: list[Trial], phase: Phase, arm: str) -> int:
    return sum(t.phase is phase and t.arm == arm for t in trials)


def run(simulation: Simulation) -> list[Trial]:
    for _ in simulation.run():
        pass
    return simulation.trials


outcomes = st.builds(
    dict,
    seed=st.integers(0, 2**32),
    at_once=st.integers(1, 4),
    ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=6),
    asks=st.booleans(),
)
searches = st.fixed_dictionaries(
    {
        "sampler": st.sampled_from(["tpe", "random"]),
        "pruner": st.sampled_from(["asha", "median", "none"]),
        "seed": st.integers(0, 2**31 - 1),
    }
)
simulated = settings(max_examples=60)


@simulated
@given(
    outcomes, searches, st.integers(1, 11), st.sampled_from([ARMS, ("anon", "sgd"), ("anon",)]), st.booleans()
)
def test_budgets_are_exact_whatever_happens(
    outcome: dict[str, Any], search: dict[str, Any], budget: int, arms: tuple[str, ...], race: bool
):
    confirm = {"finalists": 2, "seeds": 3, "verdict_seeds": 3, "race": race}
    job = plan(budget, search=search, arms=list(arms), confirm=confirm)
    simulation = Simulation(job, **outcome)
    for now in simulation.run():
        started = [count(now, Phase.SEARCH, arm) for arm in arms]
        if search["sampler"] in ("random", "grid"):  # no arm waits for its own trials
            assert max(started) - min(started) <= 1
    trials = simulation.trials
    for arm in arms:
        chosen = len(finalists(job, trials, arm))
        assert count(trials, Phase.SEARCH, arm) == budget
        reruns = count(trials, Phase.CONFIRM, arm)
        assert chosen <= reruns <= chosen * 3
        assert race or reruns == chosen * 3
        assert count(trials, Phase.VERDICT, arm) == (3 if chosen else 0)
    assert all(
        sum(t.phase is phase for t in trials) <= most for phase, most in job.spec.planned_trials().items()
    )

    search_trials = [t for t in trials if t.phase is Phase.SEARCH]
    configurations = [(t.arm, tuple(sorted(t.params.items()))) for t in search_trials]
    assert len(set(configurations)) == len(configurations)
    for key in (lambda t: t.id, lambda t: (t.phase, t.arm, t.source, t.seed, t.number)):
        assert len({key(t) for t in trials}) == len(trials)


@settings(simulated, max_examples=25)
@given(outcomes, searches, st.data())
def test_the_next_trial_depends_on_the_trials_alone(
    outcome: dict[str, Any], search: dict[str, Any], data: st.DataObject
):
    job = plan(10, search=search, arms=["anon"])
    states = [list(now) for now in Simulation(job, **outcome).run()]
    interrupted = data.draw(st.sampled_from(states))
    # The ledger may give them back in another order, and a new process has made nothing before.
    shuffled = data.draw(st.permutations(interrupted))
    fresh = Plan(builders.parse_spec(job.spec.model_dump(mode="json")), spaces_of(job.spec), -9.0)
    assert next_trial(fresh, shuffled) == next_trial(job, interrupted)


@pytest.mark.parametrize("sampler", ["botorch", pytest.param("gp", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("interrupted", "ends"), [(10, ENDS), (11, (TrialState.DIVERGED,))])
def test_a_gaussian_process_suggests_the_same_after_a_crash(
    sampler: str, interrupted: int, ends: tuple[TrialState, ...]
):
    job = plan(12, search={"sampler": sampler, "pruner": "asha", "lag": 0}, arms=["anon"])
    trials: list[Trial] = []
    for now in Simulation(job, seed=3, ends=ends).run():
        trials = list(now)
        if count(trials, Phase.SEARCH, "anon") == interrupted and all(t.is_finished for t in trials):
            break
    fresh = Plan(job.spec, spaces_of(job.spec), -9.0)
    first = next_trial(job, trials)
    assert isinstance(first, NewTrial)
    assert first.number == interrupted
    assert next_trial(fresh, trials[::-1]) == first
    distribution = job.spaces["anon"].parameters
    assert all(
        distribution[name].low <= value <= distribution[name].high for name, value in first.params.items()
    )


def test_seeds_pair_the_arms_and_never_cross_phases():
    trials = run(Simulation(plan(6), seed=1, ends=(TrialState.COMPLETE,)))
    seeds = {
        (phase, arm): {t.seed for t in trials if t.phase is phase and t.arm == arm}
        for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT)
        for arm in ARMS
    }
    for phase, expected in ((Phase.SEARCH, 6), (Phase.CONFIRM, 2), (Phase.VERDICT, 3)):
        assert len(seeds[phase, "anon"]) == expected
        assert seeds[phase, "anon"] == seeds[phase, "adamw"] == seeds[phase, "sgd"]
    for one, other in itertools.combinations((Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT), 2):
        assert not seeds[one, "anon"] & seeds[other, "anon"]


def test_jobs_with_other_seeds_are_other_jobs():
    one, other = (next_trial(plan(search={"sampler": "random", "seed": seed}), []) for seed in (0, 1))
    assert isinstance(one, NewTrial)
    assert isinstance(other, NewTrial)
    assert one.seed != other.seed
    assert one.params != other.params


def test_repeats_are_of_the_configuration_that_was_chosen():
    job = plan(6)
    trials = run(Simulation(job, seed=2, ends=(TrialState.COMPLETE,)))
    by_id = {t.id: t for t in trials}
    for t in trials:
        if t.phase is Phase.SEARCH:
            assert t.source is None
            continue
        origin = by_id[t.origin]
        assert (origin.arm, origin.source) == (t.arm, None)
        assert (origin.params, origin.hyperparameters) == (t.params, t.hyperparameters)
        if t.phase is Phase.CONFIRM:
            assert t.origin in [each.origin for each in finalists(job, trials, t.arm)]
        else:
            best = winner(trials, t.arm, "min")
            assert best is not None
            assert t.source == best.id


def test_confirm_waits_for_the_search_and_verdict_for_confirm():
    job = plan(1, arms=["anon"], confirm={"finalists": 1, "seeds": 1, "verdict_seeds": 2})
    trials: list[Trial] = []
    for phase in (Phase.SEARCH, Phase.CONFIRM):
        new = next_trial(job, trials)
        assert isinstance(new, NewTrial)
        assert new.phase is phase
        assert next_trial(job, [*trials, begun(new, TrialState.WAITING)]) is Decision.WAIT
        assert next_trial(job, [*trials, begun(new)]) is Decision.WAIT
        done = trial(0, value=1.0, phase=phase, seed=new.seed, params=new.params, source=new.source)
        trials.append(done)
    new = next_trial(job, trials)
    assert isinstance(new, NewTrial)
    assert new.phase is Phase.VERDICT


@pytest.mark.parametrize("end", [TrialState.DIVERGED, TrialState.FAILED, TrialState.CANCELLED])
def test_a_job_without_a_complete_trial_ends(end: TrialState):
    trials = run(Simulation(plan(10, search={"sampler": "tpe"}), seed=4, ends=(end,)))
    assert {t.phase for t in trials} == {Phase.SEARCH}
    assert len(trials) == 30
    assert all(winner(trials, arm, "min") is None for arm in ARMS)


def test_an_arm_without_a_complete_trial_leaves_the_others_their_phases():
    job = plan(3)
    trials: list[Trial] = []
    while isinstance(new := next_trial(job, trials), NewTrial):
        bad = new.arm == "sgd"
        state = TrialState.DIVERGED if bad else TrialState.COMPLETE
        trials.append(
            trial(
                new.number,
                state,
                None if bad else 1.0,
                arm=new.arm,
                phase=new.phase,
                seed=new.seed,
                params=new.params,
                source=new.source,
            )
        )
    assert new is Decision.DONE
    assert [count(trials, phase, "sgd") for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT)] == [
        3,
        0,
        0,
    ]
    assert [count(trials, phase, "anon") for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT)] == [
        3,
        4,
        3,
    ]


# Choosing


@pytest.mark.parametrize(("mode", "expected"), [("min", [2, 0]), ("max", [3, 0])])
def test_finalists_are_the_best_complete_ones(mode: str, expected: list[int]):
    objective = {"metric": "loss" if mode == "min" else "accuracy", "mode": mode}
    job = plan(objective=objective)
    trials = [
        trial(0, value=0.2),
        trial(1, value=0.2),  # as good: the earlier one comes first
        trial(2, value=0.1),
        trial(3, value=0.3),
        trial(4, TrialState.PRUNED, None, curve=[1.0 if mode == "max" else 0.0]),
        trial(5, value=0.0 if mode == "min" else 0.9, arm="sgd"),
        trial(6, value=0.0 if mode == "min" else 0.9, phase=Phase.CONFIRM),
    ]
    ids = [f"j-anon-s{number:03d}" for number in expected]
    assert [each.origin for each in finalists(job, trials, "anon")] == ids
    assert [each.origin for each in finalists(job, trials[::-1], "anon")] == ids


def test_a_finalist_that_was_not_tried_keeps_its_runs():
    """Its first confirm trial stands for it, though a fit on another machine ends a little elsewhere."""
    confirm = {"finalists": 2, "seeds": 3, "verdict_seeds": 2, "race": False}
    job = plan(9, {"anon": LINE}, arms=["anon"], confirm=confirm, search={"sampler": "random"})
    space = job.spaces["anon"]
    trials: list[Trial] = []
    while isinstance(new := next_trial(job, trials), NewTrial):
        value = math.exp(sum((u - 0.5) ** 2 for u in space.unit(new.params)))
        trials.append(dataclasses.replace(begun(new, TrialState.COMPLETE), value=value))
    (first,) = [t for t in trials if t.phase is Phase.CONFIRM and t.source is None]
    assert sum(t.phase is Phase.CONFIRM and t.origin == first.id for t in trials) == 3
    assert winner(trials, "anon", "min") == first
    assert {t.source for t in trials if t.phase is Phase.VERDICT} == {first.id}
    moved = {name: value * 1.0001 for name, value in first.params.items()}
    others = [t for t in trials if t.id != first.id]
    found = finalists(job, [*others, dataclasses.replace(first, params=moved)], "anon")
    assert found[0].origin == first.id
    assert finalists(job, [t for t in others if t.phase is Phase.SEARCH], "anon")[0].origin is None


def test_a_verdict_ends_when_it_is_decided():
    """After three seeds Anon is clearly better than sgd, and adamw is as good."""
    confirm = {"finalists": 1, "seeds": 3, "verdict_seeds": 6, "race": False}
    job = plan(2, confirm=confirm, objective={"practical": 1e-6})
    trials: list[Trial] = []
    while isinstance(new := next_trial(job, trials), NewTrial):
        noise = 0.01 * math.sin(new.seed % 1000 + len(new.arm))
        value = math.exp(noise + (0.5 if new.arm == "sgd" else 0.0))
        trials.append(dataclasses.replace(begun(new, TrialState.COMPLETE), value=value))
    assert {arm: count(trials, Phase.VERDICT, arm) for arm in ARMS} == {"anon": 6, "adamw": 6, "sgd": 3}


def test_a_look_waits_for_the_runs_before_it():
    job = plan(2, confirm={"finalists": 1, "seeds": 1, "verdict_seeds": 6})
    trials: list[Trial] = []
    while isinstance(new := next_trial(job, trials), NewTrial):
        state = TrialState.RUNNING if new.phase is Phase.VERDICT else TrialState.COMPLETE
        trials.append(
            dataclasses.replace(begun(new, state), value=None if new.phase is Phase.VERDICT else 0.5)
        )
    assert new is Decision.WAIT
    assert count(trials, Phase.VERDICT, "anon") == 3


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_winner_has_the_best_mean_over_the_confirm_seeds(mode: str):
    sign = 1.0 if mode == "min" else -1.0
    lucky, steady = trial(0, value=sign * 0.1), trial(1, value=sign * 0.2)
    repeats = [
        trial(0, value=sign * 0.1, phase=Phase.CONFIRM, source=lucky.id, seed=0),
        trial(1, value=sign * 0.3, phase=Phase.CONFIRM, source=steady.id, seed=0),
        trial(2, value=sign * 0.9, phase=Phase.CONFIRM, source=lucky.id, seed=1),
        trial(3, value=sign * 0.3, phase=Phase.CONFIRM, source=steady.id, seed=1),
    ]
    assert winner([lucky, steady], "anon", mode) is None  # nothing was rerun
    assert winner([lucky, steady, *repeats], "anon", mode) == steady
    assert winner([lucky, steady, *repeats[:2]], "anon", mode) == lucky
    assert winner([lucky, steady, *repeats], "sgd", mode) is None


def test_the_first_of_equal_finalists_wins_in_any_order():
    """Accuracies on a small set are often equal."""
    first, second = trial(5, value=0.1), trial(2, value=0.1)
    repeats = [
        trial(n, value=0.2, phase=Phase.CONFIRM, source=source.id, seed=n // 2)
        for n, source in enumerate([first, second, first, second])
    ]
    for order in itertools.permutations([first, second, *repeats]):
        assert winner(order, "anon", "min") == first


@pytest.mark.parametrize("lead", [0.1, 5.0])
def test_a_dropped_finalist_does_not_win_by_lucky_first_seeds(lead: float):
    dropped, whole, broken = (trial(n, value=1.0) for n in range(3))
    repeats = [
        trial(0, value=lead, phase=Phase.CONFIRM, source=dropped.id, seed=0),
        trial(1, value=1.0, phase=Phase.CONFIRM, source=whole.id, seed=0),
        trial(2, value=1.0, phase=Phase.CONFIRM, source=whole.id, seed=1),
        trial(3, value=0.0, phase=Phase.CONFIRM, source=broken.id, seed=0),
        trial(4, TrialState.DIVERGED, phase=Phase.CONFIRM, source=broken.id, seed=1),
    ]
    assert winner([dropped, whole, broken, *repeats], "anon", "min") == whole
    without = [t for t in repeats if t.source != whole.id]
    assert winner([dropped, whole, broken, *without], "anon", "min") == dropped  # rather than the broken one


@pytest.mark.parametrize("end", [TrialState.DIVERGED, TrialState.FAILED])
def test_a_finalist_that_diverges_on_a_seed_does_not_win(end: TrialState):
    fragile, robust = trial(0, value=0.1), trial(1, value=0.2)
    repeats = [
        trial(0, value=0.0, phase=Phase.CONFIRM, source=fragile.id),
        trial(1, end, None, phase=Phase.CONFIRM, source=fragile.id),
        trial(2, value=5.0, phase=Phase.CONFIRM, source=robust.id),
        trial(3, value=5.0, phase=Phase.CONFIRM, source=robust.id),
    ]
    assert winner([fragile, robust, *repeats], "anon", "min") == robust


# Failures in a row


def failed(number: int, reason: str = "no such file", **keys: Any) -> Trial:
    return trial(number, TrialState.FAILED, None, reason=reason, **keys)


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([failed(0), failed(1), failed(2)], "no such file"),
        ([failed(2), failed(1), trial(0, value=1.0), failed(3)], "no such file"),
        ([failed(0), failed(1)], None),
        ([failed(0), failed(1), failed(2, "another")], None),
        ([failed(0), failed(1), failed(2), trial(3, value=1.0)], None),
        ([failed(0), failed(1), trial(2, value=1.0, ended=-1), failed(3)], "no such file"),
        ([failed(0), failed(1, arm="sgd"), failed(2, arm="adamw")], "no such file"),
        ([failed(0), failed(1), failed(2), trial(3, TrialState.RUNNING)], "no such file"),
        ([], None),
    ],
    ids=[
        "three",
        "last three",
        "two",
        "other reason",
        "a success since",
        "by end",
        "arms",
        "running",
        "none",
    ],
)
def test_three_failures_in_a_row_for_one_reason(trials: list[Trial], expected: str | None):
    assert repeated_failure(trials) == expected


# A space that runs out


def choices(*gammas: float) -> dict[str, Space]:
    fixed = {"step_size": 1.0, "beta3": 0.5, "delay": 2.0, "decay": 0.0}
    plain = {
        "optimizer": "anon",
        "summary": "x",
        "parameters": {"gamma": {"choices": gammas}},
        "fixed": fixed,
    }
    return {"anon": Space.model_validate(plain)}


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_a_space_of_choices_is_used_up_and_then_says_so(sampler: str):
    gammas = [n / 8 for n in range(10)]
    job = plan(11, choices(*gammas), search={"sampler": sampler}, arms=["anon"])
    trials: list[Trial] = []
    for _ in gammas:
        new = next_trial(job, trials)
        assert isinstance(new, NewTrial)
        trials.append(trial(new.number, value=math.cos(new.number), params=new.params))
    assert sorted(t.params["gamma"] for t in trials) == gammas
    with pytest.raises(
        InputError, match=r"anon has no untried configuration left after 10 trials.*budget\.trials"
    ):
        next_trial(job, trials)


def test_the_last_of_many_choices_is_found():
    gammas = [n / 512 for n in range(512)]
    job = plan(512, choices(*gammas), arms=["anon"])
    trials = [trial(n, value=1.0, params={"gamma": gamma}) for n, gamma in enumerate(gammas) if n != 300]
    new = next_trial(job, trials)
    assert isinstance(new, NewTrial)
    assert new.params == {"gamma": gammas[300]}


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_starts_at_the_spaces_own_points_the_middle_and_a_point_of_a_sobol_sequence(arm: str):
    job = plan(9, search={"sampler": "gp"}, arms=[arm, *({"anon"} - {arm})])
    trials: list[Trial] = []
    while isinstance(new := next_trial(job, trials), NewTrial):
        trials.append(begun(new))
    found = [t.params for t in trials if t.arm == arm]
    space = job.spaces[arm]
    own = len(space.start_points)
    assert len(found) == max(4, job.spec.lag) + 1  # the next would learn from the first, which runs
    assert found[:own] == list(space.start_points)
    assert found[own] == pytest.approx(space.complete([0.5] * len(space.parameters), {}))
    assert all(point not in found[: own + 1] for point in found[own + 1 :])


# A job that gets more, or has no more time


@pytest.mark.parametrize("race", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_finished_job_with_a_larger_budget_goes_on_from_what_it_has(seed: int, race: bool):
    keys = {"search": {"sampler": "random", "seed": seed, "pruner": "none"}}
    confirm = {"finalists": 2, "seeds": 2, "verdict_seeds": 2, "race": race}
    small, large = (plan(trials, confirm=confirm, **keys) for trials in (4, 7))
    trials = worked_off(small, [])
    before = list(trials)
    trials = worked_off(large, trials)
    assert trials[: len(before)] == before
    for arm in large.spec.arms:
        assert count(trials, Phase.SEARCH, arm) == 7
        for phase, chosen in (
            (Phase.CONFIRM, [each.origin for each in finalists(large, trials, arm)]),
            (Phase.VERDICT, [best.id if (best := winner(trials, arm, "min")) else None]),
        ):
            runs = [(t.origin, t.seed) for t in trials if t.arm == arm and t.phase is phase]
            assert len(runs) == len(set(runs)), "nothing is run twice"
            for origin in chosen:
                assert origin is not None
                made = sum(run[0] == origin for run in runs)
                assert made == 2 or (race and phase is Phase.CONFIRM)


def worked_off(job: Plan, trials: list[Trial]) -> list[Trial]:
    """All trials once there is nothing left to do, each COMPLETE with a value that its configuration decides."""
    trials = list(trials)
    while isinstance(new := next_trial(job, trials), NewTrial):
        value = abs(new.hyperparameters["lr"] - 0.1) + 1e-3 * (new.seed % 7)
        trials.append(dataclasses.replace(begun(new, TrialState.COMPLETE), value=value))
    assert new is Decision.DONE
    return trials


def test_without_time_for_the_search_the_other_phases_follow():
    job = plan(9)
    trials: list[Trial] = []
    for _ in range(5):
        new = next_trial(job, trials)
        assert isinstance(new, NewTrial)
        trials.append(dataclasses.replace(begun(new, TrialState.COMPLETE), value=0.5))
    late = dataclasses.replace(job, search_over=True)
    running = [*trials[:-1], dataclasses.replace(trials[-1], state=TrialState.RUNNING, value=None)]
    assert next_trial(late, running) is Decision.WAIT
    after = worked_off(late, trials)
    assert sum(t.phase is Phase.SEARCH for t in after) == 5
    assert {t.phase for t in after} == {Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT}


@pytest.mark.parametrize("sampler", ["random", "grid", "tpe", "gp"])
def test_only_a_random_search_that_is_not_over_draws(sampler: str):
    job = plan(2, search={"sampler": sampler}, arms=["anon", "sgd"])
    simulation = Simulation(job, seed=0, at_once=1)
    drawn = []
    for _ in simulation.run():
        new = next_trial(job, simulation.trials)
        searches = isinstance(new, NewTrial) and new.phase is Phase.SEARCH
        drawn.append(draws(job, History(simulation.trials)))
        assert drawn[-1] is (sampler == "random" and searches)
    assert not drawn[-1]
    over = dataclasses.replace(job, search_over=True)
    assert not draws(over, History())
