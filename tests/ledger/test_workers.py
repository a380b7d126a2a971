"""Workers in the ledger, and what a QUEUED job sees of them, on every kind of database."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from anon_tune.ledger import Ledger
from anon_tune.ledger.database import open_database
from anon_tune.ledger.tables import WORKERS
from anon_tune.records import JobState, NewWorker, WorkerKind, WorkerState
from anon_tune.spec import parse_spec
from tests.service.conftest import SPEC

HOLDER = "ann@box, process 1"
NEW = NewWorker("w1", HOLDER, WorkerKind.WORKER, "box", 2, 8, ("H200", "H200"), {"python": "3.11.9"})

Silence = Callable[[str, float], None]


@pytest.fixture
def silence(database_url: str, ledger: Ledger) -> Iterator[Silence]:
    """Makes a worker's last heartbeat so many seconds old."""
    engine = open_database(database_url)

    def set_back(worker: str, seconds: float) -> None:
        moment = ledger.overviews.time() - datetime.timedelta(seconds=seconds)
        with engine.begin() as connection:
            connection.execute(sa.update(WORKERS).where(WORKERS.c.id == worker).values(heartbeat=moment))

    yield set_back
    engine.dispose()


def states(ledger: Ledger) -> dict[str, WorkerState]:
    return {worker.id: worker.state for worker in ledger.workers.all()}


def submit(ledger: Ledger, priority: int = 0) -> str:
    return ledger.jobs.create("x", parse_spec(SPEC).model_dump(mode="json"), {}, priority).id


def test_a_worker_is_listed_with_its_jobs_until_it_leaves(ledger: Ledger):
    began = ledger.overviews.time()
    for _ in range(2):
        ledger.workers.heartbeat(NEW)
    (worker,) = ledger.workers.all()
    assert (worker.id, worker.holder, worker.kind, worker.machine) == ("w1", HOLDER, WorkerKind.WORKER, "box")
    assert (worker.at_once, worker.cpus, worker.gpus) == (2, 8, ("H200", "H200"))
    assert (worker.largest_cpus, worker.largest_gpus) == (8, 2)
    assert worker.versions == {"python": "3.11.9"}
    assert (worker.state, worker.jobs) == (WorkerState.IDLE, ())
    assert began <= worker.started <= worker.heartbeat <= ledger.overviews.time()

    jobs = sorted(submit(ledger) for _ in range(3))
    leases = [ledger.leases.claim(HOLDER, 60.0), ledger.leases.claim(HOLDER, 60.0)]
    ledger.leases.claim("another", 60.0)
    held = sorted(lease.job for lease in leases if lease is not None)
    (worker,) = ledger.workers.all()
    assert (worker.state, worker.jobs) == (WorkerState.BUSY, tuple(held))
    assert set(held) < set(jobs)

    for _ in range(2):
        ledger.workers.leave("w1")
    assert ledger.workers.all() == []


def test_a_worker_that_is_silent_is_lost_and_after_a_day_forgotten(ledger: Ledger, silence: Silence):
    other = dataclasses.replace(NEW, id="w2", holder="ben@box, process 2")
    ledger.workers.heartbeat(NEW)
    ledger.workers.heartbeat(other)
    silence("w1", 21.0)
    assert states(ledger) == {"w1": WorkerState.LOST, "w2": WorkerState.IDLE}
    ledger.workers.heartbeat(NEW)
    assert states(ledger)["w1"] is WorkerState.IDLE
    silence("w1", 24 * 3600 + 1.0)
    assert states(ledger) == {"w2": WorkerState.IDLE}
    ledger.workers.heartbeat(NEW)  # it was only away
    assert states(ledger).keys() == {"w1", "w2"}
    silence("w1", 24 * 3600 + 1.0)
    ledger.workers.heartbeat(dataclasses.replace(NEW, id="w3"))
    silence("w1", 0.0)
    assert states(ledger).keys() == {"w2", "w3"}, "the first was deleted"


def test_a_process_with_the_name_of_one_that_died_takes_its_place(ledger: Ledger, silence: Silence):
    """As the first process of a container that was started again."""
    ledger.workers.heartbeat(NEW)
    silence("w1", 21.0)
    ledger.workers.heartbeat(dataclasses.replace(NEW, id="w2"))
    assert states(ledger) == {"w2": WorkerState.IDLE}


def test_the_nodes_of_a_cluster_are_known_from_the_first_job_on(ledger: Ledger):
    ledger.workers.heartbeat(dataclasses.replace(NEW, on_cluster=True))
    (worker,) = ledger.workers.all()
    assert (worker.largest_cpus, worker.largest_gpus) == (None, None)
    ledger.workers.set_largest_node(HOLDER, 64.0, 4.0)
    ledger.workers.heartbeat(NEW)
    (worker,) = ledger.workers.all()
    assert (worker.largest_cpus, worker.largest_gpus) == (64.0, 4.0)


def test_a_queued_job_sees_the_jobs_that_are_claimed_before_it(ledger: Ledger):
    first, second, low = submit(ledger), submit(ledger), submit(ledger, -1)
    high = submit(ledger, 5)

    def ahead(job: str) -> int | None:
        seen = ledger.overviews.job(job)
        return None if seen.queue is None or seen.job.state is JobState.RUNNING else seen.queue.ahead

    assert [ahead(job) for job in (high, first, second, low)] == [0, 1, 2, 3]
    ledger.workers.heartbeat(NEW)
    lease = ledger.leases.claim(HOLDER, 60.0)
    assert lease is not None
    assert lease.job == high
    assert [ahead(job) for job in (high, first, second, low)] == [None, 0, 1, 2]
    ledger.jobs.pause(first)
    assert [ahead(job) for job in (first, second, low)] == [None, 0, 1]
    for job in (second, high):
        queue = ledger.overviews.job(job).queue
        assert queue is not None
        assert [worker.jobs for worker in queue.workers] == [(high,)]
    ledger.leases.release(lease, JobState.QUEUED)
    abandoned = ledger.leases.claim("died", 0.0)
    assert abandoned is not None
    assert abandoned.job == high
    assert ahead(second) == 1, "a job whose holder died is claimed too"
