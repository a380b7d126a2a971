"""A job as an Optuna study."""

from __future__ import annotations

import logging
import math

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from anon_tune.errors import InputError
from anon_tune.jobs.interface import Jobs
from anon_tune.jobs.studies import study_of
from anon_tune.records import ArmRecord, JobRecord, JobState, Overview, Phase, TrialReport, TrialState
from anon_tune.search_spaces import load_space
from anon_tune.spec import spaces_of
from anon_tune.views import JobView, job_view, report_view, trial_view
from tests import builders

FAIL = optuna.trial.TrialState.FAIL


def view(**keys: object) -> JobView:
    spec = builders.spec(**keys).model_dump(mode="json")
    record = JobRecord("j", "a job", JobState.RUNNING, Phase.SEARCH, spec, builders.EPOCH)
    return job_view(Overview(record, dict.fromkeys(spec["arms"], ArmRecord({}, {}, None, 0, 0.0)), 0))


def test_the_arms_of_a_job_are_told_apart(jobs: Jobs, done: str):
    study = jobs.study(done)
    assert study.direction is optuna.study.StudyDirection.MINIMIZE
    assert [trial.number for trial in study.trials] == list(range(13))
    by_arm: dict[str, set[str]] = {}
    for trial in study.trials:
        assert trial.params["arm"] == trial.user_attrs["arm"]
        by_arm.setdefault(trial.params["arm"], set()).update(trial.params)
    assert by_arm == {
        "anon": {"arm", "gamma"}, "adamw": {"arm", "adamw.lr"}, "sgd": {"arm", "sgd.lr"}
    }  # fmt: skip
    assert study.trials[0].distributions["arm"] == CategoricalDistribution(("anon", "adamw", "sgd"))
    assert study.best_value == 0.0


def test_an_arm_alone_has_its_own_names_and_ranges(jobs: Jobs, done: str):
    study = jobs.study(done, "sgd")
    assert [trial.params for trial in study.trials] == [{"lr": 0.01 + number / 50} for number in range(4)]
    lr = load_space("sgd").parameters["lr"]
    assert study.trials[0].distributions == {"lr": FloatDistribution(lr.low, lr.high, log=True)}
    with pytest.raises(InputError, match=r"unknown arm 'sdg'; did you mean 'sgd'\?"):
        jobs.study(done, "sdg")


def test_states_values_and_curves_are_the_trials():
    job = view(objective={"metric": "accuracy", "mode": "max"}, arms=["anon"])
    params = {"gamma": 0.5}
    trials = [
        builders.trial(0, TrialState.COMPLETE, 0.9, params=params, seed=7),
        builders.trial(1, TrialState.PRUNED, params=params, reason="pruned after epoch 1"),
        builders.trial(2, TrialState.DIVERGED, params=params),
        builders.trial(3, TrialState.FAILED, params=params),
        builders.trial(4, TrialState.CANCELLED, params=params),
        builders.trial(5, TrialState.RUNNING, params=params),
        builders.trial(6, TrialState.WAITING, params=params),
        builders.trial(0, TrialState.COMPLETE, 0.8, phase=Phase.VERDICT, params=params),
    ]
    reports = [
        TrialReport(step, value, {}, builders.EPOCH, trials[2].id, 1)
        for step, value in ((1, 0.1), (2, math.nan))
    ]
    study = study_of(
        job, spaces_of(builders.spec()), list(map(trial_view, trials)), map(report_view, reports)
    )
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE
    assert [trial.state.name for trial in study.trials] == [
        "COMPLETE", "PRUNED", "FAIL", "FAIL", "FAIL", "RUNNING", "WAITING"
    ]  # fmt: skip
    assert [trial.value for trial in study.trials] == [0.9, *[None] * 6]
    assert [trial.params for trial in study.trials] == [params] * 7
    curve = study.trials[2].intermediate_values
    assert curve[1] == 0.1
    assert math.isnan(curve[2])
    assert study.best_trial.user_attrs == {
        "trial": trials[0].id, "arm": "anon", "repeat": 0, "seed": 7, "state": "COMPLETE", "reason": None,
        "hyperparameters": {},
    }  # fmt: skip
    assert study.trials[1].user_attrs["reason"] == "pruned after epoch 1"


@pytest.mark.parametrize("arm", [None, "anon"])
def test_optuna_draws_a_job(jobs: Jobs, done: str, arm: str | None):
    study = jobs.study(done, arm)
    for draw in (
        optuna.visualization.plot_optimization_history,
        optuna.visualization.plot_parallel_coordinate,
        optuna.visualization.plot_slice,
        optuna.visualization.plot_intermediate_values,
        optuna.visualization.plot_timeline,
    ):
        assert draw(study).data


def test_a_study_leaves_optunas_log_as_it_is(jobs: Jobs, done: str, caplog: pytest.LogCaptureFixture):
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.INFO, "optuna"):
            jobs.study(done)
        assert caplog.records == []
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(before)
