"""False takeovers of a job while every core is busy and nothing is killed."""

from __future__ import annotations

import contextlib
import datetime
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from benchmarks.faults.service import Service

__all__ = ["Watched", "watch"]

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Watched:
    """Observations of a job that trained beside busy cores, with a second worker waiting to take it over.

    Attributes:
        minutes: How long.
        load: Processes that ran or wanted to, on average.
        takeovers: How often the lease was given out after its first time; 0 is right.
        attempts_lost: Attempts that did not end by themselves; 0 is right.
        reports: Reports that the job stored.
        closest: Seconds that the lease had left when least of it was left.
    """

    minutes: float
    load: float
    takeovers: int
    attempts_lost: int
    reports: int
    closest: float


def watch(minutes: float, seed: int, say: Callable[[str], None]) -> Watched:
    """Run one job for so many minutes, and a minute more until it has ended."""
    loads: list[float] = []
    closest = math.inf
    with Service(seed) as service, _busy_cores():
        for _ in range(2):
            service.start_daemon()
        begin = time.monotonic()
        job = service.submit("budget.trials=10000", f"budget.time={minutes}m")
        while not service.has_ended(job):
            expires = service.lease_expires(job)
            if expires is not None:
                left = (expires - datetime.datetime.now(datetime.UTC)).total_seconds()
                if left < closest - 0.5:
                    say(f"  {time.monotonic() - begin:.0f} s: {left:.1f} s of the lease left")
                closest = min(closest, left)
            loads.append(psutil.getloadavg()[0])
            time.sleep(_POLL_SECONDS)
        lasted = (time.monotonic() - begin) / 60
        ended = service.job(job)
        return Watched(
            minutes=lasted,
            load=sum(loads) / len(loads),
            takeovers=service.token(job) - 1,
            attempts_lost=sum(trial.attempts - 1 for trial in ended.trials if trial.attempts),
            reports=sum(len(trial.reports) for trial in ended.trials),
            closest=closest,
        )


@contextlib.contextmanager
def _busy_cores() -> Iterator[None]:
    """For every core a process that computes all the time."""
    cores = len(psutil.Process().cpu_affinity())
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
