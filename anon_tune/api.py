"""What the command line does, as functions: the root where the layers are put together."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from anon_tune import export
from anon_tune.errors import AnonTuneError, ConflictError, LeaseHeldError, NotFoundError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import ENDED, JobRecord, JobState
from anon_tune.search_spaces import Space
from anon_tune.settings import Settings
from anon_tune.spec import JobSpec, extended, spaces_of, stored_spec
from anon_tune.tracking import Projector, check_uri

__all__ = [
    "acquire",
    "check_settings",
    "create_job",
    "extend",
    "given_lease",
    "open_ledger",
    "project",
    "remove_leftovers",
    "run_job",
    "work",
]

_POLL_SECONDS = 0.5
_PROJECTION_SECONDS = 120.0


def check_settings(settings: Settings) -> None:
    """Find out before a job is made what would stop it, or its projection, later.

    Raises:
        DependencyError: A setting that cannot be used; says which.
    """
    settings.make_home()
    check_uri(settings.tracking_uri)


def open_ledger(settings: Settings) -> Ledger:
    """Open the ledger that the settings name.

    Raises:
        AnonTuneError: As `open_database`, or the home folder cannot be used.
    """
    if settings.database_url is None:
        settings.make_home()
    return Ledger.open(settings.ledger_url)


def create_job(ledger: Ledger, spec: JobSpec, priority: int = 0, *, queued: bool = True) -> JobRecord:
    """Store a job with the search spaces as they are now, for the queue or for who takes it by its id."""
    spaces = {arm: space.model_dump(mode="json") for arm, space in spaces_of(spec).items()}
    return ledger.create_job(spec.name, spec.model_dump(mode="json"), spaces, priority, queued=queued)


def extend(ledger: Ledger, job_id: str, trials: int | None, time: float | None) -> JobState:
    """Raise a job's budget, as `Ledger.extend`.

    Raises:
        SpecError: The job's spaces have not so many configurations, or it is out of range.
        NotFoundError: No such job.
        ConflictError: As `Ledger.extend`.
    """
    if trials is not None:
        spaces = {arm: Space.model_validate(space) for arm, space in ledger.spaces(job_id).items()}
        extended(stored_spec(ledger.job(job_id).spec), spaces, trials)
    return ledger.extend(job_id, trials, time)


def acquire(ledger: Ledger, job_id: str, waiting: Callable[[str], None] = lambda message: None) -> Lease:
    """Take a job, waiting for the lease of a process that died to run out; `waiting` is told of that once.

    Raises:
        LeaseHeldError: Its holder lives: it renewed the lease while this waited.
        NotFoundError: No such job.
        TransitionError: The job has ended.
    """
    from anon_tune.workers.driver import LEASE_SECONDS

    holder = _holder()
    seen = None
    while True:
        try:
            return ledger.acquire(job_id, holder, LEASE_SECONDS)
        except LeaseHeldError:
            lease = ledger.job(job_id).lease
            if lease is not None and seen is not None and lease.heartbeat > seen:
                raise
            if lease is not None and seen is None:
                seen = lease.heartbeat
                waiting(
                    f"Waiting to see whether {lease.holder} still works on it; {LEASE_SECONDS:.0f} s at most."
                )
            time.sleep(_POLL_SECONDS)


def given_lease(job_id: str, token: int) -> Lease:
    """The lease that a daemon claimed and handed to this process."""
    from anon_tune.workers.driver import LEASE_SECONDS

    return Lease(job_id, _holder(), token, LEASE_SECONDS)


def work(ledger: Ledger, settings: Settings, jobs: int, stop: threading.Event) -> None:
    """Work on the queue until `stop` is set, on up to `jobs` jobs at once."""
    from anon_tune.workers.daemon import Daemon

    def start(lease: Lease) -> subprocess.Popen[bytes]:
        folder = settings.job_folder(lease.job)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "anon_tune", "run", "--resume", lease.job]
        command += ["--token", str(lease.token), "--parent", str(os.getpid())]
        with (folder / "worker.log").open("ab") as output:
            # Of its own session: Ctrl-C is for the daemon, which tells it.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    Daemon(ledger, start, _holder(), jobs).run(stop)


def _holder() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"


def run_job(ledger: Ledger, settings: Settings, lease: Lease, parent: int | None = None) -> JobRecord:
    """Work on a job here until it is at rest, with MLflow written beside it, and return it.

    Args:
        ledger: Where the job is.
        settings: Where its files are.
        lease: The right to work on it.
        parent: The daemon that started this process; its end is an interrupt.

    Raises:
        LeaseLostError: Another process took the job over.
        DependencyError: The ledger can no longer be written; the job can be resumed when it can.
        KeyboardInterrupt: After an interrupt, once the job is PAUSED, or QUEUED where a daemon started it.
    """
    from anon_tune.workers.driver import drive
    from anon_tune.workers.watch import Watch

    remove_leftovers(ledger, settings)
    watch = Watch(is_wanted=lambda: parent in {None, os.getppid()})
    left = JobState.PAUSED if parent is None else JobState.QUEUED
    with _log_file(settings.job_folder(lease.job)), _projector(settings, lease):
        drive(ledger, lease, settings, watch, left)
        job = ledger.job(lease.job, trials=True)
        if job.state is JobState.SUCCEEDED:
            with contextlib.suppress(ConflictError):  # Anon itself may not have come through
                path = settings.job_folder(job.id) / "best.yaml"
                path.write_text(export.render(export.document(job), "yaml"), encoding="utf-8")
    return ledger.job(lease.job, trials=True)


def remove_leftovers(ledger: Ledger, settings: Settings) -> None:
    """Delete the checkpoints and Ray's files of jobs that have ended: their driver may not have come to it."""
    for folder in (settings.home / "jobs").glob("*/checkpoints"):
        job_id = folder.parent.name
        with contextlib.suppress(NotFoundError):  # of another ledger
            if ledger.job(job_id).state in ENDED:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.rmtree(settings.ray_temp(job_id), ignore_errors=True)


def project(ledger: Ledger, settings: Settings) -> Projector:
    """The projector to the MLflow that the settings name, with the charts of `dashboards`."""
    from anon_tune.dashboards.charts import charts_page

    def files(job: JobRecord) -> Mapping[str, str]:
        found = {"charts.html": charts_page(job)}
        with contextlib.suppress(ConflictError):
            found["best.yaml"] = export.render(export.document(job), "yaml")
        return found

    settings.make_home()
    return Projector(ledger, settings.tracking_uri, settings.artifacts, files)


@contextlib.contextmanager
def _projector(settings: Settings, lease: Lease) -> Iterator[None]:
    """The projection of a job in a process of its own, which sees the work under a lease to its end."""
    log = settings.job_folder(lease.job) / "mlflow.log"
    command = [sys.executable, "-m", "anon_tune", "mlflow", "sync", lease.job]
    command += ["--follow", str(os.getpid()), "--token", str(lease.token)]
    with log.open("ab") as output:
        # Of its own session: Ctrl-C is for the driver; what it leaves behind is still to be projected.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    except AnonTuneError:
        process.terminate()  # whoever has the job now, or resumes it, projects it
        raise
    finally:
        try:
            process.wait(_PROJECTION_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        if process.returncode != 0:
            logging.getLogger(__name__).warning(
                "MLflow lags behind; `anon-tune mlflow sync %s` catches up (see %s)", lease.job, log
            )


@contextlib.contextmanager
def _log_file(folder: Path) -> Iterator[None]:
    """Write the package's log to the job's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "job.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logger = logging.getLogger("anon_tune")
    before = logger.level, logger.propagate, logging.raiseExceptions
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # On a full disk a traceback for each line of each log, Ray's too, would bury what the command says.
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # what a full disk did not take
            handler.close()
        logger.level, logger.propagate, logging.raiseExceptions = before
