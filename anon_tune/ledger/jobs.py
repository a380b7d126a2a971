"""Jobs: storage, and requests of users."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from anon_tune.errors import ConflictError, InputError, LeaseHeldError, NotFoundError, TransitionError
from anon_tune.ledger.audit import record
from anon_tune.ledger.budgets import raised
from anon_tune.ledger.database import database_time
from anon_tune.ledger.deletions import delete_job, is_deleted, keep_code
from anon_tune.ledger.rows import no_such_job, read_job
from anon_tune.ledger.tables import DELETED, JOBS, SUBMISSIONS
from anon_tune.ledger.tokens import short_id
from anon_tune.ledger.transaction import Lease, Transactions
from anon_tune.ledger.transitions import STATES_AFTER, leave_job
from anon_tune.records import (
    ENDED,
    LOCAL,
    Actor,
    AuditAction,
    ControlSignal,
    Deletion,
    JobRecord,
    JobState,
    Phase,
    check_transition,
)

__all__ = ["Jobs", "SubmissionKey"]


@dataclass(frozen=True)
class SubmissionKey:
    """Identity of a submission; repeating it does not create a second job.

    Attributes:
        owner: The user who submits.
        key: Their Idempotency-Key.
        digest: Digest of the request, to detect another request with the same key.
    """

    owner: str
    key: str
    digest: str


class Jobs:
    """Jobs of one ledger, or of one transaction: `Ledger.jobs`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def create(
        self,
        name: str,
        spec: Mapping[str, Any],
        spaces: Mapping[str, Any],
        priority: int = 0,
        *,
        owner: str | None = None,
        submission: SubmissionKey | None = None,
        code: str | None = None,
        by: Actor | None = None,
    ) -> JobRecord:
        """Store a QUEUED job under a new short id and return it.

        Args:
            name: The job's name.
            spec: The job, as JSON values.
            spaces: The search spaces by arm, as JSON values.
            priority: Jobs with a higher priority are claimed first.
            owner: The user who submitted it.
            submission: Its identity; a repeated submission returns the job of the first one, as it is now.
            code: Digest of a stored archive of code.
            by: The user who submits it, for the audit; by default `owner` on this machine.

        Raises:
            InputError: The submission's key was used for another request.
            NotFoundError: There is no such code.
        """
        with self._transactions.write() as transaction:
            connection = transaction.connection
            while True:
                made = None if submission is None else _made_by(connection, submission)
                if made is not None:
                    return read_job(connection, made)
                if code is not None:
                    keep_code(connection, code)
                row = {
                    "id": short_id(),
                    "name": name,
                    "owner": owner,
                    "code": code,
                    "state": JobState.QUEUED,
                    "phase": Phase.PROBE,
                    "spec": dict(spec),
                    "spaces": dict(spaces),
                    "created": database_time(connection),
                    "lease_token": 0,
                    "priority": priority,
                }
                if is_deleted(connection, str(row["id"])):
                    continue
                savepoint = connection.begin_nested()
                try:
                    _insert(connection, row, submission)
                except IntegrityError:  # the id was taken, or the same submission was stored meanwhile
                    savepoint.rollback()
                    continue
                savepoint.commit()
                by = by or Actor(owner)
                record(connection, by, AuditAction.SUBMIT, job=str(row["id"]), note=name)
                return read_job(connection, str(row["id"]))

    def get(self, job_id: str, *, trials: bool = False) -> JobRecord:
        """Return a job, optionally with its trials and their reports. Raises NotFoundError."""
        with self._transactions.read() as transaction:
            return read_job(transaction.connection, job_id, trials=trials)

    def spaces(self, job_id: str) -> dict[str, Any]:
        """Return the search spaces that the job was submitted with, by arm. Raises NotFoundError."""
        query = sa.select(JOBS.c.spaces).where(JOBS.c.id == job_id)
        with self._transactions.read() as transaction:
            found = transaction.connection.execute(query).scalar()
        if found is None:
            raise no_such_job(job_id)
        return dict(found)

    def update(
        self,
        lease: Lease,
        *,
        phase: Phase | None = None,
        probe: Mapping[str, Any] | None = None,
        architecture: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """Store results of the job; None leaves a value unchanged.

        Raises:
            LeaseLostError: Another process holds the job.
        """
        given = {"phase": phase, "probe": probe, "architecture": architecture, "result": result}
        found = {key: value for key, value in given.items() if value is not None}
        with self._transactions.write() as transaction:
            transaction.check_lease(lease)
            transaction.connection.execute(sa.update(JOBS).where(JOBS.c.id == lease.job).values(found))

    def pause(self, job_id: str, by: Actor = LOCAL) -> JobState:
        """Pause a job after its running trials. Return its state: RUNNING while a live process holds it.

        Raises:
            NotFoundError: No such job.
            TransitionError: It is PAUSED or has ended.
            ConflictError: It is being cancelled.
        """
        return self._request(job_id, ControlSignal.PAUSE, by)

    def cancel(self, job_id: str, by: Actor = LOCAL) -> JobState:
        """End a job now, with the trials it has. Return its state: RUNNING while a live process holds it.

        Raises:
            NotFoundError: No such job.
            TransitionError: It has ended.
        """
        return self._request(job_id, ControlSignal.CANCEL, by)

    def resume(self, job_id: str, by: Actor = LOCAL) -> JobState:
        """Queue a PAUSED job, or one whose holder has died; return its state.

        Raises:
            NotFoundError: No such job.
            TransitionError: It is queued already, or has ended.
            LeaseHeldError: A live process works on it.
        """
        with self._transactions.write() as transaction:
            job = transaction.lock_job(job_id)
            if job.is_held:
                pausing = job.row["requested"] == ControlSignal.PAUSE
                so = "wait until it is PAUSED" if pausing else "there is nothing to resume"
                raise LeaseHeldError(f"Job {job_id} is running in {job.row['lease_holder']}: {so}.")
            if job.row["state"] not in {JobState.PAUSED, JobState.RUNNING}:
                raise TransitionError(
                    f"Job {job_id} is {job.row['state']}; only a PAUSED job can be resumed. "
                    f"`anon-tune show {job_id}` says more."
                )
            leave_job(transaction.connection, job_id, job.now, JobState.QUEUED, None)
            record(transaction.connection, by, AuditAction.RESUME, job=job_id, note=JobState.QUEUED)
        return JobState.QUEUED

    def extend(
        self,
        job_id: str,
        trials: int | None = None,
        time: float | None = None,
        seeds: int | None = None,
        by: Actor = LOCAL,
    ) -> JobState:
        """Raise a job's budget; one that has SUCCEEDED is QUEUED again. Return its state.

        With more trials or time, a job that has reached its verdict also gets a new round of verdict seeds, since a
        winner may change.

        Args:
            job_id: The job.
            trials: The new `budget.trials`, per arm.
            time: The new `budget.time`, in seconds.
            seeds: The new number of verdict seeds, over all rounds.
            by: The user who extends it, for the audit.

        Raises:
            NotFoundError: No such job.
            TransitionError: It FAILED or was CANCELLED.
            ConflictError: A value is not above the job's, or the job has SUCCEEDED and its time is spent.
        """
        with self._transactions.write() as transaction:
            connection, job = transaction.connection, transaction.lock_job(job_id)
            state = JobState(job.row["state"])
            if state in {JobState.FAILED, JobState.CANCELLED}:
                raise TransitionError(
                    f"Job {job_id} is {state} and cannot be extended. Run its job file again: anon-tune run SPEC"
                )
            spec = {**job.row["spec"], "budget": raised(connection, job.row, trials, time, seeds)}
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(spec=spec))
            given = {"trials": trials, "time (s)": time, "seeds": seeds}
            totals = ", ".join(f"{key} {total:g}" for key, total in given.items() if total is not None)
            record(connection, by, AuditAction.EXTEND, job=job_id, note=totals)
            if state is JobState.SUCCEEDED:
                check_transition(state, JobState.QUEUED)
                leave_job(connection, job_id, job.now, JobState.QUEUED, None)
                return JobState.QUEUED
        return state

    def delete(self, job_id: str, by: Actor = LOCAL, *, only_ended: bool = False) -> Deletion:
        """Delete a job that no process works on, with its trials, and its code unless another job uses it.

        Args:
            job_id: The job.
            by: The user who asks for it.
            only_ended: Delete it only if it has ended.

        Raises:
            NotFoundError: No such job, or it was deleted before.
            TransitionError: It is RUNNING, or has not ended and `only_ended` is set.
        """
        with self._transactions.write() as transaction:
            if is_deleted(transaction.connection, job_id):
                raise NotFoundError(f"Job {job_id} was deleted before.")
            job = transaction.lock_job(job_id)
            state = JobState(job.row["state"])
            if state is JobState.RUNNING or (only_ended and state not in ENDED):
                raise TransitionError(
                    f"Job {job_id} is {state} and was not deleted. Cancel it first: anon-tune cancel {job_id}"
                )
            record(transaction.connection, by, AuditAction.DELETE, job=job_id, note=job.row["name"])
            return delete_job(transaction.connection, job.row, job.now)

    def deleted(self) -> frozenset[str]:
        """Return the ids of all deleted jobs."""
        with self._transactions.read() as transaction:
            return frozenset(transaction.connection.execute(sa.select(DELETED.c.id)).scalars())

    def _request(self, job_id: str, request: ControlSignal, by: Actor) -> JobState:
        """Change a job that no live process holds, or store the request for its holder."""
        with self._transactions.write() as transaction:
            connection, job = transaction.connection, transaction.lock_job(job_id)
            before, after = JobState(job.row["state"]), STATES_AFTER[request]
            if before in ENDED or before is after:
                raise TransitionError(
                    f"Job {job_id} is {before}: there is nothing to {request}. `anon-tune show {job_id}` says more."
                )
            check_transition(before, after)
            if job.row["requested"] == ControlSignal.CANCEL and request is ControlSignal.PAUSE:
                raise ConflictError(f"Job {job_id} is being cancelled and cannot be paused.")
            holder = f"requested of {job.row['lease_holder']}" if job.is_held else after
            record(connection, by, AuditAction(request), job=job_id, note=holder)
            if job.is_held:
                connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(requested=request))
                return before
            leave_job(connection, job_id, job.now, after, f"{request} requested", requested=True)
        return after


def _insert(connection: sa.Connection, row: Mapping[str, Any], submission: SubmissionKey | None) -> None:
    connection.execute(sa.insert(JOBS).values(row))
    if submission is not None:
        made = {**dataclasses.asdict(submission), "job_id": row["id"]}
        connection.execute(sa.insert(SUBMISSIONS).values(made))


def _made_by(connection: sa.Connection, submission: SubmissionKey) -> str | None:
    """Return the id of the job that the submission created before, or None. Raises InputError for another request."""
    query = sa.select(SUBMISSIONS.c.digest, SUBMISSIONS.c.job_id)
    found = connection.execute(
        query.where(SUBMISSIONS.c.owner == submission.owner, SUBMISSIONS.c.key == submission.key)
    ).first()
    if found is None:
        return None
    if found.digest != submission.digest:
        raise InputError(
            f"The Idempotency-Key {submission.key!r} was already used for job {found.job_id} with a different "
            "request body. Use a new key for a new job."
        )
    return str(found.job_id)
