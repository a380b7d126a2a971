"""State changes that several operations share; each is part of the caller's transaction."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from anon_tune.errors import NotFoundError
from anon_tune.ledger.notices import add_notices
from anon_tune.ledger.tables import ATTEMPTS, JOBS, TRIALS
from anon_tune.ledger.transaction import Lease
from anon_tune.records import ENDED, ControlSignal, JobState, TrialState, check_transition

__all__ = ["LOST", "STATES_AFTER", "close_attempt", "end_attempts", "leave_job", "move_trial", "trial_state"]

LOST: Final = "LOST"
"""Outcome of an attempt whose trial waits for another one."""

STATES_AFTER: Final[Mapping[ControlSignal, JobState]] = {
    ControlSignal.PAUSE: JobState.PAUSED,
    ControlSignal.CANCEL: JobState.CANCELLED,
}
"""State of a job after each request."""

# Executed several times for every trial: building a statement takes longer than executing it.
_STATE = sa.select(TRIALS.c.state).where(
    TRIALS.c.id == sa.bindparam("of_trial"), TRIALS.c.job_id == sa.bindparam("of_job")
)
_MOVE_TRIAL = sa.update(TRIALS).where(TRIALS.c.id == sa.bindparam("of_trial"))
_CLOSE_ATTEMPT = sa.update(ATTEMPTS).where(
    ATTEMPTS.c.trial_id == sa.bindparam("of_trial"), ATTEMPTS.c.finished.is_(None)
)


def trial_state(connection: sa.Connection, lease: Lease, trial_id: str) -> TrialState:
    """Return the state of a trial of the lease's job. Raises NotFoundError, also for trials of other jobs."""
    found = connection.execute(_STATE, {"of_trial": trial_id, "of_job": lease.job}).scalar()
    if found is None:
        raise NotFoundError(f"Job {lease.job} has no trial {trial_id!r}.")
    return TrialState(found)


def move_trial(
    connection: sa.Connection, lease: Lease, trial_id: str, after: TrialState, **values: Any
) -> None:
    """Change a trial's state, and other columns with it.

    Raises:
        NotFoundError: The lease's job has no such trial.
        TransitionError: `after` may not follow the trial's state.
    """
    check_transition(trial_state(connection, lease, trial_id), after)
    connection.execute(_MOVE_TRIAL, {"of_trial": trial_id, "state": after, **values})


def close_attempt(
    connection: sa.Connection,
    trial_id: str,
    now: datetime.datetime,
    outcome: str,
    reason: str | None,
    log: str | None = None,
) -> None:
    """End a trial's open attempt, if it has one."""
    closed = {"finished": now, "outcome": outcome, "reason": reason, "log": log}
    connection.execute(_CLOSE_ATTEMPT, {"of_trial": trial_id, **closed})


def end_attempts(
    connection: sa.Connection, job_id: str, now: datetime.datetime, after: TrialState, reason: str
) -> None:
    """Close the attempts of a job's RUNNING trials, and set these WAITING or CANCELLED."""
    cancelled = after is TrialState.CANCELLED
    values: dict[str, Any] = {"finished": now, "reason": reason} if cancelled else {}
    running = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job_id, TRIALS.c.state == TrialState.RUNNING)
    for trial_id in connection.execute(running).scalars().all():
        connection.execute(sa.update(TRIALS).where(TRIALS.c.id == trial_id).values(state=after, **values))
        close_attempt(connection, trial_id, now, after if cancelled else LOST, reason)


def leave_job(
    connection: sa.Connection,
    job_id: str,
    now: datetime.datetime,
    state: JobState,
    reason: str | None,
    *,
    requested: bool = False,
) -> None:
    """Set the state of a job whose row is locked, and end its lease.

    RUNNING trials wait for another attempt. If `state` is final, RUNNING and WAITING trials are CANCELLED. Webhooks
    get a notice if the job has ended, or if it is PAUSED and nobody has `requested` that.
    """
    ended = state in ENDED
    after = TrialState.CANCELLED if ended else TrialState.WAITING
    end_attempts(connection, job_id, now, after, reason or "the job was stopped")
    if ended:
        connection.execute(
            sa.update(TRIALS)
            .where(TRIALS.c.job_id == job_id, TRIALS.c.state == TrialState.WAITING)
            .values(state=TrialState.CANCELLED, finished=now, reason=reason or "the job ended")
        )
    connection.execute(
        sa.update(JOBS)
        .where(JOBS.c.id == job_id)
        .values(
            state=state,
            reason=reason,
            requested=None,
            finished=now if ended else None,
            lease_holder=None,
            lease_heartbeat=None,
            lease_expires=None,
        )
    )
    if ended or (state is JobState.PAUSED and not requested):
        add_notices(connection, job_id, now, state, reason)
