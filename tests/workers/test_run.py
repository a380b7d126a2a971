"""One process's work on a job, with the real ledger and policy and without Ray: exact through any interruption."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from anon_tune.errors import InputError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, NewTrial, Orders, Phase, Request, Trial, TrialState
from anon_tune.search.policy import Plan, Signal, finalists, next_trial
from anon_tune.search.study import STARTUP_TRIALS, distributions
from anon_tune.search.told import told
from anon_tune.spec import spaces_of
from anon_tune.workers import run as run_module
from anon_tune.workers.checkpoints import checkpoint_name
from anon_tune.workers.run import Run
from anon_tune.workers.watch import Watch
from tests import builders

OVER = -1.0
"""A lease of so many seconds can be taken at once, as that of a killed process later."""


def plan(trials: int = 4, **keys: Any) -> Plan:
    keys.setdefault("search", {"sampler": "random", "pruner": "asha", "grace": 1, "reduction": 2})
    keys.setdefault("confirm", {"finalists": 1, "seeds": 2, "verdict_seeds": 2, "race": False})
    spec = builders.spec(budget={"trials": trials, "epochs": 4}, **keys)
    return Plan(spec, spaces_of(spec), -9.0)


def begin(ledger: Ledger, job: Plan) -> tuple[str, Lease]:
    made = ledger.create_job("x", job.spec.model_dump(mode="json"), {})
    return made.id, ledger.acquire(made.id, "first", OVER)


def result(step: int, value: float, **keys: Any) -> dict[str, Any]:
    """A result as Tune hands it on."""
    return {"step": step, "value": value, "metrics/val_loss": value, "done": False, **keys}


def failure(reason: str = "no such file") -> dict[str, Any]:
    return {"done": True, "outcome": TrialState.FAILED, "reason": reason, "traceback": "..."}


def started(run: Run) -> Trial:
    found = run.next()
    assert isinstance(found, Trial)
    return found


def stored(ledger: Ledger, job_id: str) -> tuple[Trial, ...]:
    return ledger.job(job_id, trials=True).trials


class Held:
    """Keeps back what comes next until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.free = threading.Event()
        self.free.set()
        monkeypatch.setattr(run_module, "next_trial", self._next)

    def _next(self, job: Plan, trials: Sequence[Trial]) -> NewTrial | Signal:
        self.asked += 1
        assert self.free.wait(60)
        return next_trial(job, trials)


def after_waiting(run: Run) -> Trial | Signal:
    """What comes next once it is there: Tune asks again and again."""
    while (found := run.guard(run.next, Signal.DONE)) is Signal.WAIT:
        pass
    return found


def seen(trials: Any) -> list[tuple[Any, ...]]:
    return sorted((t.id, t.state, t.value, t.reason, t.attempts, len(t.reports)) for t in trials)


@pytest.mark.parametrize(("patience", "race"), [(None, False), (0.0, False), (None, True)])
@pytest.mark.parametrize("seed", range(4))
def test_a_job_that_is_killed_again_and_again_is_exact(
    ledger: Ledger, seed: int, patience: float | None, race: bool
):
    rng = random.Random(seed)
    job = plan(confirm={"finalists": 1, "seeds": 2, "verdict_seeds": 2, "race": race})
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job, patience)
    steps: dict[str, int] = {}
    kills = 0
    while True:
        if kills < 12 and rng.random() < 0.08:  # kill -9: nothing is said to the ledger
            kills += 1
            lease = ledger.acquire(job_id, f"process {kills}", OVER)
            run.close()
            run, steps = Run(ledger, lease, job, patience), {}
        found = run.next() if len(steps) < 2 else Signal.WAIT
        if found is Signal.DONE:
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
        keys: dict[str, Any] = {}
        if rng.random() < 0.1:
            value, keys = math.nan, {"outcome": TrialState.DIVERGED, "reason": "diverged"}
        elif step == 4:
            keys = {"outcome": TrialState.COMPLETE, "final": value}
        if run.report(trial_id, result(step, value, **keys)) or keys:
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


def test_what_runs_is_what_the_ledger_says(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    first, second = started(run), started(run)
    assert (first.arm, second.arm) == ("anon", "adamw")
    assert ledger.job(job_id).phase is Phase.SEARCH
    run.report(first.id, result(1, 0.5))
    run.report(first.id, result(2, math.inf, outcome=TrialState.DIVERGED, reason="diverged"))
    assert seen(stored(ledger, job_id)) == seen(run.trials)
    assert [t.state for t in stored(ledger, job_id)] == [TrialState.DIVERGED, TrialState.RUNNING]
    assert not run.report(first.id, result(2, 9.0))  # Tune repeats itself
    assert stored(ledger, job_id)[0].reports[0].metrics == {"val_loss": 0.5}


def test_a_last_report_and_the_end_of_its_trial_are_there_together_or_not(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    trial = started(run)
    run.report(trial.id, result(1, 0.5))
    before = stored(ledger, job_id)
    last = result(4, 0.4, outcome=TrialState.COMPLETE, final=0.4)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "finish_trial", dies)
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
    run = Run(ledger, lease, plan())
    for _ in range(3):
        run.report(started(run).id, failure())
    assert run.next() is Signal.DONE
    assert run.paused == "no such file"
    ledger.release(lease, JobState.PAUSED, run.paused)

    run = Run(ledger, ledger.acquire(job_id, "again", OVER), plan())
    for _ in range(3):
        run.report(started(run).id, failure())
    assert run.next() is Signal.DONE
    assert run.paused == "no such file"
    assert len(stored(ledger, job_id)) == 6


def test_what_was_given_out_before_the_third_failure_spends_no_budget_on_it(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    *failing, again, other, good = [started(run) for _ in range(6)]
    for trial in failing:
        run.report(trial.id, failure())
    assert run.paused == "no such file"
    run.report(again.id, failure())
    run.report(other.id, failure("another reason"))
    run.report(good.id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
    assert run.next() is Signal.DONE
    assert seen(stored(ledger, job_id)) == seen(run.trials)
    states = [t.state for t in run.trials]
    assert states[:3] == [TrialState.FAILED] * 3
    assert states[3:] == [TrialState.WAITING, TrialState.FAILED, TrialState.COMPLETE]


def test_a_worker_that_dies_gives_the_trial_another_attempt_but_not_for_ever(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
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
        first = started(Run(ledger, lease, plan()))
        ledger.release(lease, JobState.PAUSED, "interrupted")
        lease = ledger.acquire(job_id, "again", OVER)
    run = Run(ledger, lease, plan())
    assert started(run).attempts == 5
    run.lose(first.id, "the worker process died")
    assert stored(ledger, job_id)[0].state is TrialState.WAITING


def complete_the_startup(run: Run) -> None:
    """The trials that are never stopped."""
    for _ in range(STARTUP_TRIALS):
        trial = started(run)
        for step in range(1, 5):
            end = {"outcome": TrialState.COMPLETE, "final": 1.0} if step == 4 else {}
            run.report(trial.id, result(step, 1.0, **end))


def test_an_attempt_that_begins_again_is_judged_by_the_steps_it_has_done(ledger: Ledger):
    """Its predecessor's later reports stand in the ledger, and say nothing of where it is now."""
    job = plan(STARTUP_TRIALS + 1, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    complete_the_startup(run)
    trial = started(run)
    assert not run.report(trial.id, result(1, 0.5))
    ledger.report(lease, trial.id, 1, 2, 9.0, {})  # and killed before it heard that it is pruned
    run = Run(ledger, ledger.acquire(job_id, "again", OVER), job)
    assert started(run).id == trial.id
    assert not run.report(trial.id, result(1, 0.5))
    assert run.report(trial.id, result(2, 9.0))
    assert next(t for t in stored(ledger, job_id) if t.id == trial.id).reason == "pruned after epoch 2"


def named(folder: Path, trial: Trial, step: int, value: float = 0.5, **keys: Any) -> dict[str, Any]:
    """A result whose checkpoint is there."""
    name = checkpoint_name(trial.id, trial.attempts, step)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"weights")
    return result(step, value, checkpoint=name, **keys)


@pytest.mark.parametrize("killed", [False, True])
def test_another_attempt_is_given_what_the_ledger_names(ledger: Ledger, tmp_path: Path, killed: bool):
    """As much after a worker's death as after the driver's."""
    job = plan()
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job, folder=tmp_path)
    trial = started(run)
    assert trial.checkpoints == ()
    run.report(trial.id, named(tmp_path, trial, 1))
    run.report(trial.id, named(tmp_path, trial, 2))
    run.report(trial.id, result(3, 0.5))
    expected: tuple[str, ...] = (f"{trial.id}/1/2.pt",)
    for attempt in (2, 3):
        if killed:
            run = Run(ledger, ledger.acquire(job_id, f"process {attempt}", OVER), job, folder=tmp_path)
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
    job = plan(STARTUP_TRIALS + 2, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job, folder=tmp_path)
    complete_the_startup(run)
    trial = started(run)
    assert not run.report(trial.id, result(1, 0.5))
    checkpoint = named(tmp_path, trial, 2)["checkpoint"]
    ledger.report(lease, trial.id, 1, 2, 9.0, {}, checkpoint)  # and killed before it heard that it is pruned
    if heard:
        ledger.report(lease, trial.id, 1, 3, 9.0, {})
    run = Run(ledger, ledger.acquire(job_id, "again", OVER), job, folder=tmp_path)
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
    "COMPLETE": lambda run, trial: run.report(
        trial.id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5)
    ),
    "DIVERGED": lambda run, trial: run.report(
        trial.id, result(2, math.nan, outcome=TrialState.DIVERGED, reason="diverged")
    ),
    "FAILED": lambda run, trial: run.report(trial.id, failure()),
    "lost for good": lambda run, trial: [
        (run.lose(trial.id, "the worker process died"), started(run) if death < 2 else None)
        for death in range(3)
    ],
}


@pytest.mark.parametrize("end", ENDS)
def test_the_files_of_a_trial_go_when_it_ends_and_not_before(ledger: Ledger, tmp_path: Path, end: str):
    _, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan(), folder=tmp_path)
    trial, other = started(run), started(run)
    for one in (trial, other):
        run.report(one.id, named(tmp_path, one, 1))
    ENDS[end](run, trial)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {other.id}
    ledger.release(lease, JobState.PAUSED, "interrupted")
    again = Run(ledger, ledger.acquire(lease.job, "again", OVER), plan(), folder=tmp_path)
    assert started(again).checkpoints == (f"{other.id}/1/1.pt",)
    assert (tmp_path / other.id / "1" / "1.pt").exists()


def test_files_that_a_killed_driver_did_not_come_to_go_with_the_next(ledger: Ledger, tmp_path: Path):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan(), folder=tmp_path)
    trial, other = started(run), started(run)
    for one in (trial, other):
        run.report(one.id, named(tmp_path, one, 1))
    ledger.finish_trial(lease, trial.id, TrialState.FAILED, None, "no such file")
    Run(ledger, ledger.acquire(job_id, "again", OVER), plan(), folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {other.id}


def test_what_a_worker_says_is_in_the_log(ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    _, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan(), folder=tmp_path)
    trial = started(run)
    run.report(trial.id, result(3, 0.5, resumed=2, warnings=["no checkpoint after epoch 3: full"]))
    assert f"trial {trial.id}: attempt 1 goes on after epoch 2" in caplog.text
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
    run = Run(ledger, lease, job, folder=tmp_path)
    values = iter([0.5, 0.4, 0.6])  # the second is best on validation, the third on test
    kept: set[str] = set()
    best = math.inf
    while isinstance(trial := run.next(), Trial):
        of_anon = trial.phase is Phase.VERDICT and trial.arm == "anon"
        value = next(values) if of_anon else 0.1
        end = {"outcome": TrialState.COMPLETE, "final": 1 - value}
        if of_anon:
            run.report(trial.id, named(tmp_path, trial, 4, value, **end))
            if value < best:
                kept, best = {trial.id}, value
        else:
            run.report(trial.id, named(tmp_path, trial, 3, value))
            run.report(trial.id, result(4, value, **end))
        if killed:
            run = Run(ledger, ledger.acquire(job_id, "again", OVER), job, folder=tmp_path)
        assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == kept
    assert best == 0.4


def test_after_a_takeover_nothing_more_is_given_out(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    trial = started(run)
    ledger.acquire(job_id, "second", OVER)
    before = stored(ledger, job_id)
    assert run.guard(lambda: run.report(trial.id, result(1, 0.5)), otherwise=True)
    assert isinstance(run.error, LeaseLostError)
    assert run.guard(run.next, Signal.DONE) is Signal.DONE
    assert stored(ledger, job_id) == before


def test_a_slow_suggestion_is_waited_for_outside_and_becomes_one_trial(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    job_id, lease = begin(ledger, plan())
    with Run(ledger, lease, plan(), patience=0.0) as run:
        first = started(run)  # nothing runs: it is waited for
        held.free.clear()
        assert [run.next() for _ in range(3)] == [Signal.WAIT] * 3
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
    job_id, lease = begin(ledger, plan())
    with Run(ledger, lease, plan(), patience=0.0) as run:
        first, second = started(run), after_waiting(run)
        held.free.clear()
        assert run.next() is Signal.WAIT
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
    with Run(ledger, lease, job, patience=0.0) as run:
        first = started(run)
        held.free.clear()
        assert run.next() is Signal.WAIT  # and WAIT is what is being found
        run.report(first.id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
        held.free.set()
        assert started(run).phase is Phase.CONFIRM


def test_three_failures_pause_the_job_while_a_suggestion_is_computed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    job_id, lease = begin(ledger, plan())
    with Run(ledger, lease, plan(), patience=0.0) as run:
        given = [after_waiting(run) for _ in range(3)]
        held.free.clear()
        assert run.next() is Signal.WAIT
        for trial in given:
            assert isinstance(trial, Trial)
            run.report(trial.id, failure())
        assert run.next() is Signal.DONE
        held.free.set()
        assert run.next() is Signal.DONE
    assert len(stored(ledger, job_id)) == 3


@pytest.mark.parametrize("patience", [None, 0.0])
def test_an_error_in_the_search_reaches_the_driver(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, patience: float | None
):
    job_id, lease = begin(ledger, plan())
    with Run(ledger, lease, plan(), patience) as run:
        first = started(run)
        error = InputError("The space is used up.")

        def fails(*_: Any) -> NewTrial:
            raise error

        monkeypatch.setattr(run_module, "next_trial", fails)
        assert after_waiting(run) is Signal.DONE
        assert run.error is error
        assert run.guard(lambda: run.report(first.id, result(1, 0.5)), otherwise=True)
    assert [t.id for t in stored(ledger, job_id)] == [first.id]


def test_the_end_does_not_wait_for_a_suggestion(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    held = Held(monkeypatch)
    job_id, lease = begin(ledger, plan())
    with Run(ledger, lease, plan(), patience=0.0) as run:
        started(run)
        held.free.clear()
        assert run.next() is Signal.WAIT
    assert not held.free.is_set()
    held.free.set()
    assert len(stored(ledger, job_id)) == 1


# What is RUNNING for the sampler is what somebody works on


def told_running(job: Plan, trials: Any, arm: str) -> list[dict[str, Any]]:
    """Places that the sampler is told somebody works on."""
    search = [t for t in trials if t.arm == arm and t.phase is Phase.SEARCH]
    space = job.spaces[arm]
    found = told(space, search, distributions(space), job.spec.objective.mode)
    return [t.params for t in found if t.state is optuna.trial.TrialState.RUNNING]


ENDINGS: dict[str, list[dict[str, Any]]] = {
    "complete": [
        result(1, 0.5),
        result(4, 0.4, outcome=TrialState.COMPLETE, final=0.4),
    ],
    "NaN": [result(1, math.nan, outcome=TrialState.DIVERGED, reason="diverged")],
    "inf": [result(1, 0.5), result(2, math.inf, outcome=TrialState.DIVERGED, reason="diverged")],
    "-inf": [result(1, -math.inf, outcome=TrialState.DIVERGED, reason="diverged")],
    "NaN at the end": [result(4, 0.4, outcome=TrialState.DIVERGED, final=None, reason="diverged")],
    "exception": [failure("its own")],
    "exception later": [result(1, 0.5), failure("its own")],
}


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_trial_that_ended_in_any_way_runs_no_more(ledger: Ledger, ending: str, sampler: str):
    job = plan(12, arms=["anon"], search={"sampler": sampler, "grace": 1, "pruner": "none"})
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    for number in range(9):  # the last suggestion is made with a model
        first = started(run)
        assert told_running(job, run.trials, "anon") == [dict(first.params)]
        for reported in ENDINGS[ending]:
            reason = {"reason": f"reason {number}"} if "reason" in reported else {}
            run.report(first.id, {**reported, **reason})
        assert told_running(job, run.trials, "anon") == []
        assert told_running(job, stored(ledger, job_id), "anon") == []
    assert run.running == 0
    assert started(run).number == 9


def test_a_report_that_is_not_finite_is_no_end_by_itself(ledger: Ledger):
    """The trial says that it diverged; until then it runs, and is pruned by nobody."""
    for pruner in ("asha", "median"):
        job = plan(9, arms=["anon"], search={"sampler": "random", "grace": 1, "pruner": pruner})
        _, lease = begin(ledger, job)
        run = Run(ledger, lease, job)
        for _ in range(STARTUP_TRIALS):
            good = started(run)
            run.report(good.id, result(1, 0.5))
            run.report(good.id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
        odd = started(run)
        assert not run.report(odd.id, result(1, math.nan))
        assert run.running == 1
        run.report(odd.id, result(1, math.nan, outcome=TrialState.DIVERGED, reason="diverged"))
        assert run.running == 0


def test_the_last_death_of_a_worker_ends_its_trial_for_the_sampler(ledger: Ledger):
    job = plan(8, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    lost, other = started(run), started(run)
    for _ in range(2):
        run.lose(lost.id, "the worker process died")
        # It waits, and is the next to be given out: its place is still taken.
        assert told_running(job, run.trials, "anon") == [dict(lost.params), dict(other.params)]
        assert started(run).id == lost.id
    run.lose(lost.id, "the worker process died")
    assert told_running(job, run.trials, "anon") == [dict(other.params)]
    assert told_running(job, stored(ledger, job_id), "anon") == [dict(other.params)]
    assert started(run).id not in (lost.id, other.id)


def test_after_a_takeover_what_ran_is_given_out_again_before_anything_new(ledger: Ledger):
    job = plan(8, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    before = [started(run) for _ in range(3)]
    run.report(before[1].id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
    run = Run(ledger, ledger.acquire(job_id, "again", OVER), job)
    assert run.running == 0
    again = [started(run) for _ in range(2)]
    assert [t.id for t in again] == [before[0].id, before[2].id]
    assert told_running(job, run.trials, "anon") == [dict(t.params) for t in again]
    assert started(run).number == 3


@pytest.mark.parametrize("seed", range(3))
def test_told_as_running_is_exactly_what_is_given_out(ledger: Ledger, seed: int):
    """With workers that die, values that are no numbers, exceptions and takeovers in between."""
    rng = random.Random(seed)
    job = plan(12, search={"sampler": "random", "grace": 1, "reduction": 2, "seed": seed}, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run, out = Run(ledger, lease, job), dict[str, int]()
    waiting: set[str] = set()
    for change in range(120):
        happens = rng.random()
        if happens < 0.05:
            lease = ledger.acquire(job_id, f"process {change}", OVER)
            waiting |= set(out)
            run, out = Run(ledger, lease, job), {}
        elif len(out) < 3 and isinstance(found := run.next(), Trial):
            out[found.id] = 0
            waiting -= {found.id}
        elif out:
            trial_id = rng.choice(sorted(out))
            step = out[trial_id] = out[trial_id] + 1
            ended = True
            if happens < 0.2:
                run.lose(trial_id, "the worker process died")
                waiting |= {t.id for t in run.trials if t.id == trial_id and not t.is_finished}
            elif happens < 0.3:
                run.report(trial_id, failure(f"reason {change}"))
            elif happens < 0.4:
                odd = rng.choice([math.nan, math.inf])
                run.report(trial_id, result(step, odd, outcome=TrialState.DIVERGED, reason="diverged"))
            elif step == 4:
                run.report(trial_id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
            else:
                ended = run.report(trial_id, result(step, rng.uniform(0.1, 2)))
            if ended:
                del out[trial_id]
        for trials in (run.trials, stored(ledger, job_id)) if change % 4 == 0 else (run.trials,):
            by_id = {t.id: t for t in trials}
            expected = [
                dict(t.params) for t in by_id.values() if t.phase is Phase.SEARCH and t.id in {*out, *waiting}
            ]
            assert sorted(map(str, told_running(job, trials, "anon"))) == sorted(map(str, expected))
        assert run.running == len(out)


@pytest.mark.parametrize("sampler", ["gp", "grid"])
def test_points_to_try_first_are_tried_once_however_often_the_job_is_killed(ledger: Ledger, sampler: str):
    points = [{"gamma": 0.5, "step_size": 1.0}, {"gamma": 0.0}]
    job = plan(6, arms=["anon"], search={"sampler": sampler, "levels": 3, "try_first": points})
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    firsts = []
    for kill in range(6):
        found = started(run)
        with contextlib.suppress(IndexError):
            assert found.params.items() >= points[found.number].items()
        firsts.append(found.number)
        if kill % 2:
            run.report(found.id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
        run = Run(ledger, ledger.acquire(job_id, f"process {kill}", OVER), job)
    assert firsts == [0, 0, 1, 1, 2, 2]
    assert not any(t.params.items() >= point.items() for t in stored(ledger, job_id)[2:] for point in points)


# What is asked of a job while it is worked on


def orders(job: Plan, spent: float = 0.0, request: Request | None = None, **budget: Any) -> Orders:
    """What the ledger says at a heartbeat."""
    return Orders(request, {**job.spec.budget.model_dump(), **budget}, spent)


def complete(run: Run, trial: Trial, value: float = 0.5) -> None:
    run.report(trial.id, result(4, value, outcome=TrialState.COMPLETE, final=value))


def work_off(run: Run) -> None:
    while isinstance(found := run.next(), Trial):
        complete(run, found, 0.5 + 0.01 * found.number)
    assert found is Signal.DONE


@pytest.mark.parametrize("request_", Request)
def test_after_a_request_nothing_more_is_given_out_and_what_runs_is_stored(ledger: Ledger, request_: Request):
    job = plan()
    job_id, lease = begin(ledger, job)
    watch = Watch(orders(job))
    run = Run(ledger, lease, job, watch=watch)
    first, lost = started(run), started(run)
    watch.orders = orders(job, request=request_)
    assert run.stopping
    assert run.next() is Signal.DONE
    complete(run, first)
    run.lose(lost.id, "the worker process died")
    assert run.next() is Signal.DONE  # nor another attempt
    assert [t.state for t in stored(ledger, job_id)] == [TrialState.COMPLETE, TrialState.WAITING]


def test_a_larger_budget_is_searched_without_a_pause(ledger: Ledger):
    job = plan(2)
    job_id, lease = begin(ledger, job)
    watch = Watch(orders(job))
    run = Run(ledger, lease, job, watch=watch)
    for _ in range(3):
        complete(run, started(run))
    watch.orders = orders(job, trials=4)
    work_off(run)
    assert run.is_done()
    assert run.budget == {**job.spec.budget.model_dump(), "trials": 4}
    trials = stored(ledger, job_id)
    searched = Counter(t.arm for t in trials if t.phase is Phase.SEARCH)
    assert searched == dict.fromkeys(job.spec.arms, 4)


def test_a_larger_budget_after_the_end_is_seen(ledger: Ledger):
    job = plan(2)
    _, lease = begin(ledger, job)
    watch = Watch(orders(job))
    run = Run(ledger, lease, job, watch=watch)
    work_off(run)
    assert run.is_done()
    watch.orders = orders(job, trials=3)
    assert not run.is_done()
    assert started(run).phase is Phase.SEARCH


def test_what_was_suggested_by_the_budget_before_is_dropped(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    held = Held(monkeypatch)
    job = plan(4, arms=["anon"])
    job_id, lease = begin(ledger, job)
    watch = Watch(orders(job))
    with Run(ledger, lease, job, patience=0.0, watch=watch) as run:
        first = started(run)
        held.free.clear()
        assert run.next() is Signal.WAIT  # the second search trial is being found
        watch.orders = orders(job, spent=9.0, time=5.0)
        assert run.next() is Signal.WAIT
        complete(run, first)
        held.free.set()
        assert started(run).phase is Phase.CONFIRM
    assert sum(t.phase is Phase.SEARCH for t in stored(ledger, job_id)) == 1


def test_time_that_is_spent_ends_the_search_and_not_the_job(ledger: Ledger):
    job = plan(4, arms=["anon", "sgd"])
    job_id, lease = begin(ledger, job)
    watch = Watch(orders(job, spent=4.9, time=5.0))
    run = Run(ledger, lease, job, watch=watch)
    done, waits, runs = started(run), started(run), started(run)
    complete(run, done)
    run.lose(waits.id, "the worker process died")
    assert run.cut_short is None
    watch.orders = orders(job, spent=5.0, time=5.0)
    assert run.next() is Signal.WAIT  # what runs may finish
    complete(run, runs)
    work_off(run)
    assert run.cut_short == "budget.time (5 s) was spent after 2 of 8 search trials"
    search = [t for t in stored(ledger, job_id) if t.phase is Phase.SEARCH]
    assert [t.state for t in search] == [TrialState.COMPLETE, TrialState.CANCELLED, TrialState.COMPLETE]
    assert search[1].reason == "budget.time was spent"
    assert {t.phase for t in stored(ledger, job_id)} == {Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT}
    assert seen(stored(ledger, job_id)) == seen(run.trials)


def test_time_that_is_spent_after_the_search_changes_nothing(ledger: Ledger):
    job = plan(2)
    _, lease = begin(ledger, job)
    watch = Watch(orders(job, time=5.0))
    run = Run(ledger, lease, job, watch=watch)
    for _ in range(6):
        complete(run, started(run))
    watch.orders = orders(job, spent=99.0, time=5.0)
    work_off(run)
    assert run.cut_short is None


def test_the_end_of_what_a_worker_wrote_is_kept_with_its_attempt(ledger: Ledger):
    job_id, lease = begin(ledger, plan())
    run = Run(ledger, lease, plan())
    died, failed, diverged = (started(run) for _ in range(3))
    run.lose(died.id, "the worker process died", "Segmentation fault")
    run.report(failed.id, {**failure(), "log": "Traceback"})
    odd = result(1, math.nan, outcome=TrialState.DIVERGED, reason="diverged", log="a warning")
    run.report(diverged.id, odd)
    assert [(a.trial, a.outcome, a.log) for a in ledger.attempts(job_id)] == [
        (died.id, "LOST", "Segmentation fault"),
        (failed.id, "FAILED", "Traceback"),
        (diverged.id, "DIVERGED", "a warning"),
    ]


def test_an_interrupt_waits_for_a_report(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    job_id, lease = begin(ledger, plan())
    watch = Watch()
    run = Run(ledger, lease, plan(), watch=watch)
    trial = started(run)
    store = ledger.report

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return store(*arguments)

    monkeypatch.setattr(ledger, "report", interrupted)
    with watch.signals(), pytest.raises(KeyboardInterrupt):
        run.guard(lambda: run.report(trial.id, result(1, 0.5)), otherwise=True)
    assert [report.step for report in stored(ledger, job_id)[0].reports] == [1]
    assert run.error is None


def test_a_process_that_is_to_end_lets_each_trial_write_a_checkpoint_first(ledger: Ledger, tmp_path: Path):
    job = plan(4, search={"sampler": "random", "pruner": "none"})
    job_id, lease = begin(ledger, job)
    watch = Watch()
    run = Run(ledger, lease, job, watch=watch)
    first, second = started(run), started(run)
    with watch.signals(), watch.notice(lambda: None):
        signal.raise_signal(signal.SIGTERM)
        assert run.next() is Signal.DONE
        assert not run.report(first.id, result(1, 0.5)), (
            "it was told to stop before it could go on from there"
        )
        name = checkpoint_name(first.id, 1, 2)
        assert run.report(first.id, result(2, 0.5, checkpoint=name))
        run.report(first.id, result(2, 0.5, checkpoint=name))  # as Tune repeats it
        assert not run.report(second.id, result(4, 0.5, outcome=TrialState.COMPLETE, final=0.5))
    kept = stored(ledger, job_id)
    assert [(trial.state, len(trial.reports)) for trial in kept] == [
        (TrialState.RUNNING, 2),
        (TrialState.COMPLETE, 1),
    ]
    assert kept[0].checkpoints == (name,)
    ledger.release(lease, JobState.PAUSED)
    again = started(Run(ledger, ledger.acquire(job_id, "second", 60.0), job))
    assert (again.id, again.attempts, again.checkpoints) == (first.id, 2, (name,))
