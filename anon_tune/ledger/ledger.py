"""The ledger's transactions: each method is one, and is named by what it makes true.

`Ledger.transaction` makes several of them one.

Who owns what
-------------
A job is worked on by the one process that holds its lease. `acquire` takes a job that is named, `claim` the next of
the queue; both give a lease with a fencing token. Every write about the job's trials names that lease and is
refused with LeaseLostError once a newer token was given or the lease was ended, and nothing of a refused write is
kept. `heartbeat` renews the lease; a lease that has run out can be taken by anyone. A RUNNING trial belongs to the
holder of its job's lease: whoever takes the job next finds its RUNNING trials back in WAITING, their attempts closed
as LOST. A job has a lease if and only if it is RUNNING.

The queue
---------
What can be claimed: QUEUED jobs, and RUNNING ones whose lease has run out. The highest priority comes first, and
within it the job that was created first. Two that claim at once get two jobs, or one of them none.

What users ask
--------------
`pause`, `cancel`, `resume` and `extend` need no lease. A job that nobody holds (QUEUED, PAUSED, or RUNNING with a
lease that has run out) is changed at once. For one that is held, `pause` and `cancel` leave a request, which
its holder reads at the next heartbeat and answers by `release`; a cancel replaces a pause. A request is never
forgotten: whatever state the holder leaves a job in that could go on, the job is PAUSED or CANCELLED as was asked,
and a job that its holder left behind is settled by the next `claim`. `acquire` of such a job, which somebody wanted
by name, takes the request back. A budget that was raised just before the job's end queues it again.

Each method is one transaction, which reads what it depends on under a lock (sqlite: the database's write lock;
PostgreSQL: the job's row), so that a change of state is a compare-and-set: what is no longer so raises, and changes
nothing. Values go in and come out as copies (`records`). Times are the database's, in UTC; the time spent on
a job grows by what lies between its heartbeats, so that a killed holder's last seconds do not count. A step
of a trial that was reported before keeps its first report. A checkpoint is named together with the report of its
step, and is durable by then: what is named can be gone on from without leaving a step out. A write that the
database does not take, because its disk is full, it may only be read or another process keeps it locked, raises
DependencyError, and nothing of it is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from anon_tune import records
from anon_tune.errors import (
    ConflictError,
    InputError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    TransitionError,
)
from anon_tune.ledger.database import database_time, open_database, read, write
from anon_tune.ledger.overviews import Overviews
from anon_tune.ledger.projections import Projections
from anon_tune.ledger.rows import attempt_record, job_record, read_trials, report_record
from anon_tune.ledger.tables import ATTEMPTS, CODE, JOBS, PROJECTIONS, REPORTS, SUBMISSIONS, TRIALS
from anon_tune.ledger.tokens import Tokens, short_id
from anon_tune.records import (
    ENDED,
    FINISHED,
    JobRecord,
    JobState,
    NewTrial,
    Orders,
    Phase,
    Request,
    TrialState,
    check_transition,
)

__all__ = ["Lease", "Ledger", "SubmissionKey"]

# What is executed several times for every trial: to put a statement together takes longer than to execute it.
_LEASE = (
    sa.select(JOBS.c.lease_token, JOBS.c.lease_holder)
    .where(JOBS.c.id == sa.bindparam("of_job"))
    .with_for_update()
)
_STATE = sa.select(TRIALS.c.state).where(
    TRIALS.c.id == sa.bindparam("of_trial"), TRIALS.c.job_id == sa.bindparam("of_job")
)
_LAST_ATTEMPT = sa.select(sa.func.max(ATTEMPTS.c.number)).where(
    ATTEMPTS.c.trial_id == sa.bindparam("of_trial")
)
_REPORT = sa.select(REPORTS).where(
    REPORTS.c.trial_id == sa.bindparam("of_trial"), REPORTS.c.step == sa.bindparam("of_step")
)
_COUNT_STEP = (
    sa.update(TRIALS)
    .where(TRIALS.c.id == sa.bindparam("of_trial"))
    .values(steps=TRIALS.c.steps + 1, seconds=TRIALS.c.seconds + sa.bindparam("took"))
)
_ADD_TRIAL, _ADD_ATTEMPT, _ADD_REPORT = (sa.insert(table) for table in (TRIALS, ATTEMPTS, REPORTS))
_MOVE_TRIAL = sa.update(TRIALS).where(TRIALS.c.id == sa.bindparam("of_trial"))
_START_TRIAL = _MOVE_TRIAL.values(
    started=sa.func.coalesce(TRIALS.c.started, sa.bindparam("now", type_=TRIALS.c.started.type))
)
_CLOSE_ATTEMPT = sa.update(ATTEMPTS).where(
    ATTEMPTS.c.trial_id == sa.bindparam("of_trial"), ATTEMPTS.c.finished.is_(None)
)
_NAME_CHECKPOINT = sa.update(ATTEMPTS).where(
    ATTEMPTS.c.trial_id == sa.bindparam("of_trial"), ATTEMPTS.c.number == sa.bindparam("of_attempt")
)

_LOST = "LOST"
# What the holder of a job leaves it in when it was asked to.
_ANSWERS = {Request.PAUSE: JobState.PAUSED, Request.CANCEL: JobState.CANCELLED}


@dataclass(frozen=True)
class Lease:
    """The right to write about a job, until `seconds` after the last heartbeat."""

    job: str
    holder: str
    token: int
    seconds: float


@dataclass(frozen=True)
class Pulse:
    """What the leases of all jobs say.

    Attributes:
        hands: How often a job has been taken so far, and how many are RUNNING: others once one was taken, or left.
        seconds: What is left of the lease that runs out first; infinite where no job is RUNNING.
        holders: Who works on jobs.
    """

    hands: tuple[int, int]
    seconds: float
    holders: frozenset[str]


@dataclass(frozen=True)
class SubmissionKey:
    """What makes a submission the same as one before: whose it is, their key for it, and a digest of what it asks."""

    owner: str
    key: str
    digest: str


class Ledger:
    """One database of jobs. Safe to share between threads; each process opens its own.

    Attributes:
        projections: How far it has been written to MLflow.
        overviews: Jobs and trials for people: in pages, summed up, without their reports.
        tokens: Who may use the service.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.projections = Projections(engine)
        self.overviews = Overviews(engine)
        self.tokens = Tokens(engine)
        self._open = threading.local()

    @classmethod
    def open(cls, url: str) -> Ledger:
        """Open the database at an SQLAlchemy URL, made and migrated where needed."""
        return cls(open_database(url))

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """Make this thread's calls that take a lease one transaction: all of it is stored when it ends, or nothing.

        Args:
            durable: Whether what is stored outlives a power cut when this returns. If not, it does once a later
                durable transaction has returned; it is lost only together with the process that wrote it and all
                that followed. PostgreSQL, whose clients may outlive it, always stores durably.
        """
        with write(self._engine, durable=durable) as connection:
            self._open.connection, self._open.held = connection, {}
            try:
                yield
            finally:
                del self._open.connection, self._open.held

    # Jobs

    def create_job(
        self,
        name: str,
        spec: Mapping[str, Any],
        spaces: Mapping[str, Any],
        priority: int = 0,
        *,
        queued: bool = True,
        owner: str | None = None,
        submission: SubmissionKey | None = None,
        code: str | None = None,
    ) -> JobRecord:
        """Store a job under a new short id and return it: QUEUED, or else PAUSED, so that nobody claims it.

        With a `submission` that was made before, return the job that it made then, as it is now. `code` is the digest
        of an archive that was stored.

        Raises:
            InputError: That key was used for something else.
        """
        while True:
            job_id = short_id()
            try:
                with write(self._engine) as connection:
                    if submission is not None:
                        made = _made_by(connection, submission)
                        if made is not None:
                            return self.job(made)
                    row = {
                        "id": job_id,
                        "name": name,
                        "owner": owner,
                        "code": code,
                        "state": JobState.QUEUED if queued else JobState.PAUSED,
                        "phase": Phase.PROBE,
                        "spec": dict(spec),
                        "spaces": dict(spaces),
                        "created": database_time(connection),
                        "lease_token": 0,
                        "priority": priority,
                    }
                    connection.execute(sa.insert(JOBS).values(row))
                    if submission is not None:
                        made_now = {**dataclasses.asdict(submission), "job_id": job_id}
                        connection.execute(sa.insert(SUBMISSIONS).values(made_now))
            except IntegrityError:
                continue  # the id was taken, or the same submission was stored meanwhile
            return self.job(job_id)

    def job(self, job_id: str, *, trials: bool = False) -> JobRecord:
        """Return a job, with its trials and their reports if asked. Raises NotFoundError."""
        with read(self._engine) as connection:
            now = database_time(connection)
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id)).mappings().first()
            if row is None:
                raise NotFoundError(f"There is no job {job_id!r}. `anon-tune jobs` lists them.")
            run = connection.execute(
                sa.select(PROJECTIONS.c.run).where(PROJECTIONS.c.subject == job_id)
            ).scalar()
            found = read_trials(connection, job_id) if trials else ()
        return job_record(row, now, run, found)

    def jobs(self) -> list[JobRecord]:
        """Return all jobs, newest first, without their trials."""
        return self.overviews.jobs()

    def spaces(self, job_id: str) -> dict[str, Any]:
        """Return the search spaces the job was submitted with, by arm. Raises NotFoundError."""
        with read(self._engine) as connection:
            found = connection.execute(sa.select(JOBS.c.spaces).where(JOBS.c.id == job_id)).scalar()
        if found is None:
            raise NotFoundError(f"There is no job {job_id!r}. `anon-tune jobs` lists them.")
        return dict(found)

    def store_code(self, digest: str, content: bytes, owner: str | None) -> None:
        """Store an archive of code under its digest; once more changes nothing."""
        with contextlib.suppress(IntegrityError), write(self._engine) as connection:
            row = {"digest": digest, "content": content, "owner": owner, "created": database_time(connection)}
            connection.execute(sa.insert(CODE).values(row))

    def code(self, digest: str) -> bytes:
        """Return an archive of code. Raises NotFoundError."""
        with read(self._engine) as connection:
            found = connection.execute(sa.select(CODE.c.content).where(CODE.c.digest == digest)).scalar()
        if found is None:
            raise NotFoundError(f"There is no code {digest!r} here. Send it first.")
        return bytes(found)

    # Leases

    def acquire(self, job_id: str, holder: str, seconds: float) -> Lease:
        """Take a job for `seconds` and make it RUNNING.

        Raises:
            NotFoundError: No such job.
            LeaseHeldError: Its lease has not run out.
            TransitionError: It has ended.
        """
        with write(self._engine) as connection:
            row, now, held = self._lock(connection, job_id)
            if held:
                raise LeaseHeldError(
                    f"Job {job_id} is being worked on by {row['lease_holder']} (last heartbeat "
                    f"{(now - row['lease_heartbeat']).total_seconds():.0f} s ago). Stop that process "
                    f"first, or have the job rest: anon-tune pause {job_id}"
                )
            state = JobState(row["state"])
            if state in ENDED:
                why = f" ({row['reason']})" if row["reason"] else ""
                more = f" `anon-tune extend {job_id} --trials N` gives it more trials;"
                raise TransitionError(
                    f"Job {job_id} has ended, {state}{why}: it cannot go on. `anon-tune show {job_id}` shows "
                    f"what it found;{more if state is JobState.SUCCEEDED else ''} for another try run its job file "
                    "anew: anon-tune run SPEC"
                )
            return _take(connection, row, now, holder, seconds)

    def claim(self, holder: str, seconds: float) -> Lease | None:
        """Take the next job of the queue for `seconds` and make it RUNNING; None if there is none."""
        with write(self._engine) as connection:
            while True:
                now = database_time(connection)
                left_behind = sa.and_(JOBS.c.state == JobState.RUNNING, JOBS.c.lease_expires <= now)
                row = (
                    connection.execute(
                        sa.select(JOBS)
                        .where(sa.or_(JOBS.c.state == JobState.QUEUED, left_behind))
                        .order_by(JOBS.c.priority.desc(), JOBS.c.created, JOBS.c.id)
                        .limit(1)
                        .with_for_update(skip_locked=True)
                    )
                    .mappings()
                    .first()
                )
                if row is None:
                    return None
                if row["requested"] is None:
                    return _take(connection, row, now, holder, seconds)
                request = Request(row["requested"])
                _rest(connection, row["id"], now, _ANSWERS[request], f"{request} requested")

    def pulse(self) -> Pulse:
        """Whether jobs change hands at the moment."""
        with read(self._engine) as connection:
            taken = connection.execute(sa.select(sa.func.sum(JOBS.c.lease_token))).scalar() or 0
            running = connection.execute(
                sa.select(JOBS.c.lease_holder, JOBS.c.lease_expires).where(JOBS.c.state == JobState.RUNNING)
            ).all()
            expires = min((row.lease_expires for row in running), default=None)
            left = math.inf if expires is None else (expires - database_time(connection)).total_seconds()
        holders = frozenset(row.lease_holder for row in running)
        return Pulse((int(taken), len(running)), left, holders)

    def heartbeat(self, lease: Lease) -> Orders:
        """Renew the lease and return what the job's holder is to do. Raises LeaseLostError."""
        with write(self._engine) as connection:
            now = self._hold(connection, lease)
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == lease.job)).mappings().one()
            spent = _spent(row, now)
            connection.execute(
                sa.update(JOBS)
                .where(JOBS.c.id == lease.job)
                .values(
                    lease_heartbeat=now,
                    lease_expires=now + datetime.timedelta(seconds=lease.seconds),
                    spent=spent,
                )
            )
        request = Request(row["requested"]) if row["requested"] else None
        return Orders(request, row["spec"].get("budget", {}), spent)

    def release(
        self,
        lease: Lease,
        state: JobState,
        reason: str | None = None,
        budget: Mapping[str, Any] | None = None,
    ) -> JobState:
        """End the lease, leave the job in `state`, and return the state it is in.

        It is another one where something was asked in the meantime: a job that could go on is PAUSED or CANCELLED
        as was asked, and one that would have ended is QUEUED if its budget is no longer the one it was worked on
        under. Its RUNNING trials wait again, or are CANCELLED with those that wait when the job has ended.

        Args:
            lease: The lease to end.
            state: Where the job stands.
            reason: Why.
            budget: The budget by which there was nothing left to do.

        Raises:
            LeaseLostError: Another process holds the job.
            TransitionError: `state` is RUNNING, which takes a lease.
        """
        if state is JobState.RUNNING:
            raise TransitionError(f"Job {lease.job} cannot be {state} without a lease.")
        with write(self._engine) as connection:
            now = self._hold(connection, lease)
            row = connection.execute(sa.select(JOBS).where(JOBS.c.id == lease.job)).mappings().one()
            check_transition(JobState(row["state"]), state)
            if state in ENDED and budget is not None and row["spec"]["budget"] != budget:
                state, reason = JobState.QUEUED, "its budget was raised"
            request = Request(row["requested"]) if row["requested"] else None
            if request is not None and state not in {*ENDED, _ANSWERS[request]}:
                state, reason = _ANSWERS[request], f"{request} requested"
            connection.execute(sa.update(JOBS).where(JOBS.c.id == lease.job).values(spent=_spent(row, now)))
            _rest(connection, lease.job, now, state, reason)
        return state

    # What users ask

    def pause(self, job_id: str) -> JobState:
        """Pause a job once its running trials have ended; return its state, RUNNING while its holder lives.

        Raises:
            NotFoundError: No such job.
            TransitionError: It is PAUSED or has ended.
            ConflictError: It is being cancelled.
        """
        return self._ask(job_id, Request.PAUSE)

    def cancel(self, job_id: str) -> JobState:
        """Have a job end now, with what it has; return its state, RUNNING while its holder lives.

        Raises:
            NotFoundError: No such job.
            TransitionError: It has ended.
        """
        return self._ask(job_id, Request.CANCEL)

    def resume(self, job_id: str) -> JobState:
        """Queue a PAUSED job, or one that its holder has left behind.

        Raises:
            NotFoundError: No such job.
            TransitionError: It is queued already, or has ended.
            LeaseHeldError: Somebody works on it.
        """
        with write(self._engine) as connection:
            row, now, held = self._lock(connection, job_id)
            if held:
                so = (
                    "it is to be paused first"
                    if row["requested"] == Request.PAUSE
                    else "there is nothing to resume"
                )
                raise LeaseHeldError(f"Job {job_id} is being worked on by {row['lease_holder']}: {so}.")
            if row["state"] not in {JobState.PAUSED, JobState.RUNNING}:
                raise TransitionError(
                    f"Job {job_id} is {row['state']}; only a PAUSED job can be resumed. `anon-tune show {job_id}` "
                    "says more."
                )
            _rest(connection, job_id, now, JobState.QUEUED, None)
        return JobState.QUEUED

    def extend(
        self, job_id: str, trials: int | None = None, time: float | None = None, seeds: int | None = None
    ) -> JobState:
        """Raise a job's budget; one that has SUCCEEDED is QUEUED again. Return its state.

        More trials or time also bring a round of verdict seeds where there have been some: a winner may change.

        Args:
            job_id: The job.
            trials: The new `budget.trials`, per arm.
            time: The new `budget.time`, in seconds.
            seeds: The new number of verdict seeds, over all rounds.

        Raises:
            NotFoundError: No such job.
            TransitionError: It FAILED or was CANCELLED.
            ConflictError: The budget is not below that; or the time of one that has SUCCEEDED is spent.
        """
        with write(self._engine) as connection:
            row, now, _ = self._lock(connection, job_id)
            state = JobState(row["state"])
            if state in {JobState.FAILED, JobState.CANCELLED}:
                raise TransitionError(
                    f"Job {job_id} is {state}, and cannot be given more. Run its job file anew: anon-tune run SPEC"
                )
            budget = dict(row["spec"]["budget"])
            for key, more in (("trials", trials), ("time", time)):
                if more is None:
                    continue
                if budget.get(key) is None:
                    raise ConflictError(
                        f"Job {job_id} has no limit on its budget.{key}, so it needs no more."
                    )
                if more <= budget[key]:
                    raise ConflictError(
                        f"Job {job_id} has a budget.{key} of {budget[key]}; give --{key} more than that: it is the "
                        "new total."
                    )
                budget[key] = more
            rounds = _rounds(connection, dict(row), seeds)
            if rounds:
                budget["more_seeds"] = rounds
            if (
                state is JobState.SUCCEEDED
                and seeds is None
                and budget.get("time") is not None
                and row["spent"] >= budget["time"]
            ):
                raise ConflictError(
                    f"The budget.time of job {job_id}, {budget['time']:g} s, is spent ({row['spent']:.0f} s): it "
                    "would try nothing. Give it more with --time."
                )
            spec = {**row["spec"], "budget": budget}
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(spec=spec))
            if state is JobState.SUCCEEDED:
                check_transition(state, JobState.QUEUED)
                _rest(connection, job_id, now, JobState.QUEUED, None)
                return JobState.QUEUED
        return state

    def update_job(
        self,
        lease: Lease,
        *,
        phase: Phase | None = None,
        probe: Mapping[str, Any] | None = None,
        architecture: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """Store what the job has found out. Raises LeaseLostError."""
        given = {"phase": phase, "probe": probe, "architecture": architecture, "result": result}
        with self._write() as connection:
            self._hold(connection, lease)
            connection.execute(
                sa.update(JOBS)
                .where(JOBS.c.id == lease.job)
                .values({key: value for key, value in given.items() if value is not None})
            )

    # Trials

    def add_trial(self, lease: Lease, new: NewTrial) -> records.Trial:
        """Store a WAITING trial.

        Raises:
            LeaseLostError: Another process holds the job.
            ConflictError: The arm's search has a trial of this number, or this configuration with this seed.
        """
        trial_id = new.id_in(lease.job)
        try:
            with self._write() as connection:
                now = self._hold(connection, lease)
                row = {
                    "id": trial_id,
                    "job_id": lease.job,
                    "arm": new.arm,
                    "repeat": new.repeat,
                    "phase": new.phase,
                    "number": new.number,
                    "seed": new.seed,
                    "state": TrialState.WAITING,
                    "configuration": _configuration_key(new.params),
                    "params": dict(new.params),
                    "hyperparameters": dict(new.hyperparameters),
                    "source": new.source,
                    "created": now,
                }
                connection.execute(_ADD_TRIAL, row)
        except IntegrityError as error:
            raise ConflictError(f"{trial_id} repeats a number or a configuration of this job.") from error
        return records.Trial(
            trial_id, lease.job, new.arm, new.phase, new.number, new.seed, TrialState.WAITING,
            dict(new.params), dict(new.hyperparameters), new.source, repeat=new.repeat,
        )  # fmt: skip

    def start_attempt(self, lease: Lease, trial_id: str) -> int:
        """Make a WAITING trial RUNNING and return the attempt's number, from 1.

        Raises:
            LeaseLostError: Another process holds the job.
            NotFoundError: The job has no such trial.
            TransitionError: The trial is not WAITING.
        """
        with self._write() as connection:
            now = self._hold(connection, lease)
            self._move(connection, lease, trial_id, TrialState.RUNNING)
            connection.execute(_START_TRIAL, {"of_trial": trial_id, "now": now})
            number = (connection.execute(_LAST_ATTEMPT, {"of_trial": trial_id}).scalar() or 0) + 1
            connection.execute(_ADD_ATTEMPT, {"trial_id": trial_id, "number": number, "started": now})
        return number

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
        """Store an intermediate result and return the one that stands for this step.

        With `checkpoint`, the file that holds the trial after this step becomes the one that the attempt names: it
        must be durable by now, since whoever has the trial next goes on from it.

        Raises:
            LeaseLostError: Another process holds the job.
            NotFoundError: The job has no such trial, or the trial no such attempt.
            ConflictError: The trial is not RUNNING.
        """
        with self._write() as connection:
            now = self._hold(connection, lease)
            state = self._state(connection, lease, trial_id)
            if state is not TrialState.RUNNING:
                raise ConflictError(f"{trial_id} is {state}; only a RUNNING trial reports.")
            if checkpoint is not None:
                of_attempt = {"of_trial": trial_id, "of_attempt": attempt, "checkpoint": checkpoint}
                if connection.execute(_NAME_CHECKPOINT, of_attempt).rowcount != 1:
                    raise NotFoundError(f"Trial {trial_id} has no attempt {attempt}.")
            standing = connection.execute(_REPORT, {"of_trial": trial_id, "of_step": step}).mappings().first()
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
            connection.execute(_COUNT_STEP, {"of_trial": trial_id, "took": took})
        return report_record(row)

    def finish_trial(
        self,
        lease: Lease,
        trial_id: str,
        state: TrialState,
        value: float | None = None,
        reason: str | None = None,
        log: str | None = None,
    ) -> datetime.datetime:
        """End a trial and its attempt, and return when; `log` is the end of what its process wrote.

        Raises:
            LeaseLostError: Another process holds the job.
            NotFoundError: The job has no such trial.
            TransitionError: `state` may not follow the trial's, or ends nothing.
        """
        if state not in FINISHED:
            raise TransitionError(f"{state} ends no trial.")
        with self._write() as connection:
            now = self._hold(connection, lease)
            self._move(connection, lease, trial_id, state, value=_finite(value), reason=reason, finished=now)
            _close_attempt(connection, trial_id, now, state.value, reason, log)
        return now

    def attempts(self, job_id: str, trial_id: str | None = None) -> list[records.Attempt]:
        """Return the attempts at a job's trials, or at one of them, in the order in which they began.

        Raises:
            NotFoundError: No such job, or the job has no such trial.
        """
        with read(self._engine) as connection:
            if connection.execute(sa.select(JOBS.c.id).where(JOBS.c.id == job_id)).scalar() is None:
                raise NotFoundError(f"There is no job {job_id!r}. `anon-tune jobs` lists them.")
            of_job = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job_id)
            if trial_id is not None:
                of_job = of_job.where(TRIALS.c.id == trial_id)
                if connection.execute(of_job).scalar() is None:
                    raise NotFoundError(
                        f"Job {job_id} has no trial {trial_id!r}. `anon-tune trials {job_id}` lists them."
                    )
            rows = connection.execute(
                sa.select(ATTEMPTS)
                .where(ATTEMPTS.c.trial_id.in_(of_job))
                .order_by(ATTEMPTS.c.started, ATTEMPTS.c.trial_id, ATTEMPTS.c.number)
            ).mappings()
            return [attempt_record(row) for row in rows]

    def lose_attempt(self, lease: Lease, trial_id: str, reason: str, log: str | None = None) -> None:
        """Close a RUNNING trial's attempt as LOST; the trial waits for another. Raises as finish_trial."""
        with self._write() as connection:
            now = self._hold(connection, lease)
            self._move(connection, lease, trial_id, TrialState.WAITING)
            _close_attempt(connection, trial_id, now, _LOST, reason, log)

    # Inside a transaction

    def _lock(self, connection: sa.Connection, job_id: str) -> tuple[sa.RowMapping, datetime.datetime, bool]:
        """Lock a job's row and return it, the database's time, and whether somebody living holds the job."""
        row = (
            connection.execute(sa.select(JOBS).where(JOBS.c.id == job_id).with_for_update())
            .mappings()
            .first()
        )
        if row is None:
            raise NotFoundError(f"There is no job {job_id!r}. `anon-tune jobs` lists them.")
        now = database_time(connection)
        return row, now, row["lease_expires"] is not None and row["lease_expires"] > now

    def _ask(self, job_id: str, request: Request) -> JobState:
        """Do what is asked of a job that nobody holds, or leave the request to its holder."""
        with write(self._engine) as connection:
            row, now, held = self._lock(connection, job_id)
            before, after = JobState(row["state"]), _ANSWERS[request]
            if before in ENDED or before is after:
                raise TransitionError(
                    f"Job {job_id} is {before}: there is nothing to {request}. `anon-tune show {job_id}` says more."
                )
            check_transition(before, after)
            if row["requested"] == Request.CANCEL and request is Request.PAUSE:
                raise ConflictError(f"Job {job_id} is being cancelled; it cannot be paused any more.")
            if held:
                connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(requested=request))
                return before
            _rest(connection, job_id, now, after, f"{request} requested")
        return after

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """The open transaction of this thread, or one for a single call."""
        connection: sa.Connection | None = getattr(self._open, "connection", None)
        if connection is not None:
            yield connection
        else:
            with write(self._engine) as connection:
                yield connection

    def _hold(self, connection: sa.Connection, lease: Lease) -> datetime.datetime:
        """Lock the job's row, check the fencing token, and return the database's time; once in a transaction."""
        held: dict[Lease, datetime.datetime] = getattr(self._open, "held", {})
        if lease not in held:
            held[lease] = self._checked(connection, lease)
        return held[lease]

    def _checked(self, connection: sa.Connection, lease: Lease) -> datetime.datetime:
        token, holder = connection.execute(_LEASE, {"of_job": lease.job}).one()
        if token != lease.token or holder is None:
            raise LeaseLostError(
                f"Job {lease.job} was taken over by {holder or 'nobody, after its end'}; "
                "this process stops, and nothing is lost."
            )
        return database_time(connection)

    def _state(self, connection: sa.Connection, lease: Lease, trial_id: str) -> TrialState:
        """The state of a trial of the lease's job; a lease says nothing about other jobs' trials."""
        found = connection.execute(_STATE, {"of_trial": trial_id, "of_job": lease.job}).scalar()
        if found is None:
            raise NotFoundError(f"Job {lease.job} has no trial {trial_id!r}.")
        return TrialState(found)

    def _move(
        self, connection: sa.Connection, lease: Lease, trial_id: str, after: TrialState, **values: Any
    ) -> None:
        check_transition(self._state(connection, lease, trial_id), after)
        connection.execute(_MOVE_TRIAL, {"of_trial": trial_id, "state": after, **values})


def _made_by(connection: sa.Connection, submission: SubmissionKey) -> str | None:
    """The job that a submission has made before; None if none. Raises InputError where it asked for another."""
    query = sa.select(SUBMISSIONS.c.digest, SUBMISSIONS.c.job_id)
    found = connection.execute(
        query.where(SUBMISSIONS.c.owner == submission.owner, SUBMISSIONS.c.key == submission.key)
    ).first()
    if found is None:
        return None
    if found.digest != submission.digest:
        raise InputError(
            f"The Idempotency-Key {submission.key!r} was used for job {found.job_id}, which was asked for with other "
            "words. Use a new key for a new job."
        )
    return str(found.job_id)


def _rounds(connection: sa.Connection, row: Mapping[str, Any], total: int | None) -> list[int]:
    """The further rounds of verdict seeds of a job that is extended, up to a total if one is given.

    Raises:
        ConflictError: It is not above what the job has.
    """
    further = list(row["spec"]["budget"].get("more_seeds", ()))
    tested = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == row["id"], TRIALS.c.phase == Phase.VERDICT)
    if connection.execute(tested.limit(1)).first() is None:
        if total is not None:
            raise ConflictError(
                f"Job {row['id']} has not come to its verdict; give it more seeds after that."
            )
        return further
    planned = row["spec"]["confirm"]["verdict_seeds"]
    made = planned + sum(further)
    if total is None:
        return [*further, planned]
    if total < made + 2:
        raise ConflictError(
            f"Job {row['id']} has {made} verdict seeds; give --seeds at least {made + 2}: it is the new total."
        )
    return [*further, total - made]


def _configuration_key(params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _spent(row: sa.RowMapping, now: datetime.datetime) -> float:
    """Seconds for which a job that is held has been worked on until now."""
    return float(row["spent"] + (now - row["lease_heartbeat"]).total_seconds())


def _take(
    connection: sa.Connection, row: sa.RowMapping, now: datetime.datetime, holder: str, seconds: float
) -> Lease:
    """Give a job, whose row is locked and which nobody living holds, to `holder`."""
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
    _end_attempts(connection, row["id"], now, TrialState.WAITING, "the process that ran it stopped")
    return Lease(row["id"], holder, token, seconds)


def _rest(
    connection: sa.Connection, job_id: str, now: datetime.datetime, state: JobState, reason: str | None
) -> None:
    """Leave a job, whose row is locked, in a state in which nobody holds it."""
    ended = state in ENDED
    after = TrialState.CANCELLED if ended else TrialState.WAITING
    _end_attempts(connection, job_id, now, after, reason or "the job was stopped")
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


def _close_attempt(
    connection: sa.Connection,
    trial_id: str,
    now: datetime.datetime,
    outcome: str,
    reason: str | None,
    log: str | None = None,
) -> None:
    closed = {"finished": now, "outcome": outcome, "reason": reason, "log": log}
    connection.execute(_CLOSE_ATTEMPT, {"of_trial": trial_id, **closed})


def _end_attempts(
    connection: sa.Connection, job_id: str, now: datetime.datetime, after: TrialState, reason: str
) -> None:
    """Put the job's RUNNING trials to WAITING, or to CANCELLED."""
    cancelled = after is TrialState.CANCELLED
    values: dict[str, Any] = {"finished": now, "reason": reason} if cancelled else {}
    running: Sequence[str] = (
        connection.execute(
            sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job_id, TRIALS.c.state == TrialState.RUNNING)
        )
        .scalars()
        .all()
    )
    for trial_id in running:
        connection.execute(sa.update(TRIALS).where(TRIALS.c.id == trial_id).values(state=after, **values))
        _close_attempt(connection, trial_id, now, after if cancelled else _LOST, reason)
