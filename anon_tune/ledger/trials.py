"""Trials and their reports."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from anon_tune import records
from anon_tune.errors import ConflictError, NotFoundError, TransitionError
from anon_tune.ledger.rows import report_record
from anon_tune.ledger.tables import ATTEMPTS, REPORTS, TRIALS
from anon_tune.ledger.transaction import Lease, Transaction, Transactions
from anon_tune.ledger.transitions import close_attempt, move_trial, trial_state
from anon_tune.records import FINISHED, NewTrial, TrialState

__all__ = ["Trials"]

# Executed for every trial: building a statement takes longer than executing it.
_ADD_TRIAL, _ADD_REPORT = sa.insert(TRIALS), sa.insert(REPORTS)
_FINISHED = sa.select(TRIALS.c.finished).where(TRIALS.c.id == sa.bindparam("of_trial"))
_REPORT = sa.select(REPORTS).where(
    REPORTS.c.trial_id == sa.bindparam("of_trial"), REPORTS.c.step == sa.bindparam("of_step")
)
_DONE = sa.bindparam("done", type_=sa.Integer)
_COUNT_STEP = (
    sa.update(TRIALS)
    .where(TRIALS.c.id == sa.bindparam("of_trial"))
    .values(
        steps=sa.case((TRIALS.c.steps < _DONE, _DONE), else_=TRIALS.c.steps),
        seconds=TRIALS.c.seconds + sa.bindparam("took"),
    )
)
_NAME_CHECKPOINT = sa.update(ATTEMPTS).where(
    ATTEMPTS.c.trial_id == sa.bindparam("of_trial"), ATTEMPTS.c.number == sa.bindparam("of_attempt")
)


class Trials:
    """Trials of one ledger, or of one transaction: `Ledger.trials`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def add(self, lease: Lease, new: NewTrial) -> records.Trial:
        """Store a WAITING trial and return it.

        Raises:
            LeaseLostError: Another process holds the job.
            ConflictError: The arm's search already has this number, or this configuration with this seed.
        """
        trial_id = new.id_in(lease.job)
        given = {**vars(new), "params": dict(new.params), "hyperparameters": dict(new.hyperparameters)}
        with self._transactions.write() as transaction:
            row = {
                **given,
                "id": trial_id,
                "job_id": lease.job,
                "state": TrialState.WAITING,
                "configuration": _configuration_key(new.params),
                "created": transaction.check_lease(lease),
            }
            if not (transaction.again and _stored(transaction, trial_id)):
                try:
                    transaction.connection.execute(_ADD_TRIAL, row)
                except IntegrityError as error:
                    raise ConflictError(
                        f"Trial {trial_id} repeats a number or a configuration of this job."
                    ) from error
        return records.Trial(id=trial_id, job=lease.job, state=TrialState.WAITING, **given)

    def report(
        self,
        lease: Lease,
        trial_id: str,
        attempt: int,
        step: int,
        value: float,
        metrics: Mapping[str, float],
        checkpoint: str | None = None,
    ) -> records.Report:
        """Store an intermediate result, and return the report of this step: the first one that was stored.

        `checkpoint` is the file that holds the trial after this step; the attempt then names it as its newest. It
        must be durable by now, since the next attempt may continue from it.

        Raises:
            LeaseLostError: Another process holds the job.
            NotFoundError: The job has no such trial, or the trial no such attempt.
            ConflictError: The trial is not RUNNING.
        """
        with self._transactions.write() as transaction:
            connection, now = transaction.connection, transaction.check_lease(lease)
            state = trial_state(connection, lease, trial_id)
            standing = connection.execute(_REPORT, {"of_trial": trial_id, "of_step": step}).mappings().first()
            if state is not TrialState.RUNNING:
                if transaction.again and standing is not None:
                    return report_record(standing)
                raise ConflictError(f"Trial {trial_id} is {state}; only a RUNNING trial can report.")
            if checkpoint is not None:
                of_attempt = {"of_trial": trial_id, "of_attempt": attempt, "checkpoint": checkpoint}
                if connection.execute(_NAME_CHECKPOINT, of_attempt).rowcount != 1:
                    raise NotFoundError(f"Trial {trial_id} has no attempt {attempt}.")
            if standing is not None:
                return report_record(standing)
            row = {
                "trial_id": trial_id,
                "step": step,
                "attempt": attempt,
                "value": _finite(value),
                "metrics": {key: _finite(number) for key, number in metrics.items()},
                "time": now,
            }
            connection.execute(_ADD_REPORT, row)
            took = _finite(metrics.get("epoch_seconds")) or 0.0
            connection.execute(_COUNT_STEP, {"of_trial": trial_id, "done": step, "took": took})
        return report_record(row)

    def finish(
        self,
        lease: Lease,
        trial_id: str,
        state: TrialState,
        value: float | None = None,
        reason: str | None = None,
        log: str | None = None,
    ) -> datetime.datetime:
        """End a trial and its attempt, and return the time (UTC).

        Args:
            lease: The lease of the trial's job.
            trial_id: The trial.
            state: Its final state.
            value: Its final objective, if it has one.
            reason: Cause of this end, for people.
            log: The end of its process's output.

        Raises:
            LeaseLostError: Another process holds the job.
            NotFoundError: The job has no such trial.
            TransitionError: `state` may not follow the trial's state, or is not a final one.
        """
        if state not in FINISHED:
            raise TransitionError(f"{state} is not a final state of a trial.")
        with self._transactions.write() as transaction:
            connection, now = transaction.connection, transaction.check_lease(lease)
            if transaction.again and trial_state(connection, lease, trial_id) is state:
                finished = connection.execute(_FINISHED, {"of_trial": trial_id}).scalar_one()
                return cast("datetime.datetime", finished)
            ending = {"value": _finite(value), "reason": reason, "finished": now}
            move_trial(connection, lease, trial_id, state, **ending)
            close_attempt(connection, trial_id, now, state.value, reason, log)
        return now


def _stored(transaction: Transaction, trial_id: str) -> bool:
    return transaction.connection.execute(_FINISHED, {"of_trial": trial_id}).first() is not None


def _configuration_key(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
