"""Jobs and trials as plain values: the JSON of the command line and of the service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from anon_tune.records import Attempt, JobRecord, Phase, Trial, TrialState, objective_key

__all__ = ["arm_view", "attempt_view", "best_trial", "job_view", "trial_view"]


def job_view(job: JobRecord) -> dict[str, Any]:
    """A job with its arms; `job.trials` must have been read.

    `seconds` is the time for which it has been worked on, as of the last heartbeat.
    """
    result = job.result or {}
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state.value,
        "phase": job.phase.value,
        "reason": job.reason,
        "priority": job.priority,
        "requested": job.requested.value if job.requested else None,
        "lease": None
        if job.lease is None
        else {
            "holder": job.lease.holder,
            "alive": job.lease.alive,
            "heartbeat": job.lease.heartbeat.isoformat(),
        },
        "architecture": job.architecture,
        "arms": {arm: arm_view(job, arm) for arm in job.spec["arms"]},
        "gamma": result.get("gamma"),
        "verdict": result.get("verdict"),
        "winners": {arm: found["trial"] for arm, found in result.get("winners", {}).items()},
        "created": job.created.isoformat(),
        "finished": job.finished.isoformat() if job.finished else None,
        "seconds": round(job.spent, 1),
        "mlflow_run_id": job.mlflow_run,
    }


def arm_view(job: JobRecord, arm: str) -> dict[str, Any]:
    """An arm's spending and its best search trial.

    `trials` counts the search trials by state, which the budget is about; `reruns` the confirm and verdict ones.
    `seconds` is the time that the epochs took, without waiting, pauses and lost attempts.
    """
    trials = [trial for trial in job.trials if trial.arm == arm]
    search = [trial for trial in trials if trial.phase is Phase.SEARCH]
    best = best_trial(search, job.spec["objective"]["mode"])
    return {
        "trials": _by_state(search),
        "reruns": _by_state([trial for trial in trials if trial.phase is not Phase.SEARCH]),
        "budget": job.spec["budget"]["trials"],
        "best": None
        if best is None
        else {"trial": best.id, "value": best.value, "params": dict(best.params)},
        "epochs": sum(len(trial.reports) for trial in trials),
        "seconds": round(
            sum(report.metrics.get("epoch_seconds") or 0.0 for trial in trials for report in trial.reports), 1
        ),
    }


def trial_view(trial: Trial) -> dict[str, Any]:
    """One trial."""
    return {
        "id": trial.id,
        "arm": trial.arm,
        "phase": trial.phase.value,
        "seed": trial.seed,
        "state": trial.state.value,
        "params": dict(trial.params),
        "hyperparameters": dict(trial.hyperparameters),
        "value": trial.value,
        "steps": len(trial.reports),
        "attempts": trial.attempts,
        "reason": trial.reason,
        "source": trial.source,
        "mlflow_run_id": trial.mlflow_run,
    }


def attempt_view(attempt: Attempt) -> dict[str, Any]:
    """One attempt at a trial."""
    return {
        "trial": attempt.trial,
        "number": attempt.number,
        "started": attempt.started.isoformat(),
        "finished": attempt.finished.isoformat() if attempt.finished else None,
        "outcome": attempt.outcome,
        "reason": attempt.reason,
        "log": attempt.log,
    }


def best_trial(trials: Sequence[Trial], mode: str) -> Trial | None:
    """The COMPLETE trial with the best value."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.value is not None]
    return min(complete, key=lambda trial: objective_key(trial.value or 0.0, mode), default=None)


def _by_state(trials: Sequence[Trial]) -> dict[str, int]:
    counts = Counter(trial.state.value for trial in trials)
    return {state.value: counts[state.value] for state in TrialState if counts[state.value]}
