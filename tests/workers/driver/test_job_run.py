"""One process's work on a job, with the real ledger and policy and without Ray: exact through any interruption."""

from __future__ import annotations

import math
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from anon_tune.errors import InputError, LeaseLostError
from anon_tune.ledger import Ledger
from anon_tune.ledger.trials import Trials
from anon_tune.records import JobState, NewTrial, Phase, Trial, TrialState
from anon_tune.search.policy import Decision, finalists, next_trial
from anon_tune.search.pruning import NEVER_STOPPED
from anon_tune.workers.driver import job_run
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.trial.checkpoints import checkpoint_name
from anon_tune.workers.trial.messages import (
    Completed,
    Diverged,
    Outcome,
    ProbeAssignment,
    ProbeResult,
    StepResult,
    TrainingCost,
)
from tests.workers.runs import (
    MODELLED,
    OVER,
    RANDOM,
    Held,
    after_waiting,
    begin,
    failure,
    plan,
    result,
    seen,
    started,
    stored,
)


def test_an_estimate_ends_after_the_probe(ledger: Ledger):
    job = plan()
    job_id, lease = begin(ledger, job)
    assignment = ProbeAssignment(0, 1, 0.03, {}, Path("probe.log"))
    with JobRun(ledger, lease, job, probe=assignment, only_probe=True) as run:
        assert run.next() is assignment
        assert run.next() is Decision.WAIT
        assert not run.stopping
        run.store_probe(
            ProbeResult(
                log_mean_sigma=-9.0,
                quantiles_log_sigma={},
                floor=0.03,
                batches=4,
                architecture={"family": "mlp", "parameters": 3, "layers": {}, "share": {}},
                cost=TrainingCost(seconds_per_step=0.1, steps_per_epoch=5.0),
            )
        )
        assert run.stopping
        assert run.next() is Decision.DONE
    assert ledger.jobs.get(job_id).probe == run.measured
    assert stored(ledger, job_id) == ()


@pytest.mark.parametrize(("patience", "race"), [(None, False), (0.0, False), (None, True)])
@pytest.mark.parametrize("seed", range(4))
def test_a_job_that_is_killed_again_and_again_is_exact(
    ledger: Ledger, seed: int, patience: float | None, race: bool
):
    rng = random.Random(seed)
    job = plan(confirm={"finalists": 1, "seeds": 2, "verdict_seeds": 2, "race": race})
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, patience)
    steps: dict[str, int] = {}
    kills = 0
    while True:
        if kills < 12 and rng.random() < 0.08:  # kill -9: nothing is said to the ledger
            kills += 1
            lease = ledger.leases.acquire(job_id, f"process {kills}", OVER)
            run.close()
            run, steps = JobRun(ledger, lease, job, patience), {}
        found = run.next() if len(steps) < 2 else Decision.WAIT
        if found is Decision.DONE:
            break
        if isinstance(found, Trial):
            assert found.id not in steps
            steps[found.id] = 0
            continue
        trial_id = rng.choice(sorted(steps))
        steps[trial_id] += 1
        step, value = steps[trial_id], rng.uniform(0.1, 2)
        if rng.random() < 0.05:
            run.lose(trial_id, "the worker process died")
            del steps[trial_id]
            continue
        end: Outcome | None = None
        if rng.random() < 0.1:
            value, end = math.nan, Diverged("diverged")
        elif step == 4:
            end = Completed(value)
        if run.report(trial_id, result(step, value, end)) or end is not None:
            del steps[trial_id]
    assert kills
    assert not steps
    trials = stored(ledger, job_id)
    assert seen(trials) == seen(run.trials)
    assert all(t.is_finished for t in trials)
    for arm in job.spec.arms:
        of_arm = [t for t in trials if t.arm == arm]
        search = [t for t in of_arm if t.phase is Phase.SEARCH]
        assert [t.number for t in sorted(search, key=lambda t: t.number)] == [0, 1, 2, 3]
        assert len({tuple(sorted(t.params.items())) for t in search}) == 4
        repeats = 2 if finalists(job, trials, arm) else 0
        for phase in (Phase.CONFIRM, Phase.VERDICT):
            made = [t for t in of_arm if t.phase is phase]
            assert len({t.seed for t in made}) == len(made)
            # In a race, one that did not get through on a seed is not rerun on the others.
            broken = race and phase is Phase.CONFIRM and any(t.state is not TrialState.COMPLETE for t in made)
            assert 1 <= len(made) <= repeats if broken else len(made) == repeats


def test_running_trials_match_the_ledger(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan())
    first, second = started(run), started(run)
    assert (first.arm, second.arm) == ("anon", "adamw")
    assert ledger.jobs.get(job_id).phase is Phase.SEARCH
    run.report(first.id, result(1, 0.5))
    run.report(first.id, result(2, math.inf, Diverged("diverged")))
    assert seen(stored(ledger, job_id)) == seen(run.trials)
    assert [t.state for t in stored(ledger, job_id)] == [TrialState.DIVERGED, TrialState.RUNNING]
    assert run.report(first.id, result(2, 9.0))  # it has ended: the result is not stored, and it stops
    assert stored(ledger, job_id)[0].reports[0].metrics == {"val_loss": 0.5}


def test_a_last_report_and_the_end_of_its_trial_are_there_together_or_not(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan())
    trial = started(run)
    run.report(trial.id, result(1, 0.5))
    before = stored(ledger, job_id)
    last = result(4, 0.4, Completed(0.4))

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trials, "finish", dies)
        with pytest.raises(KeyboardInterrupt):
            run.report(trial.id, last)
    assert stored(ledger, job_id) == before
    run.report(trial.id, last)
    (ended,) = stored(ledger, job_id)
    assert (ended.state, ended.value, ended.reports[-1].step) == (TrialState.COMPLETE, 0.4, 4)
    assert ended.finished == ended.reports[-1].time
    assert seen(run.trials) == seen([ended])


def test_three_failures_for_one_reason_pause_the_job_and_a_resume_goes_on(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan())
    for _ in range(3):
        run.report(started(run).id, failure())
    assert run.next() is Decision.DONE
    assert run.paused == "no such file"
    ledger.leases.release(lease, JobState.PAUSED, run.paused)

    run = JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), plan())
    for _ in range(3):
        run.report(started(run).id, failure())
    assert run.next() is Decision.DONE
    assert run.paused == "no such file"
    assert len(stored(ledger, job_id)) == 6


def test_a_trial_started_before_the_third_failure_runs_again(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan())
    *failing, again, other, good = [started(run) for _ in range(6)]
    for trial in failing:
        run.report(trial.id, failure())
    assert run.paused == "no such file"
    run.report(again.id, failure())
    run.report(other.id, failure("another reason"))
    run.report(good.id, result(4, 0.5, Completed(0.5)))
    assert run.next() is Decision.DONE
    assert seen(stored(ledger, job_id)) == seen(run.trials)
    states = [t.state for t in run.trials]
    assert states[:3] == [TrialState.FAILED] * 3
    assert states[3:] == [TrialState.WAITING, TrialState.FAILED, TrialState.COMPLETE]


def test_a_worker_that_dies_gives_the_trial_another_attempt_but_not_for_ever(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan())
    first = started(run)
    for attempt in (2, 3):
        run.lose(first.id, "the worker process died")
        again = started(run)
        assert (again.id, again.attempts) == (first.id, attempt)
    run.lose(first.id, "the worker process died")
    (trial,) = stored(ledger, job_id)
    assert trial.state is TrialState.FAILED
    assert trial.reason == "the worker process died (3 times)"
    run.lose(first.id, "once more")  # an ended trial cannot be lost
    assert stored(ledger, job_id) == (trial,)


def test_attempts_that_ended_with_their_driver_do_not_count_as_deaths(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    for _ in range(4):
        first = started(JobRun(ledger, lease, plan()))
        ledger.leases.release(lease, JobState.PAUSED, "interrupted")
        lease = ledger.leases.acquire(job_id, "again", OVER)
    run = JobRun(ledger, lease, plan())
    assert started(run).attempts == 5
    run.lose(first.id, "the worker process died")
    assert stored(ledger, job_id)[0].state is TrialState.WAITING


def complete_the_startup(run: JobRun) -> None:
    """The trials that are never stopped."""
    for _ in range(NEVER_STOPPED):
        trial = started(run)
        for step in range(1, 5):
            end = Completed(1.0) if step == 4 else None
            run.report(trial.id, result(step, 1.0, end))


def test_an_attempt_that_begins_again_is_judged_by_the_steps_it_has_done(ledger: Ledger):
    """Its predecessor's later reports stand in the ledger, and say nothing of where it is now."""
    job = plan(NEVER_STOPPED + 1, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    complete_the_startup(run)
    trial = started(run)
    assert not run.report(trial.id, result(1, 0.5))
    ledger.trials.report(lease, trial.id, 1, 2, 9.0, {})  # and killed before it heard that it is pruned
    run = JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), job)
    assert started(run).id == trial.id
    assert not run.report(trial.id, result(1, 0.5))
    assert run.report(trial.id, result(2, 9.0))
    assert next(t for t in stored(ledger, job_id) if t.id == trial.id).reason == "pruned after epoch 2"


def test_a_job_in_steps_speaks_of_steps_and_orders_reports_by_them(ledger: Ledger):
    """Another attempt may report at other steps than the one before."""
    own = {"task": "train:train", "folder": "/x", "data": None, "model": None, "arms": ["anon"]}
    search = {**RANDOM, "pruner": "median", "grace": 100}
    length = {"epochs": None, "steps": 400}
    job = plan(NEVER_STOPPED + 2, search=search, budget=length, objective={"of": "last 2"}, **own)
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    for _ in range(NEVER_STOPPED):
        trial = started(run)
        for step in (150, 300, 400):
            run.report(trial.id, result(step, 1.0, Completed(1.0) if step == 400 else None))
    pruned = started(run)
    assert not run.report(pruned.id, result(60, 9.0)), "before its grace"
    assert not run.report(pruned.id, result(120, 9.0)), "no other has reported so early"
    assert run.report(pruned.id, result(170, 9.0))
    trial = started(run)
    for step, value in ((100, 0.5), (300, 0.4)):
        run.report(trial.id, result(step, value))
    run.lose(trial.id, "the worker process died")
    assert started(run).id == trial.id
    for step, value in ((200, 0.3), (300, 0.9)):
        run.report(trial.id, result(step, value))
    run.report(trial.id, result(400, 0.1, Completed(0.1)))
    last, other = (next(t for t in stored(ledger, job_id) if t.id == each.id) for each in (trial, pruned))
    assert (other.state, other.reason) == (TrialState.PRUNED, "pruned after step 170")
    assert [report.step for report in last.reports] == [100, 200, 300, 400]
    assert last.value == pytest.approx(math.sqrt(0.4 * 0.1)), "of the last two steps"
    assert seen(stored(ledger, job_id)) == seen(run.trials)


def named(
    folder: Path, trial: Trial, step: int, value: float = 0.5, outcome: Outcome | None = None
) -> StepResult:
    """A result whose checkpoint is there."""
    name = checkpoint_name(trial.id, trial.attempts, step)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"weights")
    return result(step, value, outcome, checkpoint=name)


@pytest.mark.parametrize("killed", [False, True])
def test_another_attempt_is_given_what_the_ledger_names(ledger: Ledger, tmp_path: Path, killed: bool):
    """As much after a worker's death as after the driver's."""
    job = plan()
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    trial = started(run)
    assert trial.checkpoints == ()
    run.report(trial.id, named(tmp_path, trial, 1))
    run.report(trial.id, named(tmp_path, trial, 2))
    run.report(trial.id, result(3, 0.5))
    expected: tuple[str, ...] = (f"{trial.id}/1/2.pt",)
    for attempt in (2, 3):
        if killed:
            run = JobRun(
                ledger, ledger.leases.acquire(job_id, f"process {attempt}", OVER), job, folder=tmp_path
            )
        else:
            run.lose(trial.id, "the worker process died")
        again = started(run)
        assert (again.id, again.attempts, again.checkpoints) == (trial.id, attempt, expected)
        if attempt == 2:
            run.report(trial.id, named(tmp_path, again, 3, 9.0))
            expected = (f"{trial.id}/2/3.pt", *expected)
    assert [report.value for report in stored(ledger, job_id)[0].reports] == [0.5, 0.5, 0.5]
    assert stored(ledger, job_id)[0].checkpoints == expected


@pytest.mark.parametrize("heard", [False, True])
def test_one_that_goes_on_after_the_step_at_which_it_falls_behind_is_pruned_there(
    ledger: Ledger, tmp_path: Path, heard: bool
):
    """It does not report that step again. Where it had gone on, that was decided, and stands."""
    job = plan(NEVER_STOPPED + 2, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    complete_the_startup(run)
    trial = started(run)
    assert not run.report(trial.id, result(1, 0.5))
    measurement = named(tmp_path, trial, 2).measurement
    assert measurement is not None
    checkpoint = measurement.checkpoint
    ledger.trials.report(
        lease, trial.id, 1, 2, 9.0, {}, checkpoint
    )  # and killed before it heard that it is pruned
    if heard:
        ledger.trials.report(lease, trial.id, 1, 3, 9.0, {})
    run = JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), job, folder=tmp_path)
    following = started(run)
    if heard:
        assert (following.id, following.checkpoints) == (trial.id, (checkpoint,))
    else:
        assert following.number == trial.number + 1
        pruned = next(t for t in stored(ledger, job_id) if t.id == trial.id)
        assert (pruned.state, pruned.reason) == (TrialState.PRUNED, "pruned after epoch 2")
        assert not (tmp_path / trial.id).exists()
    assert seen(stored(ledger, job_id)) == seen(run.trials)


ENDS = {
    "COMPLETE": lambda run, trial: run.report(trial.id, result(4, 0.5, Completed(0.5))),
    "DIVERGED": lambda run, trial: run.report(trial.id, result(2, math.nan, Diverged("diverged"))),
    "FAILED": lambda run, trial: run.report(trial.id, failure()),
    "lost for good": lambda run, trial: [
        (run.lose(trial.id, "the worker process died"), started(run) if death < 2 else None)
        for death in range(3)
    ],
}


@pytest.mark.parametrize("end", ENDS)
def test_the_files_of_a_trial_go_when_it_ends_and_not_before(ledger: Ledger, tmp_path: Path, end: str):
    _, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan(), folder=tmp_path)
    trial, other = started(run), started(run)
    for one in (trial, other):
        run.report(one.id, named(tmp_path, one, 1))
    ENDS[end](run, trial)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {other.id}
    ledger.leases.release(lease, JobState.PAUSED, "interrupted")
    again = JobRun(ledger, ledger.leases.acquire(lease.job, "again", OVER), plan(), folder=tmp_path)
    assert started(again).checkpoints == (f"{other.id}/1/1.pt",)
    assert (tmp_path / other.id / "1" / "1.pt").exists()


def test_files_that_a_killed_driver_did_not_come_to_go_with_the_next(ledger: Ledger, tmp_path: Path):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan(), folder=tmp_path)
    trial, other = started(run), started(run)
    for one in (trial, other):
        run.report(one.id, named(tmp_path, one, 1))
    ledger.trials.finish(lease, trial.id, TrialState.FAILED, None, "no such file")
    JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), plan(), folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {other.id}


def test_what_a_worker_says_is_in_the_log(ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    _, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan(), folder=tmp_path)
    trial = started(run)
    run.report(trial.id, result(3, 0.5, resumed=2, warnings=["no checkpoint after epoch 3: full"]))
    assert f"trial {trial.id}: attempt 1 continues after epoch 2" in caplog.text
    assert ("WARNING", f"trial {trial.id}: no checkpoint after epoch 3: full") in [
        (record.levelname, record.getMessage()) for record in caplog.records
    ]


@pytest.mark.parametrize("killed", [False, True])
def test_of_the_verdicts_weights_the_best_are_kept(ledger: Ledger, tmp_path: Path, killed: bool):
    job = plan(
        1,
        keep="best",
        arms=["anon", "sgd"],
        confirm={"finalists": 1, "seeds": 1, "verdict_seeds": 3, "race": False},
    )
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job, folder=tmp_path)
    values = iter([0.5, 0.4, 0.6])  # the second is best on validation, the third on test
    kept: set[str] = set()
    best = math.inf
    while isinstance(trial := run.next(), Trial):
        of_anon = trial.phase is Phase.VERDICT and trial.arm == "anon"
        value = next(values) if of_anon else 0.1
        end = Completed(1 - value)
        if of_anon:
            run.report(trial.id, named(tmp_path, trial, 4, value, end))
            if value < best:
                kept, best = {trial.id}, value
        else:
            run.report(trial.id, named(tmp_path, trial, 3, value))
            run.report(trial.id, result(4, value, end))
        if killed:
            run = JobRun(ledger, ledger.leases.acquire(job_id, "again", OVER), job, folder=tmp_path)
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == kept
    assert best == 0.4


def test_after_a_takeover_nothing_more_is_given_out(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = JobRun(ledger, lease, plan())
    trial = started(run)
    ledger.leases.acquire(job_id, "second", OVER)
    before = stored(ledger, job_id)
    assert run.guard(lambda: run.report(trial.id, result(1, 0.5)), otherwise=True)
    assert isinstance(run.error, LeaseLostError)
    assert run.guard(run.next, Decision.DONE) is Decision.DONE
    assert stored(ledger, job_id) == before


def test_a_slow_suggestion_is_waited_for_outside_and_becomes_one_trial(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    job = plan(search=MODELLED)
    job_id, lease = begin(ledger, job)
    with JobRun(ledger, lease, job, patience=0.0) as run:
        first = started(run)  # nothing runs: it is waited for
        held.free.clear()
        assert [run.next() for _ in range(3)] == [Decision.WAIT] * 3
        assert not run.report(first.id, result(1, 0.5))
        assert len(stored(ledger, job_id)) == 1
        held.free.set()
        second = after_waiting(run)
        assert isinstance(second, Trial)
        assert held.asked == 2
        assert [t.id for t in stored(ledger, job_id)] == [first.id, second.id]
        assert seen(stored(ledger, job_id)) == seen(run.trials)


def test_a_trial_whose_worker_died_does_not_wait_for_a_suggestion(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    job = plan(search=MODELLED)
    job_id, lease = begin(ledger, job)
    with JobRun(ledger, lease, job, patience=0.0) as run:
        first, second = started(run), after_waiting(run)
        held.free.clear()
        assert run.next() is Decision.WAIT
        run.lose(first.id, "the worker process died")
        assert started(run).id == first.id
        held.free.set()
        third = after_waiting(run)
        assert isinstance(third, Trial)
        assert third.id not in {t.id for t in (first, second) if isinstance(t, Trial)}
        assert held.asked == len(stored(ledger, job_id)) == 3


def test_an_answer_from_before_the_last_trial_ended_is_asked_for_anew(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    job = plan(1, arms=["anon"])
    _, lease = begin(ledger, job)
    with JobRun(ledger, lease, job, patience=0.0) as run:
        first = started(run)
        held.free.clear()
        assert run.next() is Decision.WAIT  # and WAIT is what is being found
        run.report(first.id, result(4, 0.5, Completed(0.5)))
        held.free.set()
        assert started(run).phase is Phase.CONFIRM


def test_three_failures_pause_the_job_while_a_suggestion_is_computed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    job = plan(search=MODELLED)
    job_id, lease = begin(ledger, job)
    with JobRun(ledger, lease, job, patience=0.0) as run:
        given = [after_waiting(run) for _ in range(3)]
        held.free.clear()
        assert run.next() is Decision.WAIT
        for trial in given:
            assert isinstance(trial, Trial)
            run.report(trial.id, failure())
        assert run.next() is Decision.DONE
        held.free.set()
        assert run.next() is Decision.DONE
    assert len(stored(ledger, job_id)) == 3


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_only_what_is_drawn_at_random_is_found_in_the_thread_that_calls(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, sampler: str
):
    threads = []

    def noted(*given: Any) -> NewTrial | Decision:
        threads.append(threading.current_thread())
        return next_trial(*given)

    monkeypatch.setattr(job_run, "next_trial", noted)
    job = plan(1, search={"sampler": sampler, "pruner": "none"}, arms=["anon"])
    _, lease = begin(ledger, job)
    with JobRun(ledger, lease, job) as run:
        first = started(run)
        assert (threads == [threading.main_thread()]) is (sampler == "random")
        run.report(first.id, result(4, 0.5, Completed(0.5)))
        assert started(run).phase is Phase.CONFIRM  # which takes all trials into account
        assert threads[-1] is not threading.main_thread()


@pytest.mark.parametrize("search", [RANDOM, MODELLED])
@pytest.mark.parametrize("patience", [None, 0.0])
def test_an_error_in_the_search_reaches_the_driver(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, patience: float | None, search: dict[str, Any]
):
    job = plan(search=search)
    job_id, lease = begin(ledger, job)
    with JobRun(ledger, lease, job, patience) as run:
        first = started(run)
        error = InputError("The space is used up.")

        def fails(*_: Any) -> NewTrial:
            raise error

        monkeypatch.setattr(job_run, "next_trial", fails)
        assert after_waiting(run) is Decision.DONE
        assert run.error is error
        assert run.guard(lambda: run.report(first.id, result(1, 0.5)), otherwise=True)
    assert [t.id for t in stored(ledger, job_id)] == [first.id]


def test_the_end_does_not_wait_for_a_suggestion(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    held = Held(monkeypatch)
    job = plan(search=MODELLED)
    job_id, lease = begin(ledger, job)
    with JobRun(ledger, lease, job, patience=0.0) as run:
        started(run)
        held.free.clear()
        assert run.next() is Decision.WAIT
    assert not held.free.is_set()
    held.free.set()
    assert len(stored(ledger, job_id)) == 1


@pytest.mark.parametrize(
    ("of", "value", "tested"), [("last", 0.8, 3.2), ("best", 0.1, 0.3), ("last 2", 0.4, 0.8)]
)
def test_a_trial_is_judged_by_its_reports_in_the_ledger_whoever_took_them(
    ledger: Ledger, of: str, value: float, tested: float
):
    job = plan(trials=1, objective={"of": of}, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = JobRun(ledger, lease, job)
    for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.CONFIRM, Phase.VERDICT):
        trial = started(run)
        assert trial.phase is phase
        for step, loss, test in ((1, 0.4, 0.5), (2, 0.1, 0.3), (3, 0.2, 0.2)):
            run.report(trial.id, result(step, loss, test_loss=test))
        # Another process goes on after the second epoch; its third report is not the one that stands.
        lease = ledger.leases.acquire(job_id, "second", OVER)
        run.close()
        run = JobRun(ledger, lease, job)
        assert started(run).id == trial.id
        run.report(trial.id, result(3, 9.0, test_loss=9.0))
        end = Completed(3.2 if phase is Phase.VERDICT else 0.8)
        run.report(trial.id, result(4, 0.8, end, test_loss=3.2))
        expected = tested if phase is Phase.VERDICT else value
        assert stored(ledger, job_id)[-1].value == pytest.approx(expected)
        assert seen(stored(ledger, job_id)) == seen(run.trials)
