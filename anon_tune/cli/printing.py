"""Output of the commands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from anon_tune import console
from anon_tune.cli.place import chosen, server_address
from anon_tune.reachable import mlflow_page, without_password
from anon_tune.records import JobState
from anon_tune.sentences import about_plan
from anon_tune.settings import Settings
from anon_tune.views import ChangeView, JobView

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec  # pydantic models of job files: not for commands that only look

__all__ = [
    "err",
    "out",
    "places",
    "print_change",
    "print_json",
    "print_log",
    "print_plan",
    "print_report",
    "silence",
]


def silence(stream: TextIO) -> None:
    """Discard further output to a stream: Python would try to flush it at exit, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Console(Console):
    """Console that discards output to standard error once its reader has closed the pipe."""

    def on_broken_pipe(self) -> None:
        if not self.stderr:
            raise
        self.quiet = True
        silence(sys.stderr)


# A pipe has no width; 80 columns would cut the tables.
# Names, paths and messages are printed as plain text, without markup and emoji codes.
out = _Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
err = _Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_change(change: ChangeView, running: str, as_json: bool) -> None:
    """Print the state of a job after a request; `running` is the text for a RUNNING job."""
    if as_json:
        print_json(change.model_dump(mode="json"))
    elif change.state is JobState.RUNNING:
        out.print(f"Job {change.id} {running}.")
    elif change.state is JobState.QUEUED:
        out.print(f"Job {change.id} is QUEUED for a worker (anon-tune worker).")
    elif change.state is JobState.PAUSED:
        out.print(f"Job {change.id} is PAUSED. Continue it with: anon-tune resume {change.id}")
    else:
        out.print(f"Job {change.id} is {change.state}.")


def print_json(value: Any) -> None:
    """Print a value as JSON, without Rich, which would wrap lines."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_plan(spec: JobSpec) -> None:
    """Print the cost of a job that searches each arm several times."""
    for line in about_plan(spec):
        err.print(line, soft_wrap=True)


def print_report(job: JobView) -> None:
    """Print a job, its result or the reason why it has no result, and the commands for more."""
    where, look = None, None
    if server_address() is None:
        where, look = places(chosen.settings, job)
    elif "anon" in job.winners:
        where = f"anon-tune export {job.id} -o best.yaml"
    out.print(console.report(job, where, look), soft_wrap=True)


def print_log(settings: Settings, job_id: str) -> None:
    """Print the path of the job's log, if it is on this machine."""
    log = settings.job_folder(job_id) / "job.log"
    if log.exists():
        err.print(f"Log: {log}", soft_wrap=True)


def places(settings: Settings, job: JobView) -> tuple[str | None, str]:
    """Return the path of a job's best configuration, and how to open the job in MLflow."""
    exported = settings.job_folder(job.id) / "best.yaml"
    if job.projected < job.made:
        look = f"anon-tune mlflow sync {job.id}  (MLflow was unreachable or lags behind)"
    elif settings.mlflow_tracking_uri is None:
        look = (
            f"{shlex.quote(_program('mlflow'))} ui --backend-store-uri {shlex.quote(settings.tracking_uri)}"
        )
        if job.mlflow_run_id is not None:  # a comment, so that the line can be pasted
            look += f"  # then {mlflow_page('http://127.0.0.1:5000', job.mlflow_run_id)}"
    else:
        page = mlflow_page(settings.tracking_uri, job.mlflow_run_id or "")
        look = f"open {page or without_password(settings.tracking_uri)}"
    return str(exported) if exported.exists() else None, look


def _program(name: str) -> str:
    """Return the command for a program of this environment: its name if PATH finds it, else its path."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).samefile(beside):
        return name
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
