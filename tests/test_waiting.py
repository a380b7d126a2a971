"""Why a QUEUED job waits."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.records import Queue, WorkerKind, WorkerRecord, WorkerState
from anon_tune.spec.sections import Resources
from anon_tune.waiting import about_gpus, about_waiting, about_workers
from tests.builders import EPOCH


def worker(*jobs: str, lost: bool = False, **given: Any) -> WorkerRecord:
    state = WorkerState.LOST if lost else WorkerState.BUSY if jobs else WorkerState.IDLE
    plain = {
        "id": "w",
        "holder": "ann@box, process 1",
        "kind": WorkerKind.WORKER,
        "state": state,
        "machine": "box",
        "at_once": 1,
        "cpus": 4,
        "gpus": ("H200", "H200"),
        "largest_cpus": 4.0,
        "largest_gpus": 2.0,
        "versions": {},
        "started": EPOCH,
        "heartbeat": EPOCH,
        "jobs": jobs,
    }
    return WorkerRecord(**{**plain, **given})


NONE = "no worker is running: start one with `anon-tune worker`"
UNKNOWN = worker(largest_cpus=None, largest_gpus=None)


@pytest.mark.parametrize(
    ("said", "needs", "ahead", "workers"),
    [
        (NONE, {}, 0, []),
        (NONE, {}, 3, [worker(lost=True)]),
        (NONE, {}, 0, [worker(kind=WorkerKind.RUN)]),
        ("starts now", {}, 0, [worker()]),
        ("starts now", {}, 0, [worker("a"), worker()]),
        ("starts now", {}, 1, [worker("a", at_once=3)]),
        ("it is next, and the worker is busy", {}, 0, [worker("a")]),
        ("it is next, and the worker is busy", {}, 0, [worker("a"), worker(lost=True)]),
        ("it is next, and all 2 workers are busy", {}, 0, [worker("a"), worker("b")]),
        ("1 job is ahead", {}, 1, [worker()]),
        ("3 jobs are ahead", {}, 3, [worker("a"), worker(at_once=2)]),
        ("a trial needs 4 GPUs, and the largest machine seen has 2", {"gpu": 4}, 0, [worker()]),
        ("a trial needs 1 GPU, and the largest machine seen has 0", {"gpu": 1}, 3, [worker(largest_gpus=0)]),
        ("a trial needs 8 CPUs, and the largest machine seen has 4", {"cpu": 8}, 0, [worker()]),
        ("starts now", {"gpu": 2, "cpu": 4}, 0, [worker()]),
        ("starts now", {"gpu": 4}, 0, [worker(), worker(largest_gpus=8.0)]),
        ("starts now", {"gpu": 4}, 0, [worker("a"), UNKNOWN]),
        ("starts now", {"gpu": 4}, 0, [UNKNOWN]),
    ],
)
def test_a_job_says_why_it_waits(said: str, needs: dict[str, int], ahead: int, workers: list[WorkerRecord]):
    assert about_waiting(Resources(**needs), Queue(ahead, tuple(workers))) == said


def test_workers_are_counted_by_state():
    assert about_workers([]) == "no worker is running"
    assert about_workers([worker()]) == "1 worker: 1 idle"
    assert (
        about_workers([worker(), worker("a"), worker(lost=True), worker()])
        == "4 workers: 2 idle, 1 busy, 1 lost"
    )


def test_gpus_are_counted_by_name():
    assert about_gpus(()) == "-"
    assert about_gpus(("H200", "L4", "H200")) == "2 H200, 1 L4"
