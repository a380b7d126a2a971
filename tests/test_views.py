"""Jobs and trials as people and programs see them."""

from __future__ import annotations

import dataclasses

from anon_tune.jobs.frames import of_trials
from anon_tune.records import ArmRecord, JobRecord, JobState, Overview, Phase, Queue, TrialState
from anon_tune.views import JobView, job_view, trial_view
from tests import builders
from tests.test_waiting import worker


def view(phase: Phase = Phase.SEARCH, **keys: object) -> JobView:
    spec = builders.spec(**keys).model_dump(mode="json")
    job = JobRecord("j", "x", JobState.RUNNING, phase, spec, builders.EPOCH)
    best = builders.trial(3, value=0.5)
    counts = {TrialState.DIVERGED: 1, TrialState.COMPLETE: 2, TrialState.RUNNING: 1}
    arm = ArmRecord(counts, {TrialState.COMPLETE: 4, TrialState.WAITING: 2}, best, 30, 12.345)
    nothing = ArmRecord({}, {}, None, 0, 0.0)
    return job_view(Overview(job, {"anon": arm, "sgd": nothing}, projected=9))


def test_done_counts_ended_trials():
    seen = view()
    assert (seen.done, seen.made) == (7, 10)
    assert seen.planned > seen.made


def test_the_budget_of_an_arm_is_that_of_all_its_searches():
    spec = builders.spec(search={"repeats": 3}).model_dump(mode="json")
    job = JobRecord("j", "x", JobState.RUNNING, Phase.SEARCH, spec, builders.EPOCH)
    arms = dict.fromkeys(spec["arms"], ArmRecord({}, {}, None, 0, 0.0))
    seen = job_view(Overview(job, arms, projected=0))
    assert {arm.budget for arm in seen.arms.values()} == {3 * spec["budget"]["trials"]}
    assert trial_view(builders.trial(repeat=2)).repeat == 2


def test_a_job_says_why_it_waits():
    spec = builders.spec().model_dump(mode="json")
    spec["resources"]["gpu"] = 4
    job = JobRecord("j", "x", JobState.QUEUED, Phase.PROBE, spec, builders.EPOCH)
    overview = Overview(job, dict.fromkeys(spec["arms"], ArmRecord({}, {}, None, 0, 0.0)), projected=0)
    assert job_view(overview).waiting is None
    queue = Queue(0, (worker(),))
    seen = job_view(dataclasses.replace(overview, queue=queue))
    assert seen.waiting == "a trial needs 4 GPUs, and the largest machine seen has 2"

    running = dataclasses.replace(job, state=JobState.RUNNING)
    for workers, waiting in (
        ((worker("j"), worker(largest_gpus=8.0)), seen.waiting),
        ((worker("j", largest_gpus=4.0),), None),
        ((worker("another"),), None),
    ):
        queue = Queue(0, workers)
        assert job_view(dataclasses.replace(overview, job=running, queue=queue)).waiting == waiting
    has_run = {"anon": ArmRecord({TrialState.COMPLETE: 1}, {}, None, 0, 0.0)}
    queue = Queue(0, (worker("j"),))
    grown = dataclasses.replace(overview, job=running, queue=queue, arms=has_run)
    assert job_view(grown).waiting is None


def test_trials_that_a_search_will_not_make_are_not_waited_for():
    early = {"search": {"stop": "decided"}, "budget": {"trials": 9, "epochs": 9}}
    before, after = view(**early), view(Phase.CONFIRM, **early)
    assert [arm.planned for arm in before.arms.values()] == [9, 9]
    assert [arm.planned for arm in after.arms.values()] == [4, 0]
    assert before.planned - after.planned == 9 + 9 - 4
    never = {"budget": {"trials": 9, "epochs": 9}}
    assert [arm.planned for arm in view(Phase.CONFIRM, **never).arms.values()] == [9, 9]


def test_the_progress_of_an_arm_is_in_the_unit_of_the_budget():
    steps = {"task": "train:train", "folder": "/x", "data": None, "model": None}
    for budget, expected in (({"epochs": 9}, (70, None)), ({"steps": 2000}, (None, 70))):
        keys = {"budget": {"trials": 4, **budget}, **(steps if "steps" in budget else {})}
        spec = builders.spec(**keys).model_dump(mode="json")
        job = JobRecord("j", "x", JobState.RUNNING, Phase.SEARCH, spec, builders.EPOCH)
        arms = dict.fromkeys(spec["arms"], ArmRecord({}, {}, None, 70, 1.0))
        arm = job_view(Overview(job, arms, projected=0)).arms["anon"]
        assert (arm.epochs, arm.steps) == expected


def test_a_trial_says_when_it_ran():
    trial = dataclasses.replace(builders.trial(ended=60.0), started=builders.EPOCH, seconds=42.0)
    seen = trial_view(trial)
    assert (seen.started, seen.finished, seen.seconds) == (trial.started, trial.finished, 42.0)
    waiting = trial_view(builders.trial(state=TrialState.WAITING))
    assert (waiting.started, waiting.finished, waiting.seconds) == (None, None, 0.0)
    frame = of_trials([seen, waiting])
    assert (frame["finished"] - frame["started"]).dt.total_seconds().tolist()[0] == 60.0
    assert frame["started"].isna().tolist() == [False, True]


def test_states_come_in_the_order_of_a_trial():
    assert list(view().arms["anon"].trials) == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.DIVERGED]


def test_a_view_survives_serialization():
    seen = view()
    assert JobView.model_validate_json(seen.model_dump_json()) == seen
    best = seen.arms["anon"].best
    assert best is not None
    assert (best.value, best.trial) == (0.5, builders.trial(3).id)
    trial = trial_view(builders.trial(1, TrialState.DIVERGED))
    assert type(trial).model_validate_json(trial.model_dump_json()) == trial
