"""What the page of a job says, in each state of the job."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.dashboards.pages.job import (
    Totals,
    about_state,
    actions,
    cells,
    duration,
    found,
    learning_curve,
    progress,
)
from anon_tune.records import (
    ArmRecord,
    ControlSignal,
    JobRecord,
    JobState,
    LearningCurve,
    LeaseRecord,
    Overview,
    Phase,
    TrialColumn,
    TrialState,
)
from anon_tune.views import JobView, job_view, trial_view
from tests import builders
from tests.answers import compared, stored, winner


def job(state: JobState, *, alive: bool = True, result: dict[str, Any] | None = None, **keys: Any) -> JobView:
    lease = (
        LeaseRecord("worker", 1, builders.EPOCH, builders.EPOCH, alive) if state is JobState.RUNNING else None
    )
    spec = builders.spec(arms=["anon", "sgd"]).model_dump(mode="json")
    record = JobRecord(
        "j", "a job", state, Phase.SEARCH, spec, builders.EPOCH, lease=lease, result=result, **keys
    )
    arm = ArmRecord({TrialState.COMPLETE: 2}, {}, None, 18, 20.0)
    return job_view(Overview(record, {"anon": arm, "sgd": ArmRecord({}, {}, None, 0, 0.0)}, 0))


@pytest.mark.parametrize(
    ("seen", "said", "offered"),
    [
        (job(JobState.QUEUED), "", {"pause", "cancel", "extend"}),
        (job(JobState.RUNNING), "", {"pause", "cancel", "extend"}),
        (
            job(JobState.RUNNING, requested=ControlSignal.PAUSE),
            "Pause requested; the worker will act on it within seconds.",
            {"cancel", "extend"},
        ),
        (job(JobState.RUNNING, requested=ControlSignal.CANCEL), "Cancel requested", {"extend"}),
        (
            job(JobState.RUNNING, alive=False),
            "No process is running this job",
            {"pause", "resume", "cancel", "extend"},
        ),
        (
            job(JobState.PAUSED, reason="pause requested"),
            "Paused: pause requested.",
            {"resume", "cancel", "extend"},
        ),
        (job(JobState.FAILED, reason="no data"), "no data", set()),
        (job(JobState.CANCELLED, reason="cancel requested"), "Cancelled: cancel requested.", set()),
        (job(JobState.SUCCEEDED), "", {"extend"}),
    ],
)
def test_a_state_is_explained_and_requests_that_it_allows_are_offered(
    seen: JobView, said: str, offered: set[str]
) -> None:
    assert " ".join(about_state(seen)).startswith(said)
    found = actions(seen)
    assert {name for name in ("pause", "resume", "cancel", "extend") if getattr(found, name)} == offered


def test_totals_of_a_job_that_an_earlier_version_stored() -> None:
    stored = job(JobState.SUCCEEDED)
    spec = {key: stored.spec[key] for key in ("name", "task", "data", "model", "arms", "objective")}
    old = stored.model_copy(update={"spec": {**spec, "budget": {"trials": 4, "epochs": 9, "time": 5400}}})
    assert actions(old).totals == Totals(trials=4, time="1 h 30 min", seeds=10)


def test_progress_estimates_the_time_left_of_a_running_job() -> None:
    seen = progress(job(JobState.RUNNING, spent=30.0))
    assert (seen.done, seen.arms[0].search) == (2, "2 COMPLETE")
    assert seen.left == duration(30.0 / 2 * (seen.planned - 2))
    assert progress(job(JobState.PAUSED, spent=30.0)).left is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 0 s"),
        (130, "2 min 10 s"),
        (3560, "59 min"),
        (3599, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (200_000, "2 days 7 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_answer_has_two_sentences_and_what_to_do_next() -> None:
    result = stored(winners={"anon": winner("anon"), "sgd": winner("sgd")}, verdict=[compared()])
    seen = found(job(JobState.SUCCEEDED, result=result))
    assert seen is not None
    assert len(seen.sentences) == 2
    assert seen.sentences[1] == "Anon with the settings below: undecided against sgd."
    assert seen.steps[0].startswith("Use these settings: anon-tune export j -o best.yaml")
    assert [arm.arm for arm in seen.arms] == ["anon", "sgd"]
    again = found(job(JobState.QUEUED, result=result))
    assert again is not None
    assert again.is_old
    assert again.steps == []
    assert found(job(JobState.QUEUED)) is None


def test_a_trial_has_a_text_for_each_column() -> None:
    texts = cells(
        trial_view(
            builders.trial(
                3,
                value=0.25,
                params={"step_size": 0.5},
                hyperparameters={
                    "gamma": 0.123456,
                    "betas": [0.9, 0.99, 0.5],
                    "delay": "every:2",
                    "lr": 1e-4,
                },
            )
        )
    )
    assert list(texts) == list(TrialColumn)
    assert texts[TrialColumn.GAMMA] == "0.1235"
    assert texts[TrialColumn.BETA3] == "0.5"
    assert texts[TrialColumn.DELAY] == "every:2"
    assert texts[TrialColumn.STEP_SIZE] == "0.5"
    assert texts[TrialColumn.WEIGHT_DECAY] == "-"
    assert cells(trial_view(builders.trial(hyperparameters={"betas": [0.9, 0.99]})))[TrialColumn.BETA3] == "-"


def test_a_learning_curve_is_broken_where_a_value_was_not_finite() -> None:
    curve = learning_curve(LearningCurve([1, 2, 3, 5], [3.0, 2.0, None, 1.0]))
    assert curve is not None
    assert curve.lines == ["0.0,0.0 25.0,15.0", "100.0,30.0"]
    assert learning_curve(LearningCurve([1], [None])) is None
    assert learning_curve(None) is None
