"""Jobs and trials as plain values."""

from __future__ import annotations

import dataclasses

from anon_tune.records import JobRecord, JobState, Phase, Report, Trial, TrialState
from anon_tune.views import arm_view
from tests import builders


def job(*trials: Trial) -> JobRecord:
    spec = builders.spec().model_dump(mode="json")
    return JobRecord("j", "x", JobState.RUNNING, Phase.SEARCH, spec, builders.EPOCH, trials=trials)


def test_the_seconds_of_an_arm_are_those_of_its_epochs():
    """A trial that was paused overnight, or waited for a worker, cost no more for it."""
    reports = tuple(Report(step, 1.0, {"epoch_seconds": 1.5}, builders.EPOCH) for step in (1, 2))
    paused = builders.trial(0, value=1.0, ended=30_000.0)
    paused = dataclasses.replace(paused, reports=reports, started=builders.EPOCH)
    without_reports = builders.trial(1, TrialState.FAILED)
    other = dataclasses.replace(builders.trial(0, value=1.0, arm="sgd"), reports=reports)
    view = arm_view(job(paused, without_reports, other), "anon")
    assert (view["seconds"], view["epochs"]) == (3.0, 2)


def test_trials_are_counted_by_what_the_budget_is_about():
    searched = [builders.trial(0, value=1.0), builders.trial(1, TrialState.DIVERGED)]
    rerun = builders.trial(0, value=0.5, phase=Phase.CONFIRM)
    view = arm_view(job(*searched, rerun), "anon")
    assert view["trials"] == {"COMPLETE": 1, "DIVERGED": 1}
    assert view["reruns"] == {"COMPLETE": 1}
    assert view["best"]["trial"] == searched[0].id


def test_the_best_follows_the_direction_of_the_objective():
    spec = builders.spec(objective={"metric": "accuracy", "mode": "max"}).model_dump(mode="json")
    trials = (builders.trial(0, value=0.1), builders.trial(1, value=0.9))
    found = dataclasses.replace(job(*trials), spec=spec)
    assert arm_view(found, "anon")["best"]["value"] == 0.9
