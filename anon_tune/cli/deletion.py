"""The command that deletes jobs, one or all that ended long ago; on this machine or at a service."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from anon_tune import console
from anon_tune.cli.options import AsJson
from anon_tune.cli.place import open_jobs
from anon_tune.cli.printing import err, out, print_json
from anon_tune.errors import AnonTuneError, ConflictError, InputError, NotFoundError
from anon_tune.jobs.interface import Jobs
from anon_tune.records import ENDED
from anon_tune.sentences import about_deletion
from anon_tune.views import DeletionView, JobSummary

__all__ = ["delete"]


def delete(
    job_id: Annotated[
        str | None, typer.Argument(metavar="JOB", help="Id of a job; `anon-tune jobs` lists them.")
    ] = None,
    ended_before: Annotated[
        str | None,
        typer.Option(
            "--ended-before", metavar="AGE", help="Delete all jobs that ended so long ago, e.g. 90d."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the jobs that --ended-before would delete.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete a job that is not RUNNING, or all jobs that ended long ago, with all their trials and files."""
    if (job_id is None) == (ended_before is None):
        raise InputError(
            "Give a job, or --ended-before AGE. For example: anon-tune delete --ended-before 90d --dry-run"
        )
    if job_id is not None and dry_run:
        raise InputError(
            "--dry-run lists the jobs of --ended-before. Without --yes, a single job is asked about."
        )
    place = open_jobs()
    if job_id is not None:
        if not yes:
            job = place.job(job_id)
            _ask(about_deletion(job.id, job.name, job.state, job.made))
        _print([place.delete(job_id)], as_json, one=True)
    elif ended_before is not None:
        _delete_old(place, ended_before, dry_run, yes, as_json)


def _delete_old(place: Jobs, age: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete the jobs that ended longer ago than `age`; those that cannot be deleted are named, and left."""
    found = _ended_before(place, age)
    if dry_run:
        if as_json:
            print_json([job.model_dump(mode="json") for job in found])
        elif found:
            out.print(console.jobs_table(found))
        else:
            out.print(f"No job ended more than {age} ago.")
        return
    if found and not yes:
        _ask(
            f"Delete {len(found)} jobs that ended more than {age} ago for good, with all their trials and files? "
            "They will no longer count as evidence for advice. Their runs in MLflow stay. --dry-run lists them."
        )
    deleted: list[DeletionView] = []
    failure: AnonTuneError | None = None
    for job in found:
        try:
            deleted.append(place.delete(job.id, only_ended=True))
        except (
            ConflictError,
            InputError,
            NotFoundError,
        ) as error:  # extended, another user's, deleted meanwhile
            err.print(str(error), soft_wrap=True)
            failure = error
    _print(deleted, as_json)
    if failure is not None:
        sys.exit(failure.exit_code)


def _ended_before(place: Jobs, age: str) -> list[JobSummary]:
    """Return the jobs that ended longer ago than `age`, newest first. Raises InputError."""
    from anon_tune.spec import seconds

    try:
        length = datetime.timedelta(seconds=seconds(age))
    except ValueError as error:
        raise InputError(f"--ended-before: {error}") from None
    limit = datetime.datetime.now(datetime.UTC) - length
    return [
        job
        for job in place.jobs()
        if job.state in ENDED and job.finished is not None and job.finished < limit
    ]


def _ask(question: str) -> None:
    """Ask before anything is deleted. Raises InputError if there is nobody to ask."""
    if not sys.stdin.isatty():
        raise InputError("Nothing was deleted: there is no terminal to ask at. Add --yes.")
    if not typer.confirm(question, err=True):
        err.print("Nothing was deleted.")
        raise typer.Exit(1)


def _print(deleted: Sequence[DeletionView], as_json: bool, *, one: bool = False) -> None:
    if as_json:
        values = [each.model_dump(mode="json") for each in deleted]
        print_json(values[0] if one else values)
        return
    for each in deleted:
        run = f" Its MLflow run {each.mlflow_run_id} stays." if each.mlflow_run_id else ""
        code = " and its code" if each.code else ""
        out.print(f"Job {each.id} is deleted, with {each.trials} trials{code}.{run}", soft_wrap=True)
    if not deleted:
        out.print("No job was deleted.")
