"""Contents of runs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from anon_tune.records import ArmRecord, JobRecord, JobState, Overview, Phase, TrialState
from anon_tune.tracking.names import readable
from anon_tune.tracking.runs import (
    data_set,
    job_points,
    job_tags,
    new_job_tags,
    trial_params,
    trial_points,
    trial_settings,
)
from tests import builders
from tests.answers import GAMMA, answer, winner
from tests.builders import EPOCH

ANON = {
    "lr": 3.1622776e-05,
    "betas": [0.9, 0.999, 0.5],
    "gamma": 0.5,
    "delay": 2.0,
    "eps": 1e-16,
    "weight_decay": 0.01,
}
COORDINATES = {"gamma": 0.5, "step_size": 1.5, "beta3": 0.5, "delay": 2.0, "decay": 1e-4}


def job(**keys: object) -> JobRecord:
    made = JobRecord(
        "j", "a job", JobState.RUNNING, Phase.SEARCH, builders.spec().model_dump(mode="json"), EPOCH
    )
    return dataclasses.replace(made, **keys)


def test_settings_have_one_name_in_all_arms_and_no_exponents():
    found = trial_params(builders.trial(seed=7, params=COORDINATES, hyperparameters=ANON))
    assert found["lr"] == "0.0000316228"
    assert (found["beta1"], found["beta2"], found["beta3"]) == ("0.9", "0.999", "0.5")
    assert (found["step_size"], found["seed"], found["arm"]) == ("1.5", "7", "anon")
    assert "betas" not in found
    adamw = trial_params(builders.trial(arm="adamw", hyperparameters={"lr": 2.0, "betas": (0.9, 0.99)}))
    assert (adamw["lr"], adamw["beta2"]) == ("2", "0.99")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.25, "-0.25"),
        (15.0, "15"),
        (1e-16, "1e-16"),
        (1e300, "1e+300"),
        (math.nan, "nan"),
        (True, "True"),
    ],
)
def test_numbers_of_any_size_are_text(value: float, text: str):
    assert trial_params(builders.trial(hyperparameters={"x": value}))["x"].replace("0.0", "0") == text


def test_main_settings_are_numbers_too():
    trial = builders.trial(params=COORDINATES, hyperparameters=ANON)
    assert {point.name: point.value for point in trial_settings(trial, EPOCH)} == {
        "gamma": 0.5, "settings/step_size": 1.5, "settings/beta3": 0.5, "settings/delay": 2.0,
        "settings/lr": 3.1622776e-05, "settings/weight_decay": 0.01,
    }  # fmt: skip


@pytest.mark.parametrize(("mode", "best"), [("min", 0.1), ("max", 0.4)])
def test_a_trial_has_its_objective_first_and_its_best_value(mode: str, best: float):
    trial = builders.trial(value=0.3, curve=(0.4, 0.1, math.nan, 0.3))
    points = list(trial_points(trial, 0, mode))
    assert (points[0].name, points[0].value) == ("objective", 0.3)
    assert [point.value for point in points if point.name == "objective/best"] == [best]
    assert [point.step for point in points if point.name == "objective/validation"] == [1, 2, 3, 4]


def test_a_running_trial_has_new_reports_alone():
    trial = builders.trial(state=TrialState.RUNNING, curve=(0.4, 0.1))
    assert [(point.name, point.value) for point in trial_points(trial, 1, "min")] == [
        ("objective/validation", 0.1)
    ]


def test_everything_about_the_optimizer_has_one_prefix():
    names = [
        "group0/gamma",
        "group1/gamma",
        "gradient_norm",
        "update_ratio",
        "group0/update_ratio",
        "optimizer_steps",
    ]
    shown = [readable(name) for name in names]
    assert len(set(shown)) == len(names)
    assert all(name.startswith("optimizer/") for name in shown)
    assert readable("val_loss") == "val_loss"


def test_a_running_job_has_its_best_so_far_and_a_finished_one_its_answer():
    best = builders.trial(value=0.2, hyperparameters=ANON)
    arms = {
        "anon": ArmRecord({TrialState.COMPLETE: 3, TrialState.RUNNING: 1}, {}, best, 9, 1.0),
        "sgd": ArmRecord({}, {}, None, 0, 0.0),
    }
    running = list(job_points(Overview(job(), arms, 0), EPOCH))
    assert {point.name: point.value for point in running} == {
        "objective": 0.2, "gamma": 0.5, "best/anon": 0.2, "trials_done": 3, "work_seconds": 0.0,
    }  # fmt: skip
    assert {point.step for point in running} == {3}
    found = answer(gamma=GAMMA.model_copy(update={"best": 0.6}), winners={"anon": winner("anon")})
    ended = job(state=JobState.SUCCEEDED, result=found.model_dump(mode="json"))
    shown = {point.name: point.value for point in job_points(Overview(ended, arms, 0), EPOCH)}
    assert (shown["gamma"], shown["gamma_low"], shown["gamma_high"]) == (0.6, 0.2, 0.8)
    assert (shown["gamma_flat_low"], shown["gamma_flat_high"], shown["test/anon"]) == (0.4, 0.6, 2.0)


def test_a_job_is_found_by_its_tags():
    tags = job_tags(job(architecture={"family": "cnn"}), "x" * 9000)
    assert tags["anon_tune.family"] == "cnn"
    assert tags["anon_tune.arms"] == "anon, adamw, sgd"
    assert len(tags["mlflow.note.content"]) == 8000
    assert "anon_tune.family" not in job_tags(job(), "")
    assert new_job_tags(job(owner="ann"))["anon_tune.owner"] == "ann"
    assert "anon_tune.owner" not in new_job_tags(job())


def test_other_data_has_another_digest(tmp_path: Path):
    file = tmp_path / "x.csv"
    file.write_text("a,b\n1,2\n")
    spec = {"data": {"name": "csv", "options": {"file": str(file), "target": "b"}}}
    first = data_set(job(spec=spec))
    assert first is not None
    assert first.name == "csv"
    assert data_set(job(spec=spec)) == first
    file.write_text("a,b\n1,2\n3,4\n")
    assert data_set(job(spec=spec)) != first
    assert data_set(job(spec={"data": None})) is None
