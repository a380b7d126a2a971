"""A run of a job by hand: results as trials send them, and what the ledger has of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from anon_tune.ledger import Lease, Ledger
from anon_tune.records import NewTrial, Trial
from anon_tune.search.policy import Decision, Plan, next_trial
from anon_tune.spec import spaces_of
from anon_tune.workers.driver import job_run
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.trial.messages import Failed, Measurement, Outcome, StepResult
from tests import builders

RANDOM = {"sampler": "random", "pruner": "asha", "grace": 1, "reduction": 2}
MODELLED = {"sampler": "tpe", "pruner": "none"}
"""A search of which what comes next is not drawn at random, and may take long."""

OVER = -1.0
"""A lease of so many seconds can be taken at once, as that of a killed process later."""


def plan(trials: int = 4, **keys: Any) -> Plan:
    keys.setdefault("search", RANDOM)
    keys.setdefault("confirm", {"finalists": 1, "seeds": 2, "verdict_seeds": 2, "race": False})
    budget = {"trials": trials, "epochs": 4, **keys.pop("budget", {})}
    spec = builders.spec(budget=budget, **keys)
    return Plan(spec, spaces_of(spec), -9.0)


def begin(ledger: Ledger, job: Plan) -> tuple[str, Lease]:
    made = ledger.jobs.create("x", job.spec.model_dump(mode="json"), {})
    return made.id, ledger.leases.acquire(made.id, "first", OVER)


def result(
    step: int,
    value: float,
    outcome: Outcome | None = None,
    *,
    checkpoint: str | None = None,
    resumed: int | None = None,
    warnings: Sequence[str] = (),
    **metrics: float,
) -> StepResult:
    """A report of a trial, and its end where there is an outcome."""
    measurement = Measurement(step, value, {"val_loss": value, **metrics}, checkpoint)
    return StepResult(measurement=measurement, outcome=outcome, resumed=resumed, warnings=tuple(warnings))


def failure(reason: str = "no such file", log: str | None = None) -> StepResult:
    return StepResult(outcome=Failed(reason, "...", log))


def started(run: JobRun) -> Trial:
    found = run.next()
    assert isinstance(found, Trial)
    return found


def stored(ledger: Ledger, job_id: str) -> tuple[Trial, ...]:
    return ledger.jobs.get(job_id, trials=True).trials


class Held:
    """Keeps back what comes next until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.free = threading.Event()
        self.free.set()
        monkeypatch.setattr(job_run, "next_trial", self._next)

    def _next(self, job: Plan, trials: Sequence[Trial]) -> NewTrial | Decision:
        self.asked += 1
        assert self.free.wait(60)
        return next_trial(job, trials)


def after_waiting(run: JobRun) -> Trial | Decision:
    """Return the next trial or decision after any WAIT, as Tune asks repeatedly."""
    while (found := run.guard(run.next, Decision.DONE)) is Decision.WAIT:
        pass
    return found


def seen(trials: Any) -> list[tuple[Any, ...]]:
    return sorted((t.id, t.state, t.value, t.reason, t.attempts, len(t.reports)) for t in trials)
