"""`tune`, and the functions behind the command line: the composition root of the layers."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from anon_tune import export, submission
from anon_tune.display import live_table
from anon_tune.documents import is_function
from anon_tune.errors import AnonTuneError, ConflictError, InputError, LeaseHeldError, NotFoundError
from anon_tune.jobs.interface import Jobs, Result
from anon_tune.jobs.ledger import LedgerJobs, open_ledger
from anon_tune.ledger import Lease, Ledger, after, retried
from anon_tune.reachable import check_cluster
from anon_tune.records import LOCAL, AuditAction, JobRecord, JobState, Overview, WorkerKind
from anon_tune.settings import Settings
from anon_tune.spec import JobSpec, parse_spec
from anon_tune.tracking import Projector, check_uri
from anon_tune.user_code import ENTERED
from anon_tune.views import JobView

__all__ = [
    "DATABASE_SECONDS",
    "acquire",
    "check_settings",
    "project",
    "run_job",
    "start_job",
    "tune",
    "work",
    "work_on_assigned_job",
]

DATABASE_SECONDS = 10.0
"""Longest wait of a worker or driver for the database, below the 15 s of a lease."""

_POLL_SECONDS = 0.5
_PROJECTION_SECONDS = 120.0
_HEARTBEAT_POLL_SECONDS = 1.0
_TRIALS = 20


def tune(
    train: Callable[..., Any],
    space: str = "default",
    trials: int | None = None,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    metric: str = "loss",
    mode: str = "min",
    seed: int = 0,
    name: str | None = None,
    resume: str | None = None,
    estimate: bool = False,
    show: bool = True,
    **keys: Any,
) -> Result:
    """Tune Anon on a training function in this process, and return the result.

    An interrupt (Ctrl-C, or a notebook's stop) leaves the job PAUSED; `resume` continues it. The result of a job that
    FAILED or is PAUSED has the reason: in its repr, in `result.job.reason` and in the errors of `best` and `gamma`.

    Args:
        train: `train(context, **arguments)`, as in examples/bring_your_own. Workers import its module; a function
            that was defined in a notebook is sent by value.
        space: Name of a search space, or path of a file with one.
        trials: Number of configurations per arm; by default 20, or those of the job to resume. A larger number
            extends that job, also one that has SUCCEEDED.
        epochs: The last epoch that a full-length training reports; 10 if neither this nor `steps` is given.
        steps: The last step that a full-length training reports, in place of `epochs`.
        arguments: Further arguments of `train`, besides the context.
        metric: The metric to optimize, as `train` reports it.
        mode: "min" or "max".
        seed: Seed of the search and of all trials.
        name: Name of the job; by default the function's.
        resume: Id or name of a job to continue, with its own settings; of several with this name, the newest.
        estimate: Only measure the model, and leave the job PAUSED, with the number of trials and the expected time as
            its reason; `resume` runs it.
        show: Whether to draw a table of the job while it runs, and to print why it stopped.
        keys: Other keys of a job file: arms, confirm, training, resources, ...

    Raises:
        InputError: Workers cannot import `train`, or `tune` is called while its module is being imported.
        SpecError: The job is invalid; lists every problem with its key's path.
        NotFoundError: There is no job `resume`.
        ConflictError: It has ended, another process works on it, it tunes another function, or it has more `trials`.
        KeyboardInterrupt: After an interrupt.
    """
    task, folder, functions = _named(train)
    settings = Settings.from_environment()
    check_settings(settings)
    ledger = open_ledger(settings, DATABASE_SECONDS)
    jobs = LedgerJobs(ledger, settings)
    if resume is None:
        length = {"epochs": 10} if epochs is None and steps is None else {"epochs": epochs, "steps": steps}
        document = {
            "name": name or train.__name__,
            "task": task,
            "arguments": dict(arguments or {}),
            "space": space,
            "objective": {"metric": metric, "mode": mode},
            **keys,
            "budget": {**keys.get("budget", {}), "trials": trials or _TRIALS, **length},
            "search": {**keys.get("search", {}), "seed": seed},
        }
        lease = start_job(ledger, parse_spec(document, "tune()", folder, settings.data))
    else:
        lease = acquire(ledger, _job_to_resume(jobs, ledger, resume, task, trials))
    console = Console(stderr=True, markup=False, emoji=False, highlight=False) if show else None
    again = f"tune({train.__name__}, resume={lease.job!r})"
    try:
        with live_table(jobs, lease.job, console):
            run_job(ledger, settings, lease, functions=functions, estimate=estimate)
    except KeyboardInterrupt:
        state = jobs.job(lease.job).state
        raise KeyboardInterrupt(f"Job {lease.job} is {state}. Continue with: {again}") from None
    result = Result(jobs.job(lease.job), jobs)
    if console is not None:
        _print_end(console, result.job, again)
    return result


def _print_end(console: Console, job: JobView, again: str) -> None:
    """Print why a job that has not SUCCEEDED stopped, and the call that continues it."""
    if job.state is not JobState.SUCCEEDED:
        why = f": {job.reason}" if job.reason else "."
        console.print(f"Job {job.id} ({job.name}) is {job.state}{why}", soft_wrap=True)
    if job.state is JobState.PAUSED:
        console.print(f"Continue with: {again}", soft_wrap=True)


def _named(train: Callable[..., Any]) -> tuple[str, Path, dict[str, Callable[..., Any]]]:
    """Return a function's name for the workers, its module's folder, and the functions to send by value."""
    name = f"{getattr(train, '__module__', '')}:{getattr(train, '__qualname__', '')}"
    if not is_function(name):
        raise InputError(
            f"{train!r} has no name that workers can import. Define the function with def at module level."
        )
    _refuse_import(train.__module__)
    if name.startswith(f"{ENTERED}:"):
        return name, Path.cwd(), {name: train}
    path = Path(inspect.getfile(sys.modules[train.__module__]))
    levels = train.__module__.count(".") + (path.name == "__init__.py")
    return name, path.absolute().parents[levels], {}


def _refuse_import(module: str) -> None:
    """Raise InputError if a script is being imported: each worker that imports it would start a job of its own."""
    importing = getattr(getattr(sys.modules.get(module), "__spec__", None), "_initializing", False)
    if importing or module == "__mp_main__":  # the script, in a process that multiprocessing has spawned
        raise InputError(
            f"tune() was called while {module} is being imported. Other processes import that file too, and each "
            'would start a job of its own. Put the call under `if __name__ == "__main__":`.'
        )


def _job_to_resume(jobs: Jobs, ledger: Ledger, wanted: str, task: str, trials: int | None) -> str:
    """Return the id of the newest job with this id or name, extended to so many trials.

    Raises:
        NotFoundError: No job has that id or name.
        ConflictError: It tunes another function, has more trials, or cannot be extended.
        SpecError: The search spaces do not have so many configurations.
    """
    for job in ledger.overviews.jobs():
        if wanted in {job.id, job.name}:
            if job.spec["task"] != task:
                raise ConflictError(f"Job {job.id} ({job.name}) tunes {job.spec['task']}, not {task}.")
            before = job.spec["budget"]["trials"]
            if trials is not None and trials < before:
                raise ConflictError(
                    f"Job {job.id} ({job.name}) has {before} trials per arm, and trials={trials} is fewer. Give a "
                    "larger number to extend it, or leave `trials` out to resume it as it is."
                )
            if trials is not None and trials > before:
                jobs.extend(job.id, trials)
            return job.id
    raise NotFoundError(f"There is no job {wanted!r}. `anon-tune jobs` lists them.")


def check_settings(settings: Settings) -> None:
    """Check the settings that a job and its projection need, before a job is created.

    Raises:
        DependencyError: A setting cannot be used; the message names it.
        InputError: RAY_ADDRESS is not an address.
    """
    settings.make_home()
    check_uri(settings.tracking_uri)
    if settings.ray_address is not None:
        check_cluster(settings.ray_address)


def start_job(ledger: Ledger, spec: JobSpec) -> Lease:
    """Store a job with its current search spaces and acquire its lease, in one transaction."""
    from anon_tune.workers.queue.holder import LEASE_SECONDS, this_process

    return submission.start_job(ledger, spec, this_process(), LEASE_SECONDS)


def acquire(ledger: Ledger, job_id: str, waiting: Callable[[str], None] = lambda message: None) -> Lease:
    """Acquire a job's lease, and wait if a process that died still holds it; `waiting` gets a message once.

    Raises:
        LeaseHeldError: The holder is alive: it renewed the lease while this waited.
        NotFoundError: No such job.
        TransitionError: The job has ended.
    """
    from anon_tune.workers.queue.holder import LEASE_SECONDS, this_process

    holder = this_process()
    seen = None
    while True:
        try:
            with ledger.transaction() as transaction:
                acquired = transaction.leases.acquire(job_id, holder, LEASE_SECONDS)
                transaction.audit.record(LOCAL, AuditAction.RESUME, job=job_id, note=f"in {holder}")
            return acquired
        except LeaseHeldError:
            lease = ledger.jobs.get(job_id).lease
            if lease is not None and seen is not None and lease.heartbeat > seen:
                raise
            if lease is not None and seen is None:
                seen = lease.heartbeat
                waiting(f"Checking whether {lease.holder} still works on it: {LEASE_SECONDS:.0f} s at most.")
            time.sleep(_POLL_SECONDS)


def work(ledger: Ledger, settings: Settings, jobs: int, stop: threading.Event) -> None:
    """Work on the queue until `stop` is set, with up to `jobs` jobs at once.

    Raises:
        DependencyError: RAY_ADDRESS is that of a cluster of which this machine is not a node, or no longer one.
    """
    from anon_tune.workers.driver.cluster import stopping_with_node
    from anon_tune.workers.queue.daemon import Daemon
    from anon_tune.workers.queue.holder import this_process
    from anon_tune.workers.queue.processes import JobProcesses

    command = [sys.executable, "-m", "anon_tune", "job-process", str(os.getpid())]
    processes = JobProcesses(command, settings.keep_ready)
    address = settings.ray_address
    node = stopping_with_node(address, stop) if address else contextlib.nullcontext()
    daemon = Daemon(ledger, processes, this_process(), jobs, on_cluster=address is not None)
    with node, _notifying(ledger, settings):
        daemon.run(stop)


def work_on_assigned_job(settings: Settings, daemon: int) -> None:
    """Load the modules that a job needs, wait for the daemon to send a lease on standard input, and run its job.

    Raises:
        AnonTuneError: As `run_job`.
    """
    from anon_tune.workers.driver import cluster
    from anon_tune.workers.queue.processes import is_assigned, receive_lease

    with contextlib.ExitStack() as ready:
        if not is_assigned():
            ready.enter_context(cluster.ahead(settings))
            cluster.load()
        lease = receive_lease()
        if lease is None:
            return
        folder = settings.job_folder(lease.job)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "worker.log").open("ab") as output:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(output.fileno(), stream.fileno())
        # The daemon counts the deaths of its processes, and kills what one that hangs has started.
        run_job(
            open_ledger(settings, DATABASE_SECONDS),
            settings,
            lease,
            daemon,
            on_hang=lambda: os.kill(os.getpid(), signal.SIGKILL),
        )


def run_job(
    ledger: Ledger,
    settings: Settings,
    lease: Lease,
    parent: int | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    on_hang: Callable[[], None] = lambda: None,
    estimate: bool = False,
) -> JobRecord:
    """Work on a job until it is at rest, while another process writes it to MLflow; return it without its trials.

    Args:
        ledger: Ledger that stores the job.
        settings: Settings, which name its folders.
        lease: Lease on the job.
        parent: Process id of the daemon that started this process; its end counts as an interrupt.
        functions: User functions that no module defines, by the names that the job gives them.
        on_hang: See `workers.driver.job.drive`.
        estimate: Stop after the probe, and leave the job PAUSED with the estimate as its reason. MLflow gets the job
            when it is resumed.

    Raises:
        LeaseLostError: Another process took the job over.
        DatabaseUnavailableError: The database was away for longer than the lease. The job can be resumed.
        DependencyError: The ledger can no longer be written, or Ray has stopped under a daemon's job. The job can be
            resumed.
        KeyboardInterrupt: After an interrupt, once the job is PAUSED, or QUEUED if a daemon started it.
    """
    from anon_tune.workers.driver.job import drive

    LedgerJobs(ledger, settings).remove_leftovers()
    left = JobState.PAUSED if parent is None else JobState.QUEUED
    projecting = contextlib.nullcontext() if estimate else _projector(settings, lease)
    seen = _seen(ledger, settings, lease) if parent is None else contextlib.nullcontext()
    with _log_file(settings.job_folder(lease.job)), seen, projecting:
        drive(
            ledger,
            lease,
            settings,
            lambda: parent in {None, os.getppid()},
            left,
            functions,
            on_hang,
            estimate,
        )
        job = retried(lambda _: ledger.jobs.get(lease.job), after(lease.seconds))
        if job.state is JobState.SUCCEEDED:
            with contextlib.suppress(ConflictError):  # Anon may have no finalist
                path = settings.job_folder(job.id) / "best.yaml"
                path.write_text(export.render(export.document(job), "yaml"), encoding="utf-8")
    return retried(lambda _: ledger.jobs.get(lease.job), after(lease.seconds))


def project(ledger: Ledger, settings: Settings) -> Projector:
    """Return a projector to the MLflow of the settings, with the charts and descriptions of `dashboards`."""
    from anon_tune.dashboards.charts import ChartData, charts_page
    from anon_tune.dashboards.markdown import description

    def files(job: JobRecord) -> Mapping[str, str]:
        found = {"charts.html": charts_page(ChartData.of_record(job))}
        with contextlib.suppress(ConflictError):
            found["best.yaml"] = export.render(export.document(job), "yaml")
        return found

    def describe(overview: Overview) -> str:
        return description(overview.job, overview.arms, settings.job_page(overview.job.id))

    def weights(job: JobRecord) -> Path:
        return settings.job_folder(job.id) / "best.pt"

    settings.make_home()
    return Projector(ledger, settings.tracking_uri, settings.artifacts, files, describe, weights)


@contextlib.contextmanager
def _seen(ledger: Ledger, settings: Settings, lease: Lease) -> Iterator[None]:
    """List this process as a worker, and send notices to webhooks, as the daemon does for the processes it starts."""
    from anon_tune.workers.driver.periodic import repeating
    from anon_tune.workers.queue.machine import describe_worker
    from anon_tune.workers.queue.presence import Presence

    on_cluster = settings.ray_address is not None
    presence = Presence(ledger, partial(describe_worker, lease.holder, WorkerKind.RUN, on_cluster=on_cluster))
    presence.keep()
    try:
        with _notifying(ledger, settings), repeating(presence.keep, _HEARTBEAT_POLL_SECONDS, "presence"):
            yield
    finally:
        presence.end()


def _notifying(ledger: Ledger, settings: Settings) -> AbstractContextManager[None]:
    """Send notices to webhooks until the end of the block, if there are any."""
    if not settings.webhooks:
        return contextlib.nullcontext()
    from anon_tune.webhook import sending  # and a client for HTTP

    return sending(ledger, settings)


@contextlib.contextmanager
def _projector(settings: Settings, lease: Lease) -> Iterator[None]:
    """Run the projection of a job in another process, until the work under this lease ends.

    An interrupt while MLflow catches up only ends the wait: the projection goes on, and the job's result is not lost.
    """
    log = settings.job_folder(lease.job) / "mlflow.log"
    command = [sys.executable, "-m", "anon_tune", "mlflow", "sync", lease.job]
    command += ["--follow", str(os.getpid()), "--token", str(lease.token)]
    with log.open("ab") as output:
        # Of its own session: Ctrl-C is for the driver; what it leaves behind is still to be projected.
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    except AnonTuneError:
        process.terminate()  # the next holder of the job projects it
        raise
    finally:
        try:
            process.wait(_PROJECTION_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        except KeyboardInterrupt:
            logging.getLogger(__name__).info("interrupted while MLflow catches up, which goes on")
        if process.returncode:
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
