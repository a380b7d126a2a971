"""What commands print, and where."""

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
    """Have what is still written to a stream go nowhere: Python would try again as it ends, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Console(Console):
    """One that whoever listens may leave: what is written to the standard error is then for nobody."""

    def on_broken_pipe(self) -> None:
        if not self.stderr:
            raise
        self.quiet = True
        silence(sys.stderr)


# A pipe has no width; 80 columns would cut the tables.
# Names, paths and messages of others are printed as they are: nothing in them is markup or an emoji's code.
out = _Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
err = _Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_change(change: ChangeView, running: str, as_json: bool) -> None:
    """What a request has made of a job; `running` is said of one that is held."""
    if as_json:
        print_json(change.model_dump(mode="json"))
    elif change.state is JobState.RUNNING:
        out.print(f"Job {change.id} {running}.")
    elif change.state is JobState.QUEUED:
        out.print(f"Job {change.id} is QUEUED; a worker takes it (anon-tune worker).")
    elif change.state is JobState.PAUSED:
        out.print(f"Job {change.id} is PAUSED. Go on with it: anon-tune resume {change.id}")
    else:
        out.print(f"Job {change.id} is {change.state}.")


def print_json(value: Any) -> None:
    """One value, not through Rich, which wraps lines."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_plan(spec: JobSpec) -> None:
    """What a job costs, where each arm is searched several times."""
    for line in about_plan(spec):
        err.print(line, soft_wrap=True)


def print_report(job: JobView) -> None:
    """A job, its result or why there is none, and where to look further."""
    where, look = None, None
    if server_address() is None:
        where, look = places(chosen.settings, job)
    elif "anon" in job.winners:
        where = f"anon-tune export {job.id} -o best.yaml"
    out.print(console.report(job, where, look), soft_wrap=True)


def print_log(settings: Settings, job_id: str) -> None:
    """Where the job's log is, if it is here."""
    log = settings.job_folder(job_id) / "job.log"
    if log.exists():
        err.print(f"Log: {log}", soft_wrap=True)


def places(settings: Settings, job: JobView) -> tuple[str | None, str]:
    """Where a job's best configuration is, and how to look at the job in MLflow."""
    exported = settings.job_folder(job.id) / "best.yaml"
    if job.projected < job.made:
        look = f"anon-tune mlflow sync {job.id}  (MLflow was not reached, or lags behind)"
    elif settings.mlflow_tracking_uri is None:
        look = (
            f"{shlex.quote(_program('mlflow'))} ui --backend-store-uri {shlex.quote(settings.tracking_uri)}"
        )
    else:
        look = f"open {settings.tracking_uri}"
    return str(exported) if exported.exists() else None, look


def _program(name: str) -> str:
    """How to call a program of this environment: by name if that finds it, else by its path."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).samefile(beside):
        return name
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
