"""Cursors of the projection to MLflow, and the process that writes it at the moment."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from anon_tune import records
from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.rows import no_such_job, read_trials
from anon_tune.ledger.tables import JOBS, PROJECTIONS, REPORTS, TRIALS
from anon_tune.records import TrialState

__all__ = ["Cursor", "Projections"]


@dataclass(frozen=True)
class Cursor:
    """Progress of the projection of a job or a trial.

    Attributes:
        run: Its MLflow run; "" if one may exist whose id is not known.
        steps: Number of reports that have been written.
        state: The state that was written last.
    """

    run: str
    steps: int
    state: str | None


class Projections:
    """Cursors of one ledger: `Ledger.projections`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def cursor(self, subject: str) -> Cursor | None:
        """Return the cursor of a job or a trial; None if it has not been projected."""
        query = sa.select(PROJECTIONS.c.run, PROJECTIONS.c.steps, PROJECTIONS.c.state)
        with read(self._engine) as connection:
            row = connection.execute(query.where(PROJECTIONS.c.subject == subject)).first()
        return None if row is None else Cursor(*row)

    def count_behind(self, job_id: str) -> int:
        """Return the number of trials that `behind` would return without a limit."""
        with read(self._engine) as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(_behind(job_id).subquery())
            ).scalar_one()

    def behind(self, job_id: str, limit: int) -> list[tuple[records.Trial, Cursor | None]]:
        """Return at most `limit` trials that have changed since they were projected, oldest first.

        Each comes with its cursor as `cursor` returns it. A trial whose run is not known is always included.
        """
        with read(self._engine) as connection:
            found = {
                trial_id: None if run is None else Cursor(run, steps, state)
                for trial_id, run, steps, state in connection.execute(_behind(job_id).limit(limit))
            }
            trials = read_trials(connection, job_id, list(found))
        return [(trial, found[trial.id]) for trial in trials]

    def last_report(self, job_id: str) -> datetime.datetime | None:
        """Return the time of the job's last report; None before the first."""
        query = sa.select(sa.func.max(REPORTS.c.time)).join(TRIALS).where(TRIALS.c.job_id == job_id)
        with read(self._engine) as connection:
            return connection.execute(query).scalar()

    def announce(self, job_id: str, trial_ids: Sequence[str] | None = None) -> None:
        """Store, before they are created, that MLflow may have runs of these trials (None: of all) without a cursor.

        Their cursor's run is "" until `set`: a projector that finds it looks for the run before it creates one.

        Raises:
            NotFoundError: No such job; it was deleted meanwhile.
        """
        with write(self._engine) as connection:
            _lock(connection, job_id)
            known = sa.select(PROJECTIONS.c.subject).where(PROJECTIONS.c.job_id == job_id)
            chosen = sa.select(TRIALS.c.id, TRIALS.c.job_id, sa.literal(""), sa.literal(0)).where(
                TRIALS.c.job_id == job_id, TRIALS.c.id.not_in(known)
            )
            if trial_ids is not None:
                chosen = chosen.where(TRIALS.c.id.in_(trial_ids))
            columns = [PROJECTIONS.c.subject, PROJECTIONS.c.job_id, PROJECTIONS.c.run, PROJECTIONS.c.steps]
            connection.execute(sa.insert(PROJECTIONS).from_select(columns, chosen))

    def set(self, job_id: str, subject: str, run: str, steps: int = 0, state: str | None = None) -> None:
        """Store the cursor of `subject`, a job or a trial.

        On sqlite a power cut may undo it; the subject is then projected again, which changes nothing.

        Raises:
            NotFoundError: No such job; it was deleted meanwhile.
        """
        with write(self._engine, durable=False) as connection:
            # Two projectors of one job take turns.
            _lock(connection, job_id)
            connection.execute(sa.delete(PROJECTIONS).where(PROJECTIONS.c.subject == subject))
            connection.execute(
                sa.insert(PROJECTIONS).values(
                    subject=subject, job_id=job_id, run=run, steps=steps, state=state
                )
            )

    def take_turn(self, job_id: str, projector: str, seconds: float) -> bool:
        """Reserve the projection of a job for `projector`, for `seconds` from now; return False if another has it.

        Raises:
            NotFoundError: No such job.
        """
        with write(self._engine, durable=False) as connection:
            row = connection.execute(
                sa.select(JOBS.c.projector, JOBS.c.projector_expires)
                .where(JOBS.c.id == job_id)
                .with_for_update()
            ).first()
            if row is None:
                raise no_such_job(job_id)
            now = database_time(connection)
            if row.projector not in {None, projector} and row.projector_expires > now:
                return False
            expires = now + datetime.timedelta(seconds=seconds)
            connection.execute(
                sa.update(JOBS)
                .where(JOBS.c.id == job_id)
                .values(projector=projector, projector_expires=expires)
            )
        return True

    def end_turn(self, job_id: str, projector: str) -> None:
        """End the reservation of `projector`, if it still has it."""
        with write(self._engine, durable=False) as connection:
            connection.execute(
                sa.update(JOBS)
                .where(JOBS.c.id == job_id, JOBS.c.projector == projector)
                .values(projector=None, projector_expires=None)
            )

    def forget(self, job_id: str) -> None:
        """Delete all cursors of a job."""
        with write(self._engine) as connection:
            connection.execute(sa.delete(PROJECTIONS).where(PROJECTIONS.c.job_id == job_id))


def _lock(connection: sa.Connection, job_id: str) -> None:
    """Lock a job's row. Raises NotFoundError."""
    query = sa.select(JOBS.c.id).where(JOBS.c.id == job_id).with_for_update()
    if connection.execute(query).first() is None:
        raise no_such_job(job_id)


def _behind(job_id: str) -> sa.Select[str, str, int, str | None]:
    """Return the query for the id and cursor of trials that have changed since they were projected."""
    reported = sa.select(sa.func.count()).where(REPORTS.c.trial_id == TRIALS.c.id).scalar_subquery()
    # A trial that has ended reports no more, so only the reports of RUNNING trials need to be counted.
    behind = sa.and_(TRIALS.c.state == TrialState.RUNNING, PROJECTIONS.c.steps < reported)
    return (
        sa.select(TRIALS.c.id, PROJECTIONS.c.run, PROJECTIONS.c.steps, PROJECTIONS.c.state)
        .outerjoin(PROJECTIONS, PROJECTIONS.c.subject == TRIALS.c.id)
        .where(TRIALS.c.job_id == job_id)
        .where(sa.or_(PROJECTIONS.c.state.is_(None), PROJECTIONS.c.state != TRIALS.c.state, behind))
        .order_by(TRIALS.c.created, TRIALS.c.id)
    )
