"""Leases: the process that works on a job, and for how long."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from anon_tune.errors import LeaseHeldError, TransitionError
from anon_tune.ledger.database import database_time
from anon_tune.ledger.tables import JOBS
from anon_tune.ledger.transaction import Lease, Transactions
from anon_tune.ledger.transitions import STATES_AFTER, end_attempts, leave_job
from anon_tune.records import ENDED, ControlSignal, HeartbeatResponse, JobState, TrialState, check_transition

__all__ = ["LeaseStatistics", "Leases"]


@dataclass(frozen=True)
class LeaseStatistics:
    """Statistics of the leases of all jobs.

    Attributes:
        takeovers: Number of times that any job has been acquired.
        running: Number of RUNNING jobs.
        seconds: Time until the first lease runs out, negative once it has; infinite while no job is RUNNING.
        holders: The processes that hold a lease.
    """

    takeovers: int
    running: int
    seconds: float
    holders: frozenset[str]


class Leases:
    """Leases of one ledger, or of one transaction: `Ledger.leases`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def acquire(self, job_id: str, holder: str, seconds: float) -> Lease:
        """Acquire a job for `seconds` and set it RUNNING. A pending request is withdrawn.

        Raises:
            NotFoundError: No such job.
            LeaseHeldError: Its lease has not run out.
            TransitionError: It has ended.
        """
        with self._transactions.write() as transaction:
            job = transaction.lock_job(job_id)
            if job.is_held:
                silent = (job.now - job.row["lease_heartbeat"]).total_seconds()
                raise LeaseHeldError(
                    f"Job {job_id} is running in {job.row['lease_holder']} (last heartbeat {silent:.0f} s "
                    f"ago). Stop that process first, or pause the job: anon-tune pause {job_id}"
                )
            if job.row["state"] in ENDED:
                raise _has_ended(job.row)
            return _take(transaction.connection, job.row, job.now, holder, seconds)

    def claim(self, holder: str, seconds: float) -> Lease | None:
        """Claim the next job of the queue for `seconds` and set it RUNNING; None if the queue is empty.

        A job whose holder died with a request pending is PAUSED or CANCELLED as requested, and skipped.
        """
        with self._transactions.write() as transaction:
            connection = transaction.connection
            while True:
                now = database_time(connection)
                left_behind = sa.and_(JOBS.c.state == JobState.RUNNING, JOBS.c.lease_expires <= now)
                query = (
                    sa.select(JOBS)
                    .where(sa.or_(JOBS.c.state == JobState.QUEUED, left_behind))
                    .order_by(JOBS.c.priority.desc(), JOBS.c.created, JOBS.c.id)
                    .limit(1)
                    .with_for_update(skip_locked=True)
                )
                row = connection.execute(query).mappings().first()
                if row is None:
                    return None
                if row["requested"] is None:
                    return _take(connection, row, now, holder, seconds)
                request = ControlSignal(row["requested"])
                leave_job(connection, row["id"], now, STATES_AFTER[request], f"{request} requested")

    def heartbeat(self, lease: Lease) -> HeartbeatResponse:
        """Renew a lease, and return the pending request, the budget and the time spent.

        Raises:
            LeaseLostError: Another process holds the job.
        """
        with self._transactions.write() as transaction:
            connection, now = transaction.connection, transaction.check_lease(lease)
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == lease.job)).mappings().one()
            spent = _spent(row, now)
            expires = now + datetime.timedelta(seconds=lease.seconds)
            connection.execute(
                sa.update(JOBS)
                .where(JOBS.c.id == lease.job)
                .values(lease_heartbeat=now, lease_expires=expires, spent=spent)
            )
        request = ControlSignal(row["requested"]) if row["requested"] else None
        return HeartbeatResponse(request, row["spec"].get("budget", {}), spent)

    def release(
        self,
        lease: Lease,
        state: JobState,
        reason: str | None = None,
        budget: Mapping[str, Any] | None = None,
    ) -> JobState:
        """End the lease, leave the job in `state`, and return the state it is in.

        That state may be another one. After a request, a job that has not ended is PAUSED or CANCELLED as requested.
        A job that would have ended is QUEUED if its budget was raised meanwhile. RUNNING trials become WAITING; when
        the job has ended, RUNNING and WAITING trials are CANCELLED.

        Args:
            lease: The lease to end.
            state: The state to leave the job in.
            reason: Cause, for people.
            budget: The budget for which nothing was left to do.

        Raises:
            LeaseLostError: Another process holds the job.
            TransitionError: `state` is RUNNING, which needs a lease.
        """
        if state is JobState.RUNNING:
            raise TransitionError(f"Job {lease.job} cannot be {state} without a lease.")
        with self._transactions.write() as transaction:
            if transaction.again:
                row = transaction.lock_job(lease.job).row
                if row["lease_token"] == lease.token and row["lease_holder"] is None:
                    return JobState(row["state"])
            connection, now = transaction.connection, transaction.check_lease(lease)
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == lease.job)).mappings().one()
            check_transition(JobState(row["state"]), state)
            if state in ENDED and budget is not None and row["spec"]["budget"] != budget:
                state, reason = JobState.QUEUED, "its budget was raised"
            request = ControlSignal(row["requested"]) if row["requested"] else None
            if request is not None and state not in {*ENDED, STATES_AFTER[request]}:
                state, reason = STATES_AFTER[request], f"{request} requested"
            connection.execute(sa.update(JOBS).where(JOBS.c.id == lease.job).values(spent=_spent(row, now)))
            leave_job(connection, lease.job, now, state, reason)
        return state

    def statistics(self) -> LeaseStatistics:
        """Return the statistics of all leases."""
        running = sa.select(JOBS.c.lease_holder, JOBS.c.lease_expires).where(JOBS.c.state == JobState.RUNNING)
        with self._transactions.read() as transaction:
            connection = transaction.connection
            taken = connection.execute(sa.select(sa.func.sum(JOBS.c.lease_token))).scalar() or 0
            rows = connection.execute(running).all()
            expires = min((row.lease_expires for row in rows), default=None)
            left = math.inf if expires is None else (expires - database_time(connection)).total_seconds()
        return LeaseStatistics(int(taken), len(rows), left, frozenset(row.lease_holder for row in rows))


def _has_ended(row: sa.RowMapping) -> TransitionError:
    job_id, state = row["id"], JobState(row["state"])
    why = f" ({row['reason']})" if row["reason"] else ""
    more = f" `anon-tune extend {job_id} --trials N` gives it more trials;"
    return TransitionError(
        f"Job {job_id} has ended as {state}{why} and cannot be resumed. `anon-tune show {job_id}` shows its results;"
        f"{more if state is JobState.SUCCEEDED else ''} to try again, run its job file: anon-tune run SPEC"
    )


def _spent(row: sa.RowMapping, now: datetime.datetime) -> float:
    """Return the seconds of work on a job that is held, until now."""
    return float(row["spent"] + (now - row["lease_heartbeat"]).total_seconds())


def _take(
    connection: sa.Connection, row: sa.RowMapping, now: datetime.datetime, holder: str, seconds: float
) -> Lease:
    """Give the lease of a job to `holder`. The job's row is locked, and no live process holds it."""
    check_transition(JobState(row["state"]), JobState.RUNNING)
    token = row["lease_token"] + 1
    connection.execute(
        sa.update(JOBS)
        .where(JOBS.c.id == row["id"])
        .values(
            state=JobState.RUNNING,
            reason=None,
            requested=None,
            started=row["started"] or now,
            lease_token=token,
            lease_holder=holder,
            lease_heartbeat=now,
            lease_expires=now + datetime.timedelta(seconds=seconds),
        )
    )
    end_attempts(connection, row["id"], now, TrialState.WAITING, "the process that ran it stopped")
    return Lease(row["id"], holder, token, seconds)
