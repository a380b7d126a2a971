"""Overviews of jobs and trials: pages and summaries that do not read all reports."""

from __future__ import annotations

import datetime
import math
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from anon_tune import records
from anon_tune.ledger.database import database_time, read
from anon_tune.ledger.job_list import read_list
from anon_tune.ledger.rows import (
    JOB_COLUMNS,
    check_job,
    check_trial,
    job_record,
    no_such_job,
    read_job,
    read_trials,
    trial_report_record,
)
from anon_tune.ledger.tables import JOBS, PROJECTIONS, REPORTS, TRIALS
from anon_tune.ledger.workers import read_queue
from anon_tune.records import (
    FINISHED,
    ArmRecord,
    JobList,
    JobQuery,
    JobRecord,
    JobState,
    LearningCurve,
    Overview,
    Phase,
    ReportPlace,
    TrialColumn,
    TrialQuery,
    TrialState,
)

__all__ = ["Overviews"]

_WAITING = {JobState.QUEUED, JobState.RUNNING}
_IN_JSON: dict[TrialColumn, sa.ColumnElement[Any]] = {
    TrialColumn.STEP_SIZE: TRIALS.c.params["step_size"],
    TrialColumn.BETA3: TRIALS.c.hyperparameters[("betas", 2)],
    **{
        column: TRIALS.c.hyperparameters[column.value]
        for column in (TrialColumn.GAMMA, TrialColumn.LR, TrialColumn.DELAY, TrialColumn.WEIGHT_DECAY)
    },
}
"""Columns of `TrialColumn` that are not columns of the table."""


class Overviews:
    """Overviews of one ledger: `Ledger.overviews`. Each method reads one snapshot of the database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def jobs(self, limit: int | None = None, after: str | None = None) -> list[JobRecord]:
        """Return at most `limit` jobs without their trials, newest first, that follow the job `after`.

        Raises:
            NotFoundError: There is no job `after`.
        """
        query = sa.select(*JOB_COLUMNS).order_by(JOBS.c.created.desc(), JOBS.c.id).limit(limit)
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

    def find(self, query: JobQuery) -> JobList:
        """Return a page of the jobs that match, for people who look through them."""
        with read(self._engine) as connection:
            return read_list(connection, query)

    def answered(self, family: str, limit: int) -> list[JobRecord]:
        """Return the newest jobs of an architecture family that have SUCCEEDED, without their trials."""
        query = (
            sa.select(*JOB_COLUMNS)
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
            sa.select(*JOB_COLUMNS)
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
            queue = read_queue(connection, job) if job.state in _WAITING else None
        return Overview(job, arms, projected, queue)

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
            if after is None and ids is not None and limit is not None and len(ids) < limit:
                ids = None  # all: without a list of thousands of ids
            return list(read_trials(connection, job_id, ids, reports=False))

    def find_trials(self, job_id: str, query: TrialQuery) -> tuple[list[records.Trial], int]:
        """Return a page of the trials that a query asks for, without reports, and the number of all of them.

        Raises:
            NotFoundError: No such job.
        """
        column = query.sort
        key = _IN_JSON[column].as_string() if column in _IN_JSON else TRIALS.c[column or "created"]
        chosen = _chosen(sa.select(TRIALS.c.id, key).where(TRIALS.c.job_id == job_id), query)
        with read(self._engine) as connection:
            check_job(connection, job_id)
            rows = connection.execute(chosen.order_by(TRIALS.c.created, TRIALS.c.id)).all()
            ids = _in_order([(row[0], row[1]) for row in rows], query)[query.offset :][: query.limit]
            found = {trial.id: trial for trial in read_trials(connection, job_id, ids, reports=False)}
        return [found[trial_id] for trial_id in ids], len(rows)

    def trial(self, job_id: str, trial_id: str) -> records.Trial:
        """Return a trial without its reports.

        Raises:
            NotFoundError: No such job, or the job has no such trial.
        """
        with read(self._engine) as connection:
            check_job(connection, job_id)
            check_trial(connection, job_id, trial_id)
            return read_trials(connection, job_id, [trial_id], reports=False)[0]

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

    def curves(
        self, job_id: str, points: int | None = None, trial_id: str | None = None
    ) -> dict[str, LearningCurve]:
        """Return the learning curves of a job's trials that have a report, by their ids.

        This takes a tenth of the time of all `reports`, whose metrics it does not read.

        Args:
            job_id: The job.
            points: About the most points of all curves together; then each has its first, every k-th and its last.
            trial_id: The only trial to read; None for all.

        Raises:
            NotFoundError: No such job.
        """
        with read(self._engine) as connection:
            check_job(connection, job_id)
            rows = connection.execute(_points(connection, job_id, points, trial_id)).all()
        return {
            trial: LearningCurve([step for _, step, _ in of_trial], [value for _, _, value in of_trial])
            for trial, group in groupby(rows, key=itemgetter(0))
            if (of_trial := list(group))
        }

    def progress(self, job_id: str) -> int:
        """Return a number that grows with each report and each trial that ends; 0 if there is no such job."""
        of_job = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job_id)
        reports = sa.select(sa.func.count()).where(REPORTS.c.trial_id.in_(of_job))
        ended = sa.select(sa.func.count()).where(TRIALS.c.job_id == job_id, TRIALS.c.state.in_(FINISHED))
        with read(self._engine) as connection:
            return connection.execute(reports).scalar_one() + connection.execute(ended).scalar_one()

    def time(self) -> datetime.datetime:
        """Return the database's time (UTC)."""
        with read(self._engine) as connection:
            return database_time(connection)

    def size(self) -> int:
        """Return the bytes of the database."""
        with read(self._engine) as connection:
            if connection.dialect.name == "sqlite":
                pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
                return int(pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one())
            return int(
                connection.execute(
                    sa.select(sa.func.pg_database_size(sa.func.current_database()))
                ).scalar_one()
            )

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


def _chosen(select: sa.Select[Any], query: TrialQuery) -> sa.Select[Any]:
    """Return a query for those trials alone that fit."""
    for column, value in (
        (TRIALS.c.arm, query.arm),
        (TRIALS.c.phase, query.phase),
        (TRIALS.c.state, query.state),
    ):
        if value is not None:
            select = select.where(column == value)
    if query.text:
        columns = (TRIALS.c.id, TRIALS.c.reason)
        select = select.where(sa.or_(*(column.icontains(query.text, autoescape=True) for column in columns)))
    return select


def _in_order(keyed: list[tuple[str, Any]], query: TrialQuery) -> list[str]:
    """Return ids sorted by their keys: numbers, then texts; those without a key last.

    Values in JSON have different types in one column: a delay may be a number or a name. Databases differ in how they
    compare them, so they are compared here.
    """
    if query.sort is None:
        ids = [trial_id for trial_id, _ in keyed]
        return ids[::-1] if query.descending else ids
    having = sorted(
        ((_sortable(key), trial_id) for trial_id, key in keyed if key is not None),
        key=lambda pair: pair[0],
        reverse=query.descending,
    )
    return [trial_id for _, trial_id in having] + [trial_id for trial_id, key in keyed if key is None]


def _sortable(key: Any) -> tuple[bool, float, str]:
    try:
        number = float(key)
    except ValueError:
        number = math.nan
    return (True, 0.0, str(key)) if math.isnan(number) else (False, number, "")


def _points(connection: sa.Connection, job_id: str, most: int | None, trial_id: str | None) -> sa.Select[Any]:
    """Return the query for trial, step and value of a job's reports; if they are too many, of every k-th."""
    query = sa.select(REPORTS.c.trial_id, REPORTS.c.step, REPORTS.c.value).join(TRIALS)
    query = query.where(TRIALS.c.job_id == job_id)
    if trial_id is not None:
        query = query.where(TRIALS.c.id == trial_id)
    count = sa.select(sa.func.count()).select_from(query.subquery())
    every = 1 if most is None else -(-connection.execute(count).scalar_one() // most)
    if every <= 1:
        return query.order_by(REPORTS.c.trial_id, REPORTS.c.step)
    place = sa.func.row_number().over(partition_by=REPORTS.c.trial_id, order_by=REPORTS.c.step) - 1
    last = (REPORTS.c.step == TRIALS.c.steps).label("last")
    made = query.add_columns(place.label("place"), last).subquery()
    thinned = sa.select(made.c.trial_id, made.c.step, made.c.value)
    return thinned.where(sa.or_(made.c.place % every == 0, made.c.last)).order_by(
        made.c.trial_id, made.c.step
    )


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
