"""Why a QUEUED job waits, and workers in a few words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from anon_tune.records import Queue, WorkerRecord, WorkerState

__all__ = ["about_gpus", "about_lack", "about_waiting", "about_workers"]


class _Resources(Protocol):
    """Resources of a job file; its schema is not for commands that only look."""

    @property
    def cpu(self) -> float: ...

    @property
    def gpu(self) -> float: ...


class _HasState(Protocol):
    @property
    def state(self) -> WorkerState: ...


def about_waiting(needs: _Resources, queue: Queue) -> str:
    """Return why a QUEUED job does not run yet, as a part of a sentence.

    Args:
        needs: Resources of each of its trials.
        queue: The jobs ahead of it, and all workers.
    """
    workers = [worker for worker in queue.workers if worker.takes_jobs]
    if not workers:
        return "no worker is running: start one with `anon-tune worker`"
    lack = about_lack(needs, workers)
    if lack is not None:
        return lack
    free = sum(max(0, worker.at_once - len(worker.jobs)) for worker in workers)
    if queue.ahead < free:
        return "starts now"
    if queue.ahead:
        return "1 job is ahead" if queue.ahead == 1 else f"{queue.ahead} jobs are ahead"
    busy = "the worker is" if len(workers) == 1 else f"all {len(workers)} workers are"
    return f"it is next, and {busy} busy"


def about_lack(needs: _Resources, workers: Sequence[WorkerRecord]) -> str | None:
    """Return a resource that no machine or node has enough of for a trial; None if some may have."""
    for unit, needed, sizes in (
        ("GPU", needs.gpu, [worker.largest_gpus for worker in workers]),
        ("CPU", needs.cpu, [worker.largest_cpus for worker in workers]),
    ):
        known = [size for size in sizes if size is not None]
        if known and len(known) == len(sizes) and needed > max(known):
            return f"a trial needs {_count(needed, unit)}, and the largest machine seen has {max(known):g}"
    return None


def _count(number: float, unit: str) -> str:
    return f"{number:g} {unit}" if number == 1 else f"{number:g} {unit}s"


def about_workers(workers: Sequence[_HasState]) -> str:
    """Return the number of workers and their states, such as "2 workers: 1 idle, 1 busy"."""
    states = Counter(worker.state for worker in workers)
    if not states:
        return "no worker is running"
    number = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
    return f"{number}: {', '.join(f'{states[state]} {state}' for state in WorkerState if states[state])}"


def about_gpus(names: Sequence[str]) -> str:
    """Return GPUs by their names, such as "2 NVIDIA H200"; a dash without any."""
    return ", ".join(f"{number} {name}" for name, number in Counter(names).items()) or "-"
