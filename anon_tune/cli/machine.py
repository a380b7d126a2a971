"""Commands for this machine: run jobs, workers and services, and check the setup."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from anon_tune import console
from anon_tune.cli.options import AsJson, Overrides
from anon_tune.cli.place import settings_here
from anon_tune.cli.printing import err, out, places, print_json, print_log, print_plan, print_report
from anon_tune.errors import DatabaseUnavailableError, DependencyError, InputError
from anon_tune.reachable import without_passwords
from anon_tune.records import JobState

__all__ = ["doctor", "job_process", "run", "serve", "up", "worker"]


def run(
    spec: Annotated[Path | None, typer.Argument(help="A job file (YAML); see examples/.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="JOB", help="Continue a job that has stopped.")
    ] = None,
    overrides: Overrides = None,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Only measure the model, print trials and expected time, and pause."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a tuning job in the foreground and print its answer."""
    if (spec is None) == (resume is None):
        raise InputError(
            "Give a job file, or --resume JOB. For example: anon-tune run examples/digits_cnn.yaml"
        )
    if resume is not None and overrides:
        raise InputError("--set only works for a new job. A resumed job keeps its settings.")
    from anon_tune import api
    from anon_tune.display import live_table
    from anon_tune.jobs.ledger import LedgerJobs, open_ledger
    from anon_tune.spec import load_spec

    settings = settings_here("run")
    parsed = load_spec(spec, overrides or (), settings.data) if spec is not None else None
    if parsed is not None and not as_json:
        print_plan(parsed)
    api.check_settings(settings)
    ledger = open_ledger(settings, api.DATABASE_SECONDS)
    jobs = LedgerJobs(ledger, settings)
    lease = api.start_job(ledger, parsed) if parsed else api.acquire(ledger, str(resume), err.print)
    job_id = lease.job
    if not as_json:
        err.print(Text.assemble("Job ", (job_id, "bold"), ". Ctrl-C pauses it; nothing is lost."))
    try:
        with live_table(jobs, job_id, None if as_json else err):
            api.run_job(ledger, settings, lease, on_hang=partial(_end_hung, job_id), estimate=estimate)
    except KeyboardInterrupt:
        if ledger.jobs.get(job_id).state is JobState.PAUSED:
            with contextlib.suppress(OSError):  # the terminal may be closed
                err.print(f"Paused. Continue with: anon-tune run --resume {job_id}")
        raise
    job = jobs.job(job_id)
    if as_json:
        where, look = places(settings, job)
        print_json({**job.model_dump(mode="json"), "export": where, "mlflow_command": look})
    else:
        print_report(job)
    is_measured = estimate and job.state is JobState.PAUSED and job.probe is not None
    if job.state is not JobState.SUCCEEDED and not is_measured:
        print_log(settings, job_id)
        sys.exit(1)


def _end_hung(job_id: str) -> None:
    """Kill this process, whose main thread hangs."""
    err.print(
        f"The process of job {job_id} hangs and was killed; see its job.log. Nothing is lost: resume the job."
    )
    os.kill(os.getpid(), signal.SIGKILL)


def worker(
    at_once: Annotated[
        int, typer.Option("--jobs", min=1, help="Number of jobs at once; each uses all CPUs of this machine.")
    ] = 1,
) -> None:
    """Run queued jobs on this machine until Ctrl-C or SIGTERM, which queues them again."""
    from anon_tune import api
    from anon_tune.jobs.ledger import open_ledger
    from anon_tune.logs import log_to_stderr

    settings = settings_here("worker")
    api.check_settings(settings)
    ledger = open_ledger(settings, api.DATABASE_SECONDS)
    stop = _stop_event()
    err.print(f"Waiting for jobs, {at_once} at once. Ctrl-C queues running jobs again; nothing is lost.")
    log_to_stderr()
    api.work(ledger, settings, at_once, stop)


def job_process(daemon: Annotated[int, typer.Argument(help="Process id of the worker.")]) -> None:
    """Run the job that a worker assigns on standard input."""
    from anon_tune import api
    from anon_tune.workers.queue.processes import DATABASE_AWAY

    try:
        api.work_on_assigned_job(settings_here("job-process"), daemon)
    except DatabaseUnavailableError as error:
        err.print(without_passwords(str(error)), soft_wrap=True)
        sys.exit(DATABASE_AWAY)


def up(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the service; 0 chooses a free one.")
    ] = 8000,
    mlflow_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of MLflow's pages.")] = 5000,
    at_once: Annotated[int, typer.Option("--jobs", min=1, help="Number of jobs at once.")] = 1,
) -> None:
    """Run a service, a worker and MLflow's pages for this machine, until Ctrl-C."""
    from anon_tune import api
    from anon_tune.jobs.ledger import open_ledger
    from anon_tune.stack import run_stack

    settings = settings_here("up")
    api.check_settings(settings)
    with contextlib.closing(open_ledger(settings)) as ledger:
        run_stack(
            ledger,
            settings,
            port,
            mlflow_port,
            at_once,
            _stop_event(),
            lambda line: err.print(line, soft_wrap=True),
        )


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines need tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000,
) -> None:
    """Serve jobs over HTTP until Ctrl-C or SIGTERM. Start workers separately (anon-tune worker)."""
    from anon_tune import api
    from anon_tune.jobs.ledger import open_ledger
    from anon_tune.logs import log_to_stderr
    from anon_tune.service import server

    settings = settings_here("serve")
    api.check_settings(settings)
    ledger = open_ledger(settings, server.DATABASE_SECONDS)
    log_to_stderr()
    server.serve(ledger, settings, host, port, lambda url: err.print(f"Serving at {url}", soft_wrap=True))


def doctor(as_json: AsJson = False) -> None:
    """Check that everything a job needs is available, and how to fix what is not."""
    from anon_tune.doctor import Health, examine

    findings = []
    for finding in examine(settings_here("doctor")):
        findings.append(finding)
        if not as_json:
            out.print(
                console.finding_line(finding.what, finding.health, finding.found, finding.advice),
                soft_wrap=True,
            )
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    if any(finding.health is Health.FAILED for finding in findings):
        sys.exit(DependencyError.exit_code)


def _stop_event() -> threading.Event:
    """Return an event that Ctrl-C, SIGTERM and the end of the terminal (SIGHUP) set from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: stop.set())
    return stop
