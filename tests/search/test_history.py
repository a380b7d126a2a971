"""A job's trials by arm, phase and repeat, against looking at all of them."""

from __future__ import annotations

import dataclasses
from operator import attrgetter

from hypothesis import given
from hypothesis import strategies as st

from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.history import History
from tests import builders

ARMS = ("anon", "adamw")
PHASES = (Phase.SEARCH, Phase.CONFIRM)
REPEATS = 2
NUMBERS = 5

changes = st.lists(
    st.tuples(
        st.sampled_from(ARMS),
        st.integers(0, REPEATS - 1),
        st.sampled_from(PHASES),
        st.integers(0, NUMBERS - 1),
        st.sampled_from(TrialState),
    )
)


def of(arm: str, repeat: int, phase: Phase, number: int, state: TrialState) -> Trial:
    params = {"gamma": float(number), "family": arm}
    made = builders.trial(number, arm=arm, phase=phase, params=params, repeat=repeat)
    return dataclasses.replace(made, state=state)


def of_search(trials: dict[str, Trial], *search: Phase | str | int) -> list[Trial]:
    found = [t for t in trials.values() if (t.phase, t.arm, t.repeat) == search]
    return sorted(found, key=attrgetter("number"))


def agrees(history: History, trials: dict[str, Trial]) -> bool:
    return (
        list(history.items()) == list(trials.items())
        and [t.id for t in sorted(history.unfinished, key=lambda t: t.id)]
        == sorted(t.id for t in trials.values() if not t.is_finished)
        and all(
            list(history.select(phase, arm, repeat)) == (found := of_search(trials, phase, arm, repeat))
            and history.count(phase, arm, repeat) == len(found)
            and all(
                history.tried(phase, arm, repeat, of(arm, repeat, phase, number, TrialState.WAITING).params)
                == any(t.number == number for t in found)
                for number in range(NUMBERS)
            )
            for phase in Phase
            for arm in ARMS
            for repeat in range(REPEATS)
        )
    )


@given(changes, changes)
def test_the_index_equals_a_pass_over_all_trials_and_a_snapshot_keeps_it(
    first: list[tuple[str, int, Phase, int, TrialState]], later: list[tuple[str, int, Phase, int, TrialState]]
):
    before = {trial.id: trial for trial in (of(*change) for change in first)}
    history = History(of(*change) for change in first)
    assert agrees(history, before)
    copied, after = history.copy(), dict(before)
    for trial in (of(*change) for change in later):
        history.keep(trial)
        after[trial.id] = trial
    assert agrees(history, after)
    assert agrees(copied, before)
