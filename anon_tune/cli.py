"""The command line, `anon-tune`.

Exit codes are those of `errors`; besides, 1 is also a job that FAILED, and 130 an interrupt.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from anon_tune import api, catalogue, console, export, search_spaces, views
from anon_tune.advice import prior
from anon_tune.documents import unknown
from anon_tune.errors import AnonTuneError, InputError, SpecError
from anon_tune.ledger import Ledger
from anon_tune.records import JobRecord, JobState
from anon_tune.settings import Settings
from anon_tune.spec import load_spec, seconds

__all__ = ["app", "main"]

app = typer.Typer(
    name="anon-tune",
    help="Which optimizer, and how adaptive, for my model? Tuning for the Anon optimizer.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
mlflow_app = typer.Typer(help="The projection of jobs to MLflow.", no_args_is_help=True)
app.add_typer(mlflow_app, name="mlflow")

# A pipe has no width; 80 columns would cut the tables.
# Names, paths and messages of others are printed as they are: nothing in them is markup or an emoji's code.
_out = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
_err = Console(stderr=True, markup=False, emoji=False, highlight=False)
_LIVE_SECONDS = 0.5
_INTERRUPTED = 128 + signal.SIGINT

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. budget.trials=8."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id; `anon-tune jobs` lists them.")]


def main() -> None:
    """Run the command line; errors of anon_tune become one message and their exit code."""
    try:
        app(standalone_mode=True)
    except SpecError as error:
        _err.print(Text.assemble(("error", "red"), f" in {error.source}:"), soft_wrap=True)
        for problem in error.problems:
            _err.print(f"  {problem}", soft_wrap=True)
        sys.exit(error.exit_code)
    except AnonTuneError as error:
        _err.print(Text.assemble(("error", "red"), f" {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


@app.command()
def run(
    spec: Annotated[Path | None, typer.Argument(help="A job file (YAML); see examples/.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="JOB", help="Go on with a job that stopped.")] = None,
    overrides: Overrides = None,
    token: Annotated[
        int | None, typer.Option(hidden=True, help="Of the lease that a worker claimed.")
    ] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="That worker's process.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a tuning job here, in the foreground, and print its answer."""
    if (spec is None) == (resume is None):
        raise InputError(
            "Give a job file, or --resume JOB. For example: anon-tune run examples/digits_cnn.yaml"
        )
    if resume is not None and overrides:
        raise InputError("--set is for a new job; the one to resume keeps what it was submitted with.")
    parsed = load_spec(spec, overrides or ()) if spec is not None else None
    settings = Settings()
    api.check_settings(settings)
    ledger = api.open_ledger(settings)
    # Not queued: a worker would take it between these two lines.
    job_id = api.create_job(ledger, parsed, queued=False).id if parsed is not None else str(resume)
    lease = api.acquire(ledger, job_id, _err.print) if token is None else api.given_lease(job_id, token)
    if not as_json:
        _err.print(Text.assemble("Job ", (job_id, "bold"), ". Ctrl-C pauses it; nothing is lost."))
    try:
        with _live(settings, job_id, show=not as_json and _err.is_terminal):
            job = api.run_job(ledger, settings, lease, parent)
    except KeyboardInterrupt:
        if ledger.job(job_id).state is JobState.PAUSED:
            _err.print(f"Paused. Go on with: anon-tune run --resume {job_id}")
        raise
    if as_json:
        _print_json({**views.job_view(job), **_places(settings, job)})
    else:
        _print_report(settings, job)
    if job.state is not JobState.SUCCEEDED:
        _print_log(settings, job)
        sys.exit(1)


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="A job file (YAML); see examples/.")],
    overrides: Overrides = None,
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Workers take the highest first.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Queue a tuning job for a worker, and print its id."""
    parsed = load_spec(spec, overrides or ())
    settings = Settings()
    api.check_settings(settings)
    job = api.create_job(api.open_ledger(settings), parsed, priority)
    if as_json:
        _print_json({"id": job.id, "state": job.state.value, "priority": job.priority})
    else:
        _out.print(job.id)


@app.command()
def worker(
    at_once: Annotated[
        int, typer.Option("--jobs", min=1, help="Jobs at once; each uses all CPUs of this machine.")
    ] = 1,
) -> None:
    """Work on queued jobs, here, until Ctrl-C or SIGTERM; then they are queued again."""
    settings = Settings()
    api.check_settings(settings)
    ledger = api.open_ledger(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _err.print(f"Waiting for jobs, {at_once} at once. Ctrl-C queues them again; nothing is lost.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    api.work(ledger, settings, at_once, stop)


@app.command()
def pause(job_id: JobId, as_json: AsJson = False) -> None:
    """Have a job rest: its running trials finish, and no new ones start."""
    state = (ledger := _ledger()).pause(job_id)
    _print_change(ledger, job_id, state, "is PAUSED once its running trials have ended", as_json)


@app.command()
def resume(job_id: JobId, as_json: AsJson = False) -> None:
    """Queue a paused job again, for a worker."""
    state = (ledger := _ledger()).resume(job_id)
    _print_change(ledger, job_id, state, "", as_json)


@app.command()
def cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """End a job now; what it has done is kept."""
    state = (ledger := _ledger()).cancel(job_id)
    api.remove_leftovers(ledger, Settings())
    _print_change(ledger, job_id, state, "is CANCELLED within seconds", as_json)


@app.command()
def extend(
    job_id: JobId,
    trials: Annotated[
        int | None, typer.Option(help="The new budget.trials, per arm; those made so far count.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="The new budget.time, e.g. 3h; what is spent so far counts.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a job more trials or time; one that has SUCCEEDED is queued again."""
    if trials is None and time is None:
        raise InputError(f"Give --trials or --time. For example: anon-tune extend {job_id} --trials 40")
    try:
        length = None if time is None else seconds(time)
    except ValueError as error:
        raise InputError(f"--time: {error}") from None
    state = api.extend(ledger := _ledger(), job_id, trials, length)
    _print_change(ledger, job_id, state, "hears of it within seconds", as_json)


@app.command()
def logs(
    job_id: JobId,
    trial: Annotated[str | None, typer.Option(metavar="ID", help="One trial's attempts only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what became of trials that did not end well, with their last output, and the end of the job's log."""
    settings = Settings()
    attempts = api.open_ledger(settings).attempts(job_id, trial)
    if trial is None:
        attempts = [attempt for attempt in attempts if attempt.outcome in {"LOST", "FAILED", "DIVERGED"}]
    path = settings.job_folder(job_id) / "job.log"
    end = path.read_text(encoding="utf-8", errors="replace").splitlines()[-50:] if path.exists() else None
    if as_json:
        _print_json({"attempts": [views.attempt_view(attempt) for attempt in attempts], "job_log": end})
        return
    _out.print(console.attempts_view(attempts), soft_wrap=True)
    if trial is None and end is not None:
        _out.print(f"End of {path}:", soft_wrap=True)
        for line in end:
            _out.print(f"  | {line}", soft_wrap=True)


@app.command()
def jobs(as_json: AsJson = False) -> None:
    """List all jobs, newest first."""
    found = _ledger().jobs()
    if as_json:
        _print_json(
            [
                {"id": j.id, "name": j.name, "state": j.state.value, "phase": j.phase.value,
                 "priority": j.priority, "requested": j.requested.value if j.requested else None,
                 "gamma": (j.result or {}).get("gamma"), "created": j.created.isoformat()}
                for j in found
            ]
        )  # fmt: skip
    elif found:
        _out.print(console.jobs_table(found))
    else:
        _out.print("No jobs yet. Start one: anon-tune run examples/digits_cnn.yaml")


@app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job: its arms, gamma and verdict, or why there is none and how to go on."""
    settings = Settings()
    job = api.open_ledger(settings).job(job_id, trials=True)
    if as_json:
        _print_json(views.job_view(job))
        return
    _print_report(settings, job)
    if job.result is None:
        _out.print(console.best_table(job))
    if job.state is not JobState.SUCCEEDED:
        _print_log(settings, job)


@app.command()
def trials(job_id: JobId, as_json: AsJson = False) -> None:
    """List a job's trials."""
    found = _ledger().job(job_id, trials=True).trials
    if as_json:
        _print_json([views.trial_view(trial) for trial in found])
    else:
        _out.print(console.trials_table(found))


@app.command()
def best(job_id: JobId, as_json: AsJson = False) -> None:
    """Show the best trial of each arm so far."""
    job = _ledger().job(job_id, trials=True)
    if as_json:
        _print_json({arm: views.arm_view(job, arm)["best"] for arm in job.spec["arms"]})
    else:
        _out.print(console.best_table(job))


@app.command("export")
def export_command(
    job_id: JobId,
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(export.FORMATS)}.")] = "yaml",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A file; default: standard output.")
    ] = None,
    arm: Annotated[str, typer.Option(help="Another arm's winner.")] = "anon",
) -> None:
    """Export a job's best configuration, with its evidence."""
    text = export.render(export.document(_ledger().job(job_id), arm), form)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}). Choose another -o.") from None
    _err.print(f"Wrote {output}", soft_wrap=True)


@app.command()
def suggest(
    family: Annotated[str, typer.Option(help=f"{', '.join(catalogue.FAMILIES)}.")],
    as_json: AsJson = False,
) -> None:
    """Suggest a gamma for an architecture family, from finished jobs or the published guidance."""
    if family not in catalogue.FAMILIES:
        raise InputError(f"--family: {unknown('family', family, catalogue.FAMILIES)}")
    advice = prior.suggest(family, _ledger().jobs())
    if as_json:
        _print_json(advice)
        return
    gamma = advice["gamma"]
    if gamma is None:
        _out.print(f"Nothing is known of gamma for {family} yet: search the whole range.")
    else:
        _out.print(
            f"gamma {gamma['mean']:.2f} for {family}  ({gamma['low']:.2f} to {gamma['high']:.2f}, from "
            f"{advice['source']})"
        )
    for item in advice["jobs"]:
        _out.print(
            f"  job {item['job']} ({item['name']}): chose {item['best']:.2f}; within one standard error of it: "
            f"{item['low']:.2f} to {item['high']:.2f}"
        )
    if advice["published"]:
        _out.print(f"  published (arXiv 2605.02317): {advice['published']}")


@app.command()
def spaces(
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", help="A name or a .yaml file: that one in full.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the search spaces with their ranges, or show one in full."""
    names = search_spaces.space_names() if space is None else [space]
    found = {name: search_spaces.load_space(name) for name in names}
    if as_json:
        _print_json({name: found[name].model_dump(mode="json") for name in names})
    elif space is None:
        _out.print(console.spaces_view(found))
    else:
        _out.print(console.space_view(space, found[space]))


@app.command()
def tasks(as_json: AsJson = False) -> None:
    """List tasks, data sets and models."""
    if as_json:
        _print_json(
            {
                name: {
                    "summary": task.summary,
                    "metrics": dict(task.metrics),
                    "data": {
                        data: {"summary": catalogue.DATASETS[data].summary,
                               "options": dict(catalogue.DATASETS[data].options)}
                        for data in task.datasets
                    },
                    "models": {
                        model: {"summary": catalogue.MODELS[model].summary, "family": catalogue.MODELS[model].family,
                                "options": dict(catalogue.MODELS[model].options)}
                        for model in task.models
                    },
                }
                for name, task in catalogue.TASKS.items()
            }
        )  # fmt: skip
        return
    for name, task in catalogue.TASKS.items():
        metrics = ", ".join(f"{metric} ({mode})" for metric, mode in task.metrics.items())
        _out.print(Text.assemble((name, "bold"), f"  {task.summary} Metrics: {metrics}"))
        entries: list[tuple[str, str, catalogue.DatasetEntry | catalogue.ModelEntry]] = [
            *(("data", data, catalogue.DATASETS[data]) for data in task.datasets),
            *(("model", model, catalogue.MODELS[model]) for model in task.models),
        ]
        for kind, entry_name, entry in entries:
            options = ", ".join(f"{option} {value}".strip() for option, value in entry.options.items())
            _out.print(
                f"  {kind:6} {entry_name:10} {entry.summary}{f' Options: {options}' if options else ''}"
            )


@mlflow_app.command("sync")
def mlflow_sync(
    job_id: JobId,
    follow: Annotated[
        int | None,
        typer.Option(metavar="PID", help="Go on while the job runs and this parent process lives."),
    ] = None,
    token: Annotated[int, typer.Option(help="Of the lease that is followed.", hidden=True)] = 0,
) -> None:
    """Write what is missing of a job to MLflow; writing it again changes nothing."""
    if follow is not None:
        os.nice(10)  # training comes first, and so does its start
    settings = Settings()
    ledger = api.open_ledger(settings)
    ledger.job(job_id)
    projector = api.project(ledger, settings)
    if follow is None:
        written = projector.sync(job_id)
        _out.print(f"{written} trials of job {job_id} written to {settings.tracking_uri}")
        return
    projector.follow(job_id, token, until=lambda: os.getppid() != follow)


def _ledger() -> Ledger:
    return api.open_ledger(Settings())


def _print_change(ledger: Ledger, job_id: str, state: JobState, running: str, as_json: bool) -> None:
    """What a request has made of a job; `running` is said of one that is held."""
    if as_json:
        job = ledger.job(job_id)
        requested = job.requested.value if job.requested else None
        _print_json({"id": job_id, "state": state.value, "requested": requested})
    elif state is JobState.RUNNING:
        _out.print(f"Job {job_id} {running}.")
    elif state is JobState.QUEUED:
        _out.print(f"Job {job_id} is QUEUED; a worker takes it (anon-tune worker).")
    else:
        _out.print(f"Job {job_id} is {state}.")


def _print_json(value: Any) -> None:
    # Not through Rich, which wraps lines.
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _print_report(settings: Settings, job: JobRecord) -> None:
    places = _places(settings, job)
    _out.print(console.report(job, places["export"], places["mlflow_command"]), soft_wrap=True)


def _print_log(settings: Settings, job: JobRecord) -> None:
    log = settings.job_folder(job.id) / "job.log"
    if log.exists():
        _err.print(f"Log: {log}", soft_wrap=True)


def _places(settings: Settings, job: JobRecord) -> dict[str, Any]:
    exported = settings.job_folder(job.id) / "best.yaml"
    if any(trial.mlflow_run is None for trial in job.trials):
        look = f"anon-tune mlflow sync {job.id}  (MLflow was not reached, or lags behind)"
    elif settings.mlflow_tracking_uri is None:
        look = f"{_program('mlflow')} ui --backend-store-uri {settings.tracking_uri}"
    else:
        look = f"open {settings.tracking_uri}"
    return {"export": str(exported) if exported.exists() else None, "mlflow_command": look}


def _program(name: str) -> str:
    """How to call a program of this environment: by name if that finds it, else by its path."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).samefile(beside):
        return name
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


class _live:  # noqa: N801 - used as a function
    """The live table, drawn from the ledger by a thread, on standard error."""

    def __init__(self, settings: Settings, job_id: str, *, show: bool) -> None:
        self._settings, self._job_id, self._show = settings, job_id, show
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="live", daemon=True)

    def __enter__(self) -> None:
        if self._show:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._show:
            self._thread.join()

    def _draw(self) -> None:
        ledger = Ledger.open(self._settings.ledger_url)
        started = time.monotonic()
        before = sum(trial.is_finished for trial in ledger.job(self._job_id, trials=True).trials)
        with Live(console=_err, transient=True, auto_refresh=False) as live:
            while not self._done.wait(_LIVE_SECONDS):
                try:
                    job = ledger.job(self._job_id, trials=True)
                except DBAPIError:
                    continue  # the table may miss a beat; the driver says what ails the database
                live.update(console.live_view(job, time.monotonic() - started, before), refresh=True)
        ledger.close()
