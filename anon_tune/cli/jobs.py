"""Commands that submit, show and control jobs, on this machine or at a service."""

from __future__ import annotations

import sys
import time as clock
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from anon_tune import console
from anon_tune.cli.options import AsJson, JobId, Overrides
from anon_tune.cli.place import chosen, open_jobs, server_address
from anon_tune.cli.printing import err, out, print_change, print_json, print_log, print_plan, print_report
from anon_tune.cli.streaming import stream_csv, stream_json
from anon_tune.display import LatestTrials
from anon_tune.errors import InputError
from anon_tune.jobs.files import write_table
from anon_tune.records import JobState
from anon_tune.views import ReportView, TrialView

__all__ = [
    "cancel",
    "extend",
    "jobs",
    "logs",
    "pause",
    "resume",
    "show",
    "submit",
    "trials",
    "watch",
    "workers",
]

_FOLLOW_SECONDS = 1.0


def submit(
    spec: Annotated[Path, typer.Argument(help="A job file (YAML); see examples/.")],
    overrides: Overrides = None,
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Workers claim the highest first.")] = 0,
    code: Annotated[
        Path | None,
        typer.Option(
            "--with-code", metavar="DIR", help="Folder of modules to send along, if the service allows code."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Queue a tuning job for a worker, and print its id."""
    from anon_tune.spec import read_job_file, stored_spec

    job_file, place = read_job_file(spec, overrides or ()), open_jobs()
    if server_address() is None:
        from anon_tune import api

        api.check_settings(chosen.settings)
    job = place.submit(job_file, priority=priority, code=code)
    if "repeats" in (job_file.document.get("search") or {}):
        print_plan(stored_spec(place.job(job.id).spec))
    if as_json:
        print_json({"id": job.id, "state": job.state.value, "priority": job.priority})
    else:
        out.print(job.id)


def jobs(as_json: AsJson = False) -> None:
    """List all jobs, newest first."""
    found = open_jobs().jobs()
    if as_json:
        print_json([job.model_dump(mode="json") for job in found])
    elif found:
        out.print(console.jobs_table(found))
    else:
        out.print("No jobs yet. Start one: anon-tune run examples/digits_cnn.yaml")


def workers(as_json: AsJson = False) -> None:
    """List the processes that work on jobs, and the jobs that they work on."""
    found = open_jobs().workers()
    if as_json:
        print_json([worker.model_dump(mode="json") for worker in found])
    elif found:
        out.print(console.workers_table(found))
    else:
        out.print("No worker is running. Start one: anon-tune worker")


def show(
    job_id: JobId,
    plot: Annotated[
        bool, typer.Option("--plot", help="Add a plot of the objective over gamma, in characters.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a job: its arms, gamma and verdict. Without an answer: the reason, and how to continue."""
    if plot and as_json:
        raise InputError("Give only one of --plot and --json.")
    place = open_jobs()
    job = place.job(job_id)
    if as_json:
        print_json(job.model_dump(mode="json"))
        return
    print_report(job)
    if job.result is None:
        out.print(console.best_table(job.arms))
    if plot:
        out.print()
        out.print(console.response_view(job, place.list_trials(job_id)), soft_wrap=True)
    if job.state is not JobState.SUCCEEDED and server_address() is None:
        print_log(chosen.settings, job_id)


def trials(
    job_id: JobId,
    reports: Annotated[
        bool, typer.Option("--reports", help="Print the trials' reports (learning curves), as CSV.")
    ] = False,
    trial: Annotated[
        str | None, typer.Option(metavar="ID", help="With --reports: only those of this trial.")
    ] = None,
    as_csv: Annotated[
        bool,
        typer.Option("--csv", help="With --reports: print CSV with a column for each metric (the default)."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write a table to this file instead, .csv or .parquet."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List a job's trials, or their reports; or write them to a CSV or Parquet file."""
    if not reports and (as_csv or trial is not None):
        raise InputError(f"Add --reports to use --csv or --trial: anon-tune trials {job_id} --reports --csv")
    if (output is not None) + as_csv + as_json > 1:
        raise InputError("Give only one of --csv, --json and -o.")
    place = open_jobs()
    if output is not None:
        found = place.reports(job_id, trial) if reports else iter(place.list_trials(job_id))
        write_table(output, (each.row() for each in found), (ReportView if reports else TrialView).columns())
        err.print(f"Wrote {output}", soft_wrap=True)
    elif reports:
        _print_reports(place.reports(job_id, trial), as_json)
    elif as_json:
        print_json([each.model_dump(mode="json") for each in place.list_trials(job_id)])
    else:
        out.print(console.trials_table(place.list_trials(job_id)))


def _print_reports(reports: Iterator[ReportView], as_json: bool) -> None:
    if as_json:
        stream_json(report.model_dump(mode="json") for report in reports)
    else:
        stream_csv((report.row() for report in reports), ReportView.columns())


def watch(job_id: JobId, as_json: AsJson = False) -> None:
    """Watch a job until it has ended or is PAUSED, then show it. With --json, print one line per change.

    The exit code is 1 if the job has not SUCCEEDED.
    """
    from rich.live import Live

    place = open_jobs()
    job = place.job(job_id)
    if as_json:
        for job in place.watch(job_id):
            sys.stdout.write(f"{job.model_dump_json()}\n")
            sys.stdout.flush()
    else:
        began, first, trials = clock.monotonic(), job, LatestTrials(place)
        with Live(console=err, transient=True, auto_refresh=False) as live:
            for job in place.watch(job_id):
                seen = trials.of(job) if err.is_terminal else ()
                view = console.live_view(job, clock.monotonic() - began, first, seen, err.height)
                live.update(view, refresh=True)
        print_report(job)
    if job.state is not JobState.SUCCEEDED:
        sys.exit(1)


def logs(
    job_id: JobId,
    trial: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Show the attempts of this trial, with the last lines that it printed."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines of the job's log as they are written.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show trials that did not end well, with their last output, and the end of the job's log."""
    if follow and (trial is not None or as_json):
        raise InputError("--follow shows the job's log. Use it without --trial and --json.")
    place = open_jobs()
    found = place.logs(job_id, trial)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    out.print(console.attempts_view(found.attempts), soft_wrap=True)
    if trial is not None:
        return
    if found.job_log is not None:
        out.print("End of the job's log:", soft_wrap=True)
    elif not found.attempts:
        err.print(f"There is no log of job {job_id} here: it has not started yet, or ran on another machine.")
    ended = not follow
    while True:
        for line in found.job_log or ():
            out.print(f"  | {line}", soft_wrap=True)
        if ended:
            return
        ended = place.job(job_id).is_at_rest
        clock.sleep(_FOLLOW_SECONDS)  # also after its end: the last line is written a moment later
        found = place.logs(job_id, since=found.lines)


def pause(job_id: JobId, as_json: AsJson = False) -> None:
    """Pause a job: let its running trials finish and start no new ones."""
    print_change(open_jobs().pause(job_id), "will be PAUSED once its running trials have ended", as_json)


def resume(job_id: JobId, as_json: AsJson = False) -> None:
    """Queue a paused job again for a worker."""
    print_change(open_jobs().resume(job_id), "", as_json)


def cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """End a job now; its results so far are kept."""
    print_change(open_jobs().cancel(job_id), "will be CANCELLED within seconds", as_json)


def extend(
    job_id: JobId,
    trials: Annotated[
        int | None, typer.Option(help="The new budget.trials: total search trials per arm.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="The new budget.time, e.g. 3h: total time of work on the job.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="The new total of verdict seeds; the added ones get a test of their own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a job more trials, time or verdict seeds; one that has SUCCEEDED is queued again."""
    if trials is None and time is None and seeds is None:
        raise InputError(
            f"Give --trials, --time or --seeds. For example: anon-tune extend {job_id} --trials 40"
        )
    from anon_tune.spec import stored_spec

    place = open_jobs()
    change = place.extend(job_id, trials, time, seeds)
    print_change(change, "will pick up the new totals within seconds", as_json)
    if trials is not None and not as_json and stored_spec(place.job(job_id).spec).search.stop == "decided":
        out.print("search.stop is decided: a search only runs the added trials if they are expected to help.")
