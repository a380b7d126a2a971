"""One process's work on a job, with the real ledger and policy and without Ray: exact through any interruption."""

from __future__ import annotations

import contextlib
import math
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from anon_tune.errors import InputError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState, NewTrial, Phase, Trial, TrialState
from anon_tune.search.policy import Plan, Signal, finalists, next_trial
from anon_tune.search.study import distributions
from anon_tune.search.told import told
from anon_tune.spec import spaces_of
from anon_tune.workers import run as run_module
from anon_tune.workers.run import Run
from tests import builders

OVER = -1.0
"""A lease of so many seconds can be taken at once, as that of a killed process later."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def plan(trials: int = 4, **keys: Any) -> Plan:
    keys.setdefault("search", {"sampler": "random", "grace": 1, "reduction": 2})
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


def test_an_attempt_that_begins_again_is_judged_by_the_steps_it_has_done(ledger: Ledger):
    """Its predecessor's later reports stand in the ledger, and say nothing of where it is now."""
    job = plan(8, arms=["anon"])
    job_id, lease = begin(ledger, job)
    run = Run(ledger, lease, job)
    for _ in range(2):
        trial = started(run)
        for step in range(1, 5):
            end = {"outcome": TrialState.COMPLETE, "final": 1.0} if step == 4 else {}
            run.report(trial.id, result(step, 1.0, **end))
    trial = started(run)
    assert not run.report(trial.id, result(1, 0.5))
    ledger.report(lease, trial.id, 1, 2, 9.0, {})  # and killed before it heard that it is pruned
    run = Run(ledger, ledger.acquire(job_id, "again", OVER), job)
    assert started(run).id == trial.id
    assert not run.report(trial.id, result(1, 0.5))
    assert run.report(trial.id, result(2, 9.0))
    assert next(t for t in stored(ledger, job_id) if t.id == trial.id).reason == "pruned after epoch 2"


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
        job = plan(8, arms=["anon"], search={"sampler": "random", "grace": 1, "pruner": pruner})
        _, lease = begin(ledger, job)
        run = Run(ledger, lease, job)
        for _ in range(5):
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
