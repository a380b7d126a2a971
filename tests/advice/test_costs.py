"""What arms took."""

from __future__ import annotations

import dataclasses
from typing import Any

from anon_tune.advice.costs import spent
from anon_tune.records import OPTIMIZER_STEPS, Phase, Report, Trial, TrialState
from tests import builders
from tests.answers import answer


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


def counted(number: int, *reported: tuple[int, float | None], **keys: Any) -> Trial:
    """A trial with reports at steps, each with the optimizer steps since the one before."""
    reports = tuple(
        Report(step, 1.0, {} if count is None else {OPTIMIZER_STEPS: count}, builders.EPOCH)
        for step, count in reported
    )
    return dataclasses.replace(builders.trial(number, value=1.0, **keys), reports=reports)


def test_steps_of_user_code_are_those_that_its_optimizer_made():
    trials = [counted(0, (1, 5.0), (2, 7.0)), counted(1, (2, 12.0))]
    search, *_ = spent(trials, ["anon"], {"steps_per_epoch": 99})
    assert (search.epochs, search.steps, search.samples) == (4, 24, None)


def test_trials_whose_steps_were_not_counted_have_those_of_the_probe():
    """A total is unknown if an earlier version, which did not count, made the first reports."""
    trials = [counted(0, (1, None), (2, 7.0)), counted(1, (2, 12.0)), counted(2, (3, 0.0))]
    search, confirm, _ = spent(trials, ["anon"], {"steps_per_epoch": 10})
    assert search.steps == 20 + 12 + 30
    unknown, *_ = spent(trials, ["anon"], {})
    assert unknown.steps is None
    assert (confirm.epochs, confirm.steps) == (0, 0)


def test_a_job_in_steps_has_no_epochs():
    trials = [counted(0, (100, 25.0), (2000, 475.0)), counted(1, (1900, None))]
    search, *_ = spent(trials, ["anon"], {}, "step")
    assert (search.epochs, search.steps, search.samples) == (None, 500 + 1900, None)


def test_a_total_is_unknown_if_a_part_of_it_is():
    known = list(spent([counted(0, (1, 5.0))], ["anon"], {}))
    unknown = list(spent([counted(0, (1, None), phase=Phase.VERDICT)], ["anon"], {}))
    assert answer(spent=known).totals()["anon"].steps == 5
    assert answer(spent=[*known[:2], unknown[2]]).totals()["anon"].steps is None
    assert answer(spent=known).totals()["anon"].epochs == 1


def test_counts_missing_from_the_probe_are_none():
    search, *_ = spent([builders.trial(0, value=1.0, curve=[1.0])], ["anon"], {"steps_per_epoch": None})
    assert (search.epochs, search.steps, search.samples) == (1, None, None)
