"""The daemon: claims jobs from the ledger's queue and runs each in a process of its own."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

from anon_tune.errors import DependencyError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobState
from anon_tune.workers.queue.holder import LEASE_SECONDS, is_on_this_machine
from anon_tune.workers.queue.processes import DATABASE_AWAY, JobProcesses, kill_group

__all__ = ["Daemon"]

_POLL_SECONDS = 0.5
_QUIET_SECONDS = 30.0
_SILENT_SECONDS = 5.0  # heartbeats come every three
_RELEASE_SECONDS = 8.0
_EXIT_SECONDS = 30.0
_MOST_DEATHS = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Deaths:
    """Deaths of a job's process since its last progress, and that progress."""

    count: int = 0
    progress: int = -1


class Daemon:
    """Works on the queue, with up to `jobs` jobs at once.

    The daemon claims a job and passes the lease to the process that runs it. That process renews the lease, so the
    lease runs out if the process hangs. A process whose daemon has died stops by itself. If a process dies, the
    daemon queues the job again at once; after three deaths without a report in between it pauses the job.

    With ANON_TUNE_KEEP_READY an idle daemon keeps a process ready, once the queue has been quiet for some seconds and
    no job runs on this machine, or when a lease was not renewed in time. While that process is loading, no job is
    claimed, since the job would have to wait for it.

    Args:
        ledger: Ledger that stores the queue.
        processes: Starts a process for a lease, as the leader of a new process group. It releases the lease when it
            ends, and within seconds on SIGTERM.
        holder: Name of this process as a holder, for people.
        jobs: Number of jobs at once, from 1.
    """

    def __init__(
        self,
        ledger: Ledger,
        processes: JobProcesses,
        holder: str,
        jobs: int = 1,
    ) -> None:
        self._ledger = ledger
        self._processes = processes
        self._holder = holder
        self._jobs = jobs
        self._running: list[tuple[Lease, subprocess.Popen[bytes]]] = []
        self._deaths: dict[str, _Deaths] = {}
        self._quiet_since = math.inf
        self._seen = (0, 0)  # takeovers and RUNNING jobs

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then every lease is released within 10 s, and the jobs are QUEUED again."""
        try:
            while not stop.is_set():
                try:
                    self._settle_ended()
                    self._claim()
                except DependencyError as error:
                    _log.warning("%s", error)
                stop.wait(_POLL_SECONDS)
        finally:
            self._end()

    def _claim(self) -> None:
        while len(self._running) < self._jobs and not self._processes.is_preparing():
            lease = self._ledger.leases.claim(self._holder, LEASE_SECONDS)
            if lease is None:
                if self._processes.lacks_one and self._should_prepare():
                    self._processes.prepare()
                return
            self._quiet_since = math.inf
            _log.info("job %s: claimed, token %d", lease.job, lease.token, extra={"job": lease.job})
            try:
                self._running.append((lease, self._processes.start(lease)))
            except OSError as error:
                self._ledger.leases.release(lease, JobState.PAUSED, f"its process could not start: {error}")

    def _should_prepare(self) -> bool:
        """Return whether to prepare a process: a job may need one soon, or the queue has been quiet for some seconds.

        A lease that was not renewed in time has probably lost its holder. Otherwise jobs that run on this machine
        come first, since preparing a process takes two cores.
        """
        leases = self._ledger.leases.statistics()
        if leases.seconds < LEASE_SECONDS - _SILENT_SECONDS:
            return True
        seen = leases.takeovers, leases.running
        if seen != self._seen:
            self._seen, self._quiet_since = seen, math.inf
        self._quiet_since = min(self._quiet_since, time.monotonic())
        if any(map(is_on_this_machine, leases.holders)):
            return False
        return time.monotonic() - self._quiet_since >= _QUIET_SECONDS

    def _settle_ended(self) -> None:
        for lease, process in list(self._running):
            code = process.poll()
            if code is not None:
                self._settle(lease, process, code)
                self._running.remove((lease, process))

    def _settle(self, lease: Lease, process: subprocess.Popen[bytes], code: int) -> None:
        """Release the lease of a process that has ended, if it still holds it."""
        if code:  # kill its child processes, which may hold the GPU
            kill_group(process)
        if code == DATABASE_AWAY:  # which says nothing about the job
            with contextlib.suppress(LeaseLostError):
                self._ledger.leases.release(lease, JobState.QUEUED, "the database was away")
            _log.warning("job %s: its process waits for the database", lease.job, extra={"job": lease.job})
            return
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        seen = self._deaths.get(lease.job, _Deaths())
        trials = self._ledger.jobs.get(lease.job, trials=True).trials
        progress = sum(len(trial.reports) + trial.is_finished for trial in trials)
        count = seen.count + 1 if progress == seen.progress else 1
        try:
            if count < _MOST_DEATHS:
                self._ledger.leases.release(lease, JobState.QUEUED, f"its process ended ({how})")
            else:
                reason = f"its process ended {_MOST_DEATHS} times without progress ({how}); see job.log"
                self._ledger.leases.release(lease, JobState.PAUSED, reason)
        except LeaseLostError:
            self._deaths.pop(lease.job, None)  # it had released the lease itself, or was taken over
            _log.info("job %s: its process ended (%s)", lease.job, how, extra={"job": lease.job})
        else:
            self._deaths[lease.job] = _Deaths(count, progress)
            _log.warning("job %s: its process died (%s)", lease.job, how, extra={"job": lease.job})

    def _end(self) -> None:
        """Stop all processes, and release the leases that they do not release in time."""
        for _, process in self._running:
            process.terminate()
        limit = time.monotonic() + _RELEASE_SECONDS
        for _, process in self._running:
            _wait(process, limit)
        for lease, _ in self._running:
            try:
                self._ledger.leases.release(lease, JobState.QUEUED, "its worker was stopped")
            except LeaseLostError:
                continue
            except (
                DependencyError
            ) as error:  # the processes must end all the same; the lease runs out by itself
                _log.warning("%s", error)
        self._processes.close()
        limit = time.monotonic() + _EXIT_SECONDS
        for _, process in self._running:
            _wait(process, limit)
            if process.poll() is None:
                kill_group(process)
                process.wait()
        self._running.clear()


def _wait(process: subprocess.Popen[bytes], limit: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, limit - time.monotonic()))
