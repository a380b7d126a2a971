"""Overviews of jobs and trials: pages and summaries that do not read all reports."""

from __future__ import annotations

import datetime
from typing import Any

import sqlalchemy as sa

from anon_tune import records
from anon_tune.ledger.database import database_time, read
from anon_tune.ledger.rows import (
    check_job,
    check_trial,
    job_record,
    no_such_job,
    read_job,
    read_trials,
    trial_report_record,
)
from anon_tune.ledger.tables import JOBS, PROJECTIONS, REPORTS, TRIALS
from anon_tune.records import ArmRecord, JobRecord, JobState, Overview, Phase, ReportPlace, TrialState

__all__ = ["Overviews"]


class Overviews:
    """Overviews of one ledger: `Ledger.overviews`. Each method reads one snapshot of the database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def jobs(self, limit: int | None = None, after: str | None = None) -> list[JobRecord]:
        """Return at most `limit` jobs without their trials, newest first, that follow the job `after`.

        Raises:
            NotFoundError: There is no job `after`.
        """
        query = sa.select(JOBS).order_by(JOBS.c.created.desc(), JOBS.c.id).limit(limit)
        with read(self._engine) as connection:
            if after is not None:
                created = connection.execute(sa.select(JOBS.c.created).where(JOBS.c.id == after)).scalar()
                if created is None:
                    raise no_such_job(after)
                same = sa.and_(JOBS.c.created == created, JOBS.c.id > after)
                query = query.where(sa.or_(JOBS.c.created < created, same))
            now = database_time(connection)
            rows = connection.execute(query).mappings().all()
            of_jobs = sa.select(PROJECTIONS.c.subject, PROJECTIONS.c.run)
            ids = [row["id"] for row in rows]
            runs = dict(connection.execute(of_jobs.where(PROJECTIONS.c.subject.in_(ids))).all())
        return [job_record(row, now, runs.get(row["id"]), ()) for row in rows]

    def answered(self, family: str, limit: int) -> list[JobRecord]:
        """Return the newest jobs of an architecture family that have SUCCEEDED, without their trials."""
        query = (
            sa.select(JOBS)
            .where(
                JOBS.c.state == JobState.SUCCEEDED.value, JOBS.c.architecture["family"].as_string() == family
            )
            .order_by(JOBS.c.created.desc(), JOBS.c.id)
            .limit(limit)
        )
        with read(self._engine) as connection:
            now = database_time(connection)
            rows = connection.execute(query).mappings().all()
        return [job_record(row, now, None, ()) for row in rows]

    def answers(self) -> tuple[int, datetime.datetime | None]:
        """Return the number of SUCCEEDED jobs and the time of the last one, on which `answered` depends."""
        query = sa.select(sa.func.count(), sa.func.max(JOBS.c.finished, type_=JOBS.c.finished.type))
        with read(self._engine) as connection:
            count, last = connection.execute(query.where(JOBS.c.state == JobState.SUCCEEDED.value)).one()
        return count, last

    def measured(self, task: str, model: str | None, limit: int) -> list[JobRecord]:
        """Return the newest jobs of a task and model that have begun to work, of which those with a probe.

        The jobs are without their trials.

        Args:
            task: The task.
            model: Name of the model; None for tasks that bring their own.
            limit: Most jobs to look at.
        """
        name = JOBS.c.spec[("model", "name")].as_string()
        query = (
            sa.select(JOBS)
            .where(
                JOBS.c.started.is_not(None),
                JOBS.c.spec["task"].as_string() == task,
                name.is_(None) if model is None else name == model,
            )
            .order_by(JOBS.c.created.desc(), JOBS.c.id)
            .limit(limit)
        )
        with read(self._engine) as connection:
            now = database_time(connection)
            rows = connection.execute(query).mappings().all()
        return [job_record(row, now, None, ()) for row in rows if row["probe"]]

    def job(self, job_id: str) -> Overview:
        """Return a summary of a job. Raises NotFoundError."""
        with read(self._engine) as connection:
            job = read_job(connection, job_id)
            of_trials = sa.and_(
                PROJECTIONS.c.job_id == job_id, PROJECTIONS.c.subject != job_id, PROJECTIONS.c.run != ""
            )
            projected = connection.execute(
                sa.select(sa.func.count()).select_from(PROJECTIONS).where(of_trials)
            ).scalar_one()
            arms = _arms(connection, job)
        return Overview(job, arms, projected)

    def trials(self, job_id: str, limit: int | None = None, after: str | None = None) -> list[records.Trial]:
        """Return at most `limit` trials without their reports, in order of creation, that follow the trial `after`.

        Raises:
            NotFoundError: No such job, or the job has no trial `after`.
        """
        query = (
            sa.select(TRIALS.c.id)
            .where(TRIALS.c.job_id == job_id)
            .order_by(TRIALS.c.created, TRIALS.c.id)
            .limit(limit)
        )
        with read(self._engine) as connection:
            check_job(connection, job_id)
            if after is not None:
                created = check_trial(connection, job_id, after)
                same = sa.and_(TRIALS.c.created == created, TRIALS.c.id > after)
                query = query.where(sa.or_(TRIALS.c.created > created, same))
            ids = None if limit is None and after is None else connection.execute(query).scalars().all()
            return list(read_trials(connection, job_id, ids, reports=False))

    def reports(
        self, job_id: str, trial_id: str | None = None, *, limit: int, after: ReportPlace | None = None
    ) -> list[records.TrialReport]:
        """Return reports of a job, or of one trial, by creation of the trials and then by step.

        At most `limit` reports that follow `after` are returned. No report is ever changed or removed, and a new one
        comes last in its trial. So pages that are read in turn repeat and skip nothing; a report that is stored
        after the last page of its trial was read is in none of them.

        Raises:
            NotFoundError: No such job, or the job has no such trial or no trial `after.trial`.
        """
        query = sa.select(REPORTS).join(TRIALS).where(TRIALS.c.job_id == job_id)
        query = query.order_by(TRIALS.c.created, TRIALS.c.id, REPORTS.c.step)
        with read(self._engine) as connection:
            check_job(connection, job_id)
            if trial_id is not None:
                check_trial(connection, job_id, trial_id)
                query = query.where(TRIALS.c.id == trial_id)
            if after is None:
                return _reports(connection, query, limit)
            # Two queries, as no index serves "the rest of this trial, or a later one" in one.
            made = check_trial(connection, job_id, after.trial), after.trial
            rest = query.where(TRIALS.c.id == after.trial, REPORTS.c.step > after.step)
            later = query.where(sa.tuple_(TRIALS.c.created, TRIALS.c.id) > made)
            found = _reports(connection, rest, limit)
            return found + _reports(connection, later, limit - len(found)) if len(found) < limit else found

    def time(self) -> datetime.datetime:
        """Return the database's time (UTC)."""
        with read(self._engine) as connection:
            return database_time(connection)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the numbers of jobs and trials in each state."""
        with read(self._engine) as connection:
            return {
                name: dict(
                    connection.execute(
                        sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
                    ).all()
                )
                for name, table in (("jobs", JOBS), ("trials", TRIALS))
            }


def _reports(connection: sa.Connection, query: sa.Select[Any], limit: int) -> list[records.TrialReport]:
    return [trial_report_record(row) for row in connection.execute(query.limit(limit)).mappings()]


def _arms(connection: sa.Connection, job: JobRecord) -> dict[str, ArmRecord]:
    counted = connection.execute(
        sa.select(
            TRIALS.c.arm,
            TRIALS.c.phase,
            TRIALS.c.state,
            sa.func.count().label("number"),
            sa.func.sum(TRIALS.c.steps).label("steps"),
            sa.func.sum(TRIALS.c.seconds).label("seconds"),
        )
        .where(TRIALS.c.job_id == job.id)
        .group_by(TRIALS.c.arm, TRIALS.c.phase, TRIALS.c.state)
    ).all()
    best = _best(connection, job)
    arms = {}
    for arm in job.spec["arms"]:
        rows = [row for row in counted if row.arm == arm]
        search = {TrialState(row.state): row.number for row in rows if row.phase == Phase.SEARCH}
        reruns: dict[TrialState, int] = {}
        for row in rows:
            if row.phase != Phase.SEARCH:
                state = TrialState(row.state)
                reruns[state] = reruns.get(state, 0) + row.number
        arms[arm] = ArmRecord(
            search, reruns, best.get(arm), sum(row.steps for row in rows), sum(row.seconds for row in rows)
        )
    return arms


def _best(connection: sa.Connection, job: JobRecord) -> dict[str, records.Trial]:
    """Return the COMPLETE search trial with the best value of each arm; the first one if several are equal."""
    value: Any = TRIALS.c.value if job.spec["objective"]["mode"] == "min" else TRIALS.c.value.desc()
    place = sa.func.row_number().over(
        partition_by=TRIALS.c.arm, order_by=(value, TRIALS.c.created, TRIALS.c.id)
    )
    ranked = (
        sa.select(TRIALS.c.id, place.label("place"))
        .where(
            TRIALS.c.job_id == job.id,
            TRIALS.c.phase == Phase.SEARCH,
            TRIALS.c.state == TrialState.COMPLETE,
            TRIALS.c.value.is_not(None),
        )
        .subquery()
    )
    ids = connection.execute(sa.select(ranked.c.id).where(ranked.c.place == 1)).scalars().all()
    return {trial.arm: trial for trial in read_trials(connection, job.id, ids, reports=False)}
