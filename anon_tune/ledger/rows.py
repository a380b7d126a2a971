"""Conversion of rows to records."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping

from anon_tune import records
from anon_tune.errors import NotFoundError
from anon_tune.ledger.database import database_time
from anon_tune.ledger.tables import ATTEMPTS, JOBS, PROJECTIONS, REPORTS, TRIALS
from anon_tune.records import ControlSignal, JobRecord, JobState, Phase, Role, TrialState

__all__ = [
    "JOB_COLUMNS",
    "attempt_record",
    "check_job",
    "check_trial",
    "job_record",
    "no_such_job",
    "read_job",
    "read_trials",
    "report_record",
    "token_record",
    "trial_report_record",
]

Row = RowMapping | Mapping[str, Any]

JOB_COLUMNS = tuple(column for column in JOBS.c if column.name != "spaces")
"""Columns of a job without its search spaces, which may be large, and which few operations need."""

_TRIAL_COLUMNS = tuple(field.name for field in dataclasses.fields(records.Trial) if field.name in TRIALS.c)


def no_such_job(job_id: str) -> NotFoundError:
    """Return the error for an unknown job id."""
    return NotFoundError(f"There is no job {job_id!r}. `anon-tune jobs` lists them.")


def check_job(connection: sa.Connection, job_id: str) -> None:
    """Raise NotFoundError unless the job exists."""
    if connection.execute(sa.select(JOBS.c.id).where(JOBS.c.id == job_id)).scalar() is None:
        raise no_such_job(job_id)


def check_trial(connection: sa.Connection, job_id: str, trial_id: str) -> datetime.datetime:
    """Return the time at which a trial of the job was created (UTC). Raises NotFoundError."""
    of_job = sa.select(TRIALS.c.created).where(TRIALS.c.id == trial_id, TRIALS.c.job_id == job_id)
    created: datetime.datetime | None = connection.execute(of_job).scalar()
    if created is None:
        raise NotFoundError(
            f"Job {job_id} has no trial {trial_id!r}. `anon-tune trials {job_id}` lists them."
        )
    return created


def read_job(connection: sa.Connection, job_id: str, *, trials: bool = False) -> JobRecord:
    """Return a job, optionally with its trials and their reports. Raises NotFoundError."""
    now = database_time(connection)
    row = connection.execute(sa.select(*JOB_COLUMNS).where(JOBS.c.id == job_id)).mappings().first()
    if row is None:
        raise no_such_job(job_id)
    run = connection.execute(sa.select(PROJECTIONS.c.run).where(PROJECTIONS.c.subject == job_id)).scalar()
    return job_record(row, now, run, read_trials(connection, job_id) if trials else ())


def read_trials(
    connection: sa.Connection, job_id: str, trial_ids: Sequence[str] | None = None, *, reports: bool = True
) -> tuple[records.Trial, ...]:
    """Return a job's trials (None: all), optionally with their reports, in order of creation."""
    of_job = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job_id)
    if trial_ids is not None:
        of_job = of_job.where(TRIALS.c.id.in_(trial_ids))
    rows = connection.execute(sa.select(TRIALS).where(TRIALS.c.id.in_(of_job))).mappings().all()
    reported = _read_reports(connection, of_job) if reports else {}
    attempts: dict[str, int] = dict(
        connection.execute(
            sa.select(ATTEMPTS.c.trial_id, sa.func.count())
            .where(ATTEMPTS.c.trial_id.in_(of_job))
            .group_by(ATTEMPTS.c.trial_id)
        ).all()
    )
    checkpoints: dict[str, tuple[str, ...]] = {}
    for row in connection.execute(
        sa.select(ATTEMPTS.c.trial_id, ATTEMPTS.c.checkpoint)
        .where(ATTEMPTS.c.trial_id.in_(of_job), ATTEMPTS.c.checkpoint.is_not(None))
        .order_by(ATTEMPTS.c.trial_id, ATTEMPTS.c.number.desc())
    ).mappings():
        checkpoints[row["trial_id"]] = (*checkpoints.get(row["trial_id"], ()), row["checkpoint"])
    runs = dict(
        connection.execute(
            sa.select(PROJECTIONS.c.subject, PROJECTIONS.c.run).where(
                PROJECTIONS.c.subject.in_(of_job), PROJECTIONS.c.run != ""
            )
        ).all()
    )
    return tuple(
        _trial_record(
            row,
            reported.get(row["id"], ()),
            attempts.get(row["id"], 0),
            runs.get(row["id"]),
            checkpoints.get(row["id"], ()),
        )
        for row in sorted(rows, key=lambda row: (row["created"], row["id"]))
    )


class _StoredMetrics(Mapping[str, float]):
    """Metrics of a report as the database has them, decoded when they are first needed.

    Decoding 200,000 of them takes longer than everything else that a driver's start reads.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _decoded(self) -> dict[str, float]:
        return _metrics(json.loads(self._text))

    def __getitem__(self, name: str) -> float:
        return self._decoded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded)

    def __len__(self) -> int:
        return len(self._decoded)

    def __repr__(self) -> str:
        return repr(self._decoded)


def _read_reports(
    connection: sa.Connection, trial_ids: sa.Select[tuple[str]]
) -> dict[str, tuple[records.Report, ...]]:
    """Return the reports of trials by trial, in the order of their steps."""
    metrics = sa.cast(REPORTS.c.metrics, sa.Text)
    query = (
        sa.select(REPORTS.c.trial_id, REPORTS.c.step, REPORTS.c.value, metrics, REPORTS.c.time)
        .where(REPORTS.c.trial_id.in_(trial_ids))
        .order_by(REPORTS.c.trial_id, REPORTS.c.step)
    )
    with _without_collection():
        return {
            trial: tuple(
                records.Report(step, math.nan if value is None else value, _StoredMetrics(text), time)
                for _, step, value, text, time in of_trial
            )
            for trial, of_trial in groupby(connection.execute(query).all(), key=itemgetter(0))
        }


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Pause the garbage collector, which takes half of the time of a large read and finds nothing in it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _metrics(stored: Mapping[str, float | None]) -> dict[str, float]:
    """Return metrics; a null stands for a value that was not finite."""
    return {name: math.nan if number is None else number for name, number in stored.items()}


def report_record(row: Row) -> records.Report:
    """Return the record of a row of `reports`; a null stands for a value that was not finite."""
    return records.Report(
        step=row["step"],
        value=math.nan if row["value"] is None else row["value"],
        metrics=_metrics(row["metrics"]),
        time=row["time"],
    )


def trial_report_record(row: Row) -> records.TrialReport:
    """Return the record of a row of `reports`, with its trial and attempt."""
    found = report_record(row)
    return records.TrialReport(
        found.step, found.value, found.metrics, found.time, row["trial_id"], row["attempt"]
    )


def attempt_record(row: Row) -> records.Attempt:
    """Return the record of a row of `attempts`."""
    return records.Attempt(
        trial=row["trial_id"],
        number=row["number"],
        started=row["started"],
        finished=row["finished"],
        outcome=row["outcome"],
        reason=row["reason"],
        log=row["log"],
    )


def token_record(row: Row, now: datetime.datetime) -> records.TokenRecord:
    """Return the record of a row of `tokens`, as seen at `now` by the database's clock."""
    return records.TokenRecord(
        id=row["id"],
        owner=row["owner"],
        role=Role(row["role"]),
        may_send_code=row["may_send_code"],
        created=row["created"],
        revoked=row["revoked"],
        expires=row["expires"],
        is_expired=row["expires"] is not None and row["expires"] <= now,
    )


def _trial_record(
    row: Row,
    reports: Iterable[records.Report],
    attempts: int,
    run: str | None,
    checkpoints: tuple[str, ...],
) -> records.Trial:
    columns = {name: row[name] for name in _TRIAL_COLUMNS}
    return records.Trial(
        **{**columns, "phase": Phase(row["phase"]), "state": TrialState(row["state"])},
        job=row["job_id"],
        attempts=attempts,
        reports=tuple(reports),
        mlflow_run=run,
        checkpoints=checkpoints,
    )


def job_record(
    row: Row, now: datetime.datetime, run: str | None, trials: tuple[records.Trial, ...]
) -> JobRecord:
    """Return the record of a row of `jobs`, as seen at `now` by the database's clock."""
    lease = None
    if row["lease_holder"] is not None:
        lease = records.LeaseRecord(
            holder=row["lease_holder"],
            token=row["lease_token"],
            heartbeat=row["lease_heartbeat"],
            expires=row["lease_expires"],
            alive=row["lease_expires"] > now,
        )
    return JobRecord(
        id=row["id"],
        name=row["name"],
        state=JobState(row["state"]),
        phase=Phase(row["phase"]),
        spec=row["spec"],
        created=row["created"],
        probe=row["probe"],
        architecture=row["architecture"],
        result=row["result"],
        reason=row["reason"],
        started=row["started"],
        finished=row["finished"],
        lease=lease,
        priority=row["priority"],
        requested=ControlSignal(row["requested"]) if row["requested"] else None,
        spent=row["spent"],
        owner=row["owner"],
        code=row["code"],
        mlflow_run=run,
        trials=trials,
    )
