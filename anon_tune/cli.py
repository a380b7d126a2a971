"""The command line, `anon-tune`: on the jobs of the ledger here, or with `--server` on those of a service.

Exit codes are those of `errors`; besides, 1 is also a job that FAILED, and 130 an interrupt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from anon_tune import catalogue, console, export
from anon_tune.backend import Backend
from anon_tune.errors import AnonTuneError, DependencyError, InputError, SpecError
from anon_tune.records import JobState, Role
from anon_tune.settings import Settings
from anon_tune.views import ChangeView, JobView

if TYPE_CHECKING:
    from anon_tune.local import LocalBackend

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
token_app = typer.Typer(help="Who may use a service, and for what.", no_args_is_help=True)
app.add_typer(token_app, name="token")
db_app = typer.Typer(help="The ledger's database.", no_args_is_help=True)
app.add_typer(db_app, name="db")

# A pipe has no width; 80 columns would cut the tables.
# Names, paths and messages of others are printed as they are: nothing in them is markup or an emoji's code.
_out = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False)
_err = Console(stderr=True, markup=False, emoji=False, highlight=False)
_FOLLOW_SECONDS = 1.0
_INTERRUPTED = 128 + signal.SIGINT

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. budget.trials=8."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id; `anon-tune jobs` lists them.")]


@dataclass
class _Chosen:
    """What was given before the command."""

    server: str | None = None
    at_exit: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


_chosen = _Chosen()


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


@app.callback()
def _options(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A service whose jobs to act on. Default: ANON_TUNE_SERVER, else here."
        ),
    ] = None,
) -> None:
    _chosen.server = server
    _chosen.at_exit = context.with_resource(contextlib.ExitStack())


@app.command()
def run(
    spec: Annotated[Path | None, typer.Argument(help="A job file (YAML); see examples/.")] = None,
    resume: Annotated[str | None, typer.Option(metavar="JOB", help="Go on with a job that stopped.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Run a tuning job here, in the foreground, and print its answer."""
    if (spec is None) == (resume is None):
        raise InputError(
            "Give a job file, or --resume JOB. For example: anon-tune run examples/digits_cnn.yaml"
        )
    if resume is not None and overrides:
        raise InputError("--set is for a new job; the one to resume keeps what it was submitted with.")
    from anon_tune import api
    from anon_tune.display import live_table
    from anon_tune.local import LocalBackend, open_ledger
    from anon_tune.spec import load_spec

    settings = _settings_here("run")
    parsed = load_spec(spec, overrides or ()) if spec is not None else None
    api.check_settings(settings)
    ledger = open_ledger(settings)
    backend = LocalBackend(ledger, settings)
    # Not queued: a worker would take it between these two lines.
    job_id = api.create_job(ledger, parsed).id if parsed is not None else str(resume)
    lease = api.acquire(ledger, job_id, _err.print)
    if not as_json:
        _err.print(Text.assemble("Job ", (job_id, "bold"), ". Ctrl-C pauses it; nothing is lost."))
    try:
        with live_table(backend, job_id, _err if not as_json and _err.is_terminal else None):
            api.run_job(ledger, settings, lease, on_hang=partial(_end_hung, job_id))
    except KeyboardInterrupt:
        if ledger.job(job_id).state is JobState.PAUSED:
            _err.print(f"Paused. Go on with: anon-tune run --resume {job_id}")
        raise
    job = backend.job(job_id)
    if as_json:
        where, look = _places(settings, job)
        _print_json({**job.model_dump(mode="json"), "export": where, "mlflow_command": look})
    else:
        _print_report(job)
    if job.state is not JobState.SUCCEEDED:
        _print_log(settings, job_id)
        sys.exit(1)


def _end_hung(job_id: str) -> None:
    """End this process, whose main thread does not."""
    _err.print(
        f"The process of job {job_id} hangs; its job.log has what it was doing. Nothing is lost: resume it."
    )
    os.kill(os.getpid(), signal.SIGKILL)


@app.command()
def submit(
    spec: Annotated[Path, typer.Argument(help="A job file (YAML); see examples/.")],
    overrides: Overrides = None,
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Workers take the highest first.")] = 0,
    code: Annotated[
        Path | None,
        typer.Option(
            "--with-code", metavar="DIR", help="Modules that go along, to a service that allows it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Queue a tuning job for a worker, and print its id."""
    from anon_tune.spec import read_job_file

    job_file, backend = read_job_file(spec, overrides or ()), _backend()
    if _server() is None:
        from anon_tune import api

        api.check_settings(Settings())
    job = backend.submit(job_file, priority, code=code)
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
    from anon_tune import api
    from anon_tune.local import open_ledger
    from anon_tune.logs import log_to_stderr

    settings = _settings_here("worker")
    api.check_settings(settings)
    ledger = open_ledger(settings)
    stop = _stopped()
    _err.print(f"Waiting for jobs, {at_once} at once. Ctrl-C queues them again; nothing is lost.")
    log_to_stderr()
    api.work(ledger, settings, at_once, stop)


@app.command("job-process", hidden=True)
def job_process(daemon: Annotated[int, typer.Argument(help="The worker's process.")]) -> None:
    """Work on the job that a worker names on the standard input."""
    from anon_tune import api

    api.work_as_told(_settings_here("job-process"), daemon)


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond loopback it takes tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
) -> None:
    """Serve jobs over HTTP, until Ctrl-C or SIGTERM; workers run elsewhere (anon-tune worker)."""
    from anon_tune import api
    from anon_tune.local import open_ledger
    from anon_tune.logs import log_to_stderr
    from anon_tune.service import server

    settings = _settings_here("serve")
    api.check_settings(settings)
    ledger = open_ledger(settings)
    log_to_stderr()
    server.serve(ledger, settings, host, port, lambda url: _err.print(f"Serving at {url}", soft_wrap=True))


@app.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the service; 0: any that is free.")] = 8000,
    mlflow_port: Annotated[int, typer.Option(min=0, max=65535, help="Of MLflow's pages.")] = 5000,
    at_once: Annotated[int, typer.Option("--jobs", min=1, help="Jobs at once.")] = 1,
) -> None:
    """Run service, worker and MLflow's pages here, for this machine alone, until Ctrl-C."""
    from anon_tune import api
    from anon_tune.local import open_ledger
    from anon_tune.stack import run_stack

    settings = _settings_here("up")
    api.check_settings(settings)
    open_ledger(settings).close()
    run_stack(settings, port, mlflow_port, at_once, _stopped(), lambda line: _err.print(line, soft_wrap=True))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look whether everything that a job needs is there, and say what to do where it is not."""
    from anon_tune.doctor import Health, examine

    findings = []
    for finding in examine(Settings()):
        findings.append(finding)
        if not as_json:
            _out.print(
                console.finding_line(finding.what, finding.health, finding.found, finding.advice),
                soft_wrap=True,
            )
    if as_json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    if any(finding.health is Health.FAILED for finding in findings):
        sys.exit(DependencyError.exit_code)


@app.command()
def pause(job_id: JobId, as_json: AsJson = False) -> None:
    """Have a job rest: its running trials finish, and no new ones start."""
    _print_change(_backend().pause(job_id), "is PAUSED once its running trials have ended", as_json)


@app.command()
def resume(job_id: JobId, as_json: AsJson = False) -> None:
    """Queue a paused job again, for a worker."""
    _print_change(_backend().resume(job_id), "", as_json)


@app.command()
def cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """End a job now; what it has done is kept."""
    _print_change(_backend().cancel(job_id), "is CANCELLED within seconds", as_json)


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
    from anon_tune.spec import seconds

    try:
        length = None if time is None else seconds(time)
    except ValueError as error:
        raise InputError(f"--time: {error}") from None
    _print_change(_backend().extend(job_id, trials, length), "hears of it within seconds", as_json)


@app.command()
def watch(job_id: JobId, as_json: AsJson = False) -> None:
    """Watch a job until it has ended or is PAUSED, then show it; with --json, one line each time it has changed.

    Exit code 1 where it has not SUCCEEDED.
    """
    backend = _backend()
    job = backend.job(job_id)
    if as_json:
        for job in backend.watch(job_id):
            sys.stdout.write(f"{job.model_dump_json()}\n")
            sys.stdout.flush()
    else:
        began, before = time.monotonic(), job.done
        with Live(console=_err, transient=True, auto_refresh=False) as live:
            for job in backend.watch(job_id):
                live.update(console.live_view(job, time.monotonic() - began, before), refresh=True)
        _print_report(job)
    if job.state is not JobState.SUCCEEDED:
        sys.exit(1)


@app.command()
def logs(
    job_id: JobId,
    trial: Annotated[str | None, typer.Option(metavar="ID", help="One trial's attempts only.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with the job's log as it grows.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what became of trials that did not end well, with their last output, and the end of the job's log."""
    if follow and (trial is not None or as_json):
        raise InputError("--follow shows the job's log; give it without --trial and --json.")
    backend = _backend()
    found = backend.logs(job_id, trial)
    if as_json:
        _print_json(found.model_dump(mode="json"))
        return
    _out.print(console.attempts_view(found.attempts), soft_wrap=True)
    if trial is not None:
        return
    if found.job_log is not None:
        _out.print("End of the job's log:", soft_wrap=True)
    ended = not follow
    while True:
        for line in found.job_log or ():
            _out.print(f"  | {line}", soft_wrap=True)
        if ended:
            return
        ended = backend.job(job_id).is_at_rest
        time.sleep(_FOLLOW_SECONDS)  # also after its end, of which the last line tells a moment later
        found = backend.logs(job_id, since=found.lines)


@app.command()
def jobs(as_json: AsJson = False) -> None:
    """List all jobs, newest first."""
    found = _backend().jobs()
    if as_json:
        _print_json([job.model_dump(mode="json") for job in found])
    elif found:
        _out.print(console.jobs_table(found))
    else:
        _out.print("No jobs yet. Start one: anon-tune run examples/digits_cnn.yaml")


@app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job: its arms, gamma and verdict, or why there is none and how to go on."""
    backend = _backend()
    job = backend.job(job_id)
    if as_json:
        _print_json(job.model_dump(mode="json"))
        return
    _print_report(job)
    if job.result is None:
        _out.print(console.best_table(job.arms))
    if job.state is not JobState.SUCCEEDED and _server() is None:
        _print_log(Settings(), job_id)


@app.command()
def trials(job_id: JobId, as_json: AsJson = False) -> None:
    """List a job's trials."""
    found = _backend().trials(job_id)
    if as_json:
        _print_json([trial.model_dump(mode="json") for trial in found])
    else:
        _out.print(console.trials_table(found))


@app.command()
def best(job_id: JobId, as_json: AsJson = False) -> None:
    """Show the best trial of each arm so far."""
    job = _backend().job(job_id)
    if as_json:
        _print_json({arm: seen.best and seen.best.model_dump(mode="json") for arm, seen in job.arms.items()})
    else:
        _out.print(console.best_table(job.arms))


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
    text = _backend().export(job_id, form, arm)
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
    advice = _backend().advice(family)
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
    from anon_tune import search_spaces

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


@token_app.command("create")
def token_create(
    owner: Annotated[
        str, typer.Argument(metavar="NAME", help="Whose it is; jobs submitted with it are theirs.")
    ],
    role: Annotated[
        Role, typer.Option(help="What it allows; each role what those before it do.")
    ] = Role.SUBMIT,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Take the secret, made elsewhere, from standard input.")
    ] = False,
    may_send_code: Annotated[
        bool, typer.Option("--code", help="Jobs submitted with it may bring code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it: it is shown this once."""
    if stdin:
        settings = _settings_here("token create --stdin")
        backend = _local(settings)
        token, _ = backend.create_token(owner, role, sys.stdin.read().strip(), may_send_code=may_send_code)
        _err.print(f"Token {token.id} of {token.owner}, role {token.role}.")
        return
    token, secret = _backend().create_token(owner, role, may_send_code=may_send_code)
    if as_json:
        _print_json({**token.model_dump(mode="json"), "secret": secret})
        return
    _err.print(f"Token {token.id} of {token.owner}, role {token.role}. Keep it; it is not shown again:")
    sys.stdout.write(f"{secret}\n")


@token_app.command("list")
def token_list(as_json: AsJson = False) -> None:
    """List tokens, the oldest first."""
    found = _backend().tokens()
    if as_json:
        _print_json([token.model_dump(mode="json") for token in found])
    elif found:
        _out.print(console.tokens_table(found))
    else:
        _out.print("No tokens yet. Make one: anon-tune token create NAME --role admin")


@token_app.command("revoke")
def token_revoke(
    token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="A token's id.")], as_json: AsJson = False
) -> None:
    """Take a token back, at once and for good."""
    token = _backend().revoke_token(token_id)
    if as_json:
        _print_json(token.model_dump(mode="json"))
    else:
        _out.print(f"Token {token.id} of {token.owner} is revoked.")


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Make the ledger's database, or bring it to this version's schema."""
    from anon_tune.local import open_ledger

    settings = _settings_here("db upgrade")
    open_ledger(settings).close()
    _out.print("The ledger is up to date.")


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
    from anon_tune import api
    from anon_tune.local import open_ledger

    if follow is not None:
        os.nice(19)  # training comes first, whose processes Ray starts at 15, and so does its start
    settings = _settings_here("mlflow sync")
    ledger = open_ledger(settings)
    ledger.job(job_id)
    projector = api.project(ledger, settings)
    if follow is None:
        written = projector.sync(job_id)
        _out.print(f"{written} trials of job {job_id} written to {settings.tracking_uri}")
        return
    projector.follow(job_id, token, until=lambda: os.getppid() != follow)


def _server() -> str | None:
    """Address of the service whose jobs to act on; None: the ledger here has them."""
    return _chosen.server or Settings().server


def _backend() -> Backend:
    """The jobs to act on, wherever they are."""
    settings, server = Settings(), _server()
    if server is None:
        return _local(settings)
    from anon_tune.remote import RemoteBackend

    backend = RemoteBackend(server, settings.token.get_secret_value() if settings.token else None)
    _chosen.at_exit.callback(backend.close)
    return backend


def _local(settings: Settings) -> LocalBackend:
    from anon_tune.local import LocalBackend, open_ledger

    backend = LocalBackend(open_ledger(settings), settings)
    _chosen.at_exit.callback(backend.close)
    return backend


def _settings_here(command: str) -> Settings:
    """The settings, for a command that works on this machine alone."""
    if _chosen.server is not None:
        raise InputError(f"`anon-tune {command}` works here, without --server.")
    return Settings()


def _stopped() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set from now on."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _print_change(change: ChangeView, running: str, as_json: bool) -> None:
    """What a request has made of a job; `running` is said of one that is held."""
    if as_json:
        _print_json(change.model_dump(mode="json"))
    elif change.state is JobState.RUNNING:
        _out.print(f"Job {change.id} {running}.")
    elif change.state is JobState.QUEUED:
        _out.print(f"Job {change.id} is QUEUED; a worker takes it (anon-tune worker).")
    else:
        _out.print(f"Job {change.id} is {change.state}.")


def _print_json(value: Any) -> None:
    # Not through Rich, which wraps lines.
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _print_report(job: JobView) -> None:
    where, look = None, None
    if _server() is None:
        where, look = _places(Settings(), job)
    elif "anon" in job.winners:
        where = f"anon-tune export {job.id} -o best.yaml"
    _out.print(console.report(job, where, look), soft_wrap=True)


def _print_log(settings: Settings, job_id: str) -> None:
    log = settings.job_folder(job_id) / "job.log"
    if log.exists():
        _err.print(f"Log: {log}", soft_wrap=True)


def _places(settings: Settings, job: JobView) -> tuple[str | None, str]:
    """Where a job's best configuration is, and how to look at the job in MLflow."""
    exported = settings.job_folder(job.id) / "best.yaml"
    if job.projected < job.made:
        look = f"anon-tune mlflow sync {job.id}  (MLflow was not reached, or lags behind)"
    elif settings.mlflow_tracking_uri is None:
        look = f"{_program('mlflow')} ui --backend-store-uri {settings.tracking_uri}"
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
