"""Attempts: the executions of trials."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from anon_tune import records
from anon_tune.ledger.rows import attempt_record, check_job, check_trial
from anon_tune.ledger.tables import ATTEMPTS, TRIALS
from anon_tune.ledger.transaction import Lease, Transactions
from anon_tune.ledger.transitions import LOST, close_attempt, move_trial, trial_state
from anon_tune.records import TrialState

__all__ = ["Attempts"]

# Executed for every attempt: building a statement takes longer than executing it.
_ADD_ATTEMPT = sa.insert(ATTEMPTS)
_LAST_ATTEMPT = sa.select(sa.func.max(ATTEMPTS.c.number)).where(
    ATTEMPTS.c.trial_id == sa.bindparam("of_trial")
)
_START_TRIAL = (
    sa.update(TRIALS)
    .where(TRIALS.c.id == sa.bindparam("of_trial"))
    .values(started=sa.func.coalesce(TRIALS.c.started, sa.bindparam("now", type_=TRIALS.c.started.type)))
)


class Attempts:
    """Attempts of one ledger, or of one transaction: `Ledger.attempts`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def start(self, lease: Lease, trial_id: str) -> int:
        """Set a WAITING trial RUNNING and return the attempt's number, from 1.

        Raises:
            LeaseLostError: Another process holds the job.
            NotFoundError: The job has no such trial.
            TransitionError: The trial is not WAITING.
        """
        with self._transactions.write() as transaction:
            connection, now = transaction.connection, transaction.check_lease(lease)
            last = connection.execute(_LAST_ATTEMPT, {"of_trial": trial_id}).scalar() or 0
            if transaction.again and trial_state(connection, lease, trial_id) is TrialState.RUNNING:
                return int(last)
            move_trial(connection, lease, trial_id, TrialState.RUNNING)
            connection.execute(_START_TRIAL, {"of_trial": trial_id, "now": now})
            number = last + 1
            connection.execute(_ADD_ATTEMPT, {"trial_id": trial_id, "number": number, "started": now})
        return number

    def lose(self, lease: Lease, trial_id: str, reason: str, log: str | None = None) -> None:
        """Close a RUNNING trial's attempt as LOST; the trial waits for another one.

        Args:
            lease: The lease of the trial's job.
            trial_id: The trial.
            reason: Cause of the loss, for people.
            log: The end of its process's output.

        Raises:
            LeaseLostError: Another process holds the job.
            NotFoundError: The job has no such trial.
            TransitionError: The trial is not RUNNING.
        """
        with self._transactions.write() as transaction:
            connection, now = transaction.connection, transaction.check_lease(lease)
            if transaction.again and trial_state(connection, lease, trial_id) is TrialState.WAITING:
                return
            move_trial(connection, lease, trial_id, TrialState.WAITING)
            close_attempt(connection, trial_id, now, LOST, reason, log)

    def of_job(
        self, job_id: str, trial_id: str | None = None, outcomes: Collection[str] | None = None
    ) -> list[records.Attempt]:
        """Return the attempts of a job's trials, or of one trial, in the order in which they began.

        Args:
            job_id: The job.
            trial_id: The trial; None for all.
            outcomes: Only attempts that ended so; None for all.

        Raises:
            NotFoundError: No such job, or the job has no such trial.
        """
        chosen = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job_id)
        if trial_id is not None:
            chosen = chosen.where(TRIALS.c.id == trial_id)
        query = sa.select(ATTEMPTS).where(ATTEMPTS.c.trial_id.in_(chosen))
        if outcomes is not None:
            query = query.where(ATTEMPTS.c.outcome.in_(outcomes))
        query = query.order_by(ATTEMPTS.c.started, ATTEMPTS.c.trial_id, ATTEMPTS.c.number)
        with self._transactions.read() as transaction:
            check_job(transaction.connection, job_id)
            if trial_id is not None:
                check_trial(transaction.connection, job_id, trial_id)
            return [attempt_record(row) for row in transaction.connection.execute(query).mappings()]
