"""What arms took."""

from __future__ import annotations

import dataclasses

from anon_tune.advice.costs import spent
from anon_tune.records import Phase, TrialState
from tests import builders


def test_each_phase_of_each_arm_is_added_up():
    first = builders.trial(0, value=1.0, curve=[3.0, 1.0])
    pruned = builders.trial(1, TrialState.PRUNED, curve=[5.0])
    never = builders.trial(2, TrialState.FAILED)
    rerun = builders.trial(0, value=1.0, curve=[3.0, 1.0], phase=Phase.VERDICT)
    timed = [
        dataclasses.replace(t, seconds=s)
        for t, s in ((first, 4.0), (pruned, 2.0), (never, 0.0), (rerun, 5.0))
    ]
    search, confirm, verdict = spent(timed, ["anon"], {"steps_per_epoch": 7, "samples_per_epoch": 70})
    assert (search.trials, search.epochs, search.steps, search.samples) == (2, 3, 21, 210)
    assert (search.seconds, search.typical) == (6.0, 4.0)
    assert (confirm.trials, confirm.seconds, confirm.typical) == (0, 0.0, None)
    assert (verdict.phase, verdict.epochs, verdict.seconds) == ("verdict", 2, 5.0)


def test_counts_missing_from_the_probe_are_none():
    search, *_ = spent([builders.trial(0, value=1.0, curve=[1.0])], ["anon"], {"steps_per_epoch": None})
    assert (search.epochs, search.steps, search.samples) == (1, None, None)
