"""Workers: the processes that work on jobs, as long as they send heartbeats."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.tables import JOBS, WORKERS
from anon_tune.records import JobRecord, JobState, NewWorker, Queue, WorkerKind, WorkerRecord, WorkerState

__all__ = ["HEARTBEAT_SECONDS", "Workers", "read_queue"]

HEARTBEAT_SECONDS: Final = 5.0
"""Time between heartbeats of a worker."""
_LOST = datetime.timedelta(seconds=4 * HEARTBEAT_SECONDS)
_KEPT = datetime.timedelta(days=1)


class Workers:
    """Workers of one ledger: `Ledger.workers`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def heartbeat(self, worker: NewWorker) -> None:
        """Store that a worker is alive; the first time, or if it was deleted meanwhile, store the worker too.

        A worker that has ended without `leave` is lost after four heartbeats, and deleted after a day.
        """
        with write(self._engine, durable=False) as connection:
            now = database_time(connection)
            seen = sa.update(WORKERS).where(WORKERS.c.id == worker.id).values(heartbeat=now)
            if connection.execute(seen).rowcount == 0:
                _delete_old(connection, worker.holder, now)
                connection.execute(sa.insert(WORKERS).values(**_row(worker), started=now, heartbeat=now))

    def leave(self, worker_id: str) -> None:
        """Delete a worker that ends; repeating it changes nothing."""
        with write(self._engine, durable=False) as connection:
            connection.execute(sa.delete(WORKERS).where(WORKERS.c.id == worker_id))

    def set_largest_node(self, holder: str, cpus: float, gpus: float) -> None:
        """Store the size of the largest node of the cluster that the jobs of a worker run on."""
        with write(self._engine, durable=False) as connection:
            of_holder = sa.update(WORKERS).where(WORKERS.c.holder == holder)
            connection.execute(of_holder.values(largest_cpus=cpus, largest_gpus=gpus))

    def all(self) -> list[WorkerRecord]:
        """Return all workers, the longest running first; lost ones for a day."""
        with read(self._engine) as connection:
            return _read_workers(connection, database_time(connection))


def read_queue(connection: sa.Connection, job: JobRecord) -> Queue:
    """Return the queue as a QUEUED or RUNNING job sees it."""
    now = database_time(connection)
    workers = tuple(_read_workers(connection, now))
    return Queue(_count_ahead(connection, job, now) if job.state is JobState.QUEUED else 0, workers)


def _count_ahead(connection: sa.Connection, job: JobRecord, now: datetime.datetime) -> int:
    claimable = sa.or_(
        JOBS.c.state == JobState.QUEUED,
        sa.and_(JOBS.c.state == JobState.RUNNING, JOBS.c.lease_expires <= now),
    )
    earlier = sa.tuple_(JOBS.c.created, JOBS.c.id) < sa.tuple_(
        sa.literal(job.created, JOBS.c.created.type), job.id
    )
    first = sa.or_(JOBS.c.priority > job.priority, sa.and_(JOBS.c.priority == job.priority, earlier))
    ahead = sa.select(sa.func.count()).select_from(JOBS).where(claimable, first)
    return connection.execute(ahead).scalar_one()


def _read_workers(connection: sa.Connection, now: datetime.datetime) -> list[WorkerRecord]:
    query = (
        sa.select(WORKERS).where(WORKERS.c.heartbeat > now - _KEPT).order_by(WORKERS.c.started, WORKERS.c.id)
    )
    rows = connection.execute(query).mappings().all()
    held = sa.select(JOBS.c.lease_holder, JOBS.c.id).where(
        JOBS.c.state == JobState.RUNNING, JOBS.c.lease_expires > now
    )
    jobs: dict[str, list[str]] = {}
    for holder, job_id in connection.execute(held.order_by(JOBS.c.id)):
        jobs.setdefault(holder, []).append(job_id)
    return [_record(row, now, tuple(jobs.get(row["holder"], ()))) for row in rows]


def _record(row: sa.RowMapping, now: datetime.datetime, jobs: tuple[str, ...]) -> WorkerRecord:
    columns = {column.name: row[column.name] for column in WORKERS.c}
    is_lost = row["heartbeat"] <= now - _LOST
    state = WorkerState.LOST if is_lost else WorkerState.BUSY if jobs else WorkerState.IDLE
    own = {"kind": WorkerKind(row["kind"]), "gpus": tuple(row["gpus"])}
    return WorkerRecord(**{**columns, **own}, state=state, jobs=jobs)


def _row(worker: NewWorker) -> Mapping[str, Any]:
    return {
        "id": worker.id,
        "holder": worker.holder,
        "kind": worker.kind,
        "machine": worker.machine,
        "at_once": worker.at_once,
        "cpus": worker.cpus,
        "gpus": list(worker.gpus),
        "largest_cpus": None if worker.on_cluster else worker.cpus,
        "largest_gpus": None if worker.on_cluster else len(worker.gpus),
        "versions": dict(worker.versions),
    }


def _delete_old(connection: sa.Connection, holder: str, now: datetime.datetime) -> None:
    """Delete workers that were lost a day ago, and a lost one whose process had the name of a new one."""
    same = sa.and_(WORKERS.c.holder == holder, WORKERS.c.heartbeat <= now - _LOST)
    connection.execute(sa.delete(WORKERS).where(sa.or_(WORKERS.c.heartbeat <= now - _KEPT, same)))
