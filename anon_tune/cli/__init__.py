"""Command line `anon-tune`: jobs of the ledger on this machine or, with `--server`, those of a service.

Exit codes are those of `errors`; in addition 1 stands for a job that FAILED, and 130 for an interrupt.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from rich.text import Text

from anon_tune import __version__
from anon_tune.cli import administration, answers, browser, contents, deletion, jobs, machine
from anon_tune.cli.place import chosen
from anon_tune.cli.printing import err, out, silence
from anon_tune.errors import AnonTuneError, DependencyError, InputError, SpecError
from anon_tune.reachable import without_passwords

__all__ = ["app", "main"]

_HIDDEN = "Hidden"
_COMMANDS: dict[str, list[Callable[..., Any]]] = {
    "Run jobs": [machine.run, jobs.submit, machine.worker, machine.up, machine.serve, machine.doctor],
    "Jobs": [
        jobs.jobs,
        jobs.show,
        browser.open,
        jobs.watch,
        jobs.logs,
        jobs.trials,
        jobs.pause,
        jobs.resume,
        jobs.cancel,
        jobs.extend,
        jobs.workers,
        deletion.delete,
    ],
    "Answers": [answers.best, answers.export, answers.report, answers.suggest],
    "What can be tuned": [contents.tasks, contents.spaces],
    "Administration": [administration.audit],
    _HIDDEN: [machine.job_process],
}
_LONG_RUNNING = {
    "run",
    "worker",
    "job-process",
    "up",
    "serve",
    "watch",
    "delete",
    "logs",
    "trials",
    "report",
    "mlflow",
}
"""Commands that may run for long, by their first word; the others end before garbage collection pays off."""

_GROUPS = {
    "token": administration.token_app,
    "db": administration.db_app,
    "mlflow": administration.mlflow_app,
}


def _print_version(asked: bool) -> None:
    if asked:
        out.print(f"anon-tune {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Address of the service to use. Default: ANON_TUNE_SERVER, else this machine."
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand in _LONG_RUNNING:
        gc.enable()  # see __main__
    chosen.begin(server, context.with_resource(contextlib.ExitStack()))


def _application() -> typer.Typer:
    made = typer.Typer(
        name="anon-tune",
        help="Which optimizer, and how adaptive, for my model? Tuning for the Anon optimizer.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=True,
        pretty_exceptions_enable=False,
    )
    made.callback()(_options)
    for panel, commands in _COMMANDS.items():
        for command in commands:
            name = command.__name__.replace("_", "-")
            made.command(name, rich_help_panel=panel, hidden=panel == _HIDDEN)(command)
    for name, group in _GROUPS.items():
        made.add_typer(group, name=name, rich_help_panel="Administration")
    return made


app = _application()


def main() -> None:
    """Run the command line. An error of anon_tune becomes one message and its exit code."""
    try:
        _check_place()
        try:
            app(standalone_mode=True)
        finally:
            sys.stdout.flush()
    except SpecError as error:
        _fail(
            error,
            Text.assemble(("error", "red"), f" in {error.source}:"),
            *map("  {}".format, error.problems),
        )
    except AnonTuneError as error:
        _fail(error, Text.assemble(("error", "red"), f" {without_passwords(str(error))}"))
    except BrokenPipeError:
        _end_unheard()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer exits with 1, which means a FAILED job
            _end_unheard()
        raise
    except OSError as error:
        if _takes_all(sys.stdout):
            raise
        problem = DependencyError(
            f"The output cannot be written ({error.strerror}). The command may have been processed: check before "
            "you repeat it."
        )
        _fail(problem, Text.assemble(("error", "red"), f" {problem}"))


def _check_place() -> None:
    try:
        "".join(sys.argv[1:]).encode()
    except UnicodeEncodeError:
        raise InputError(
            "An argument is not valid text in this locale's encoding. Set LC_ALL=C.UTF-8 to use UTF-8."
        ) from None
    try:
        Path.cwd()
    except FileNotFoundError:
        raise DependencyError(
            "The current folder no longer exists. Change to another folder and try again."
        ) from None


def _takes_all(stream: TextIO) -> bool:
    """Return whether a stream accepts the output that is still buffered."""
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _end_unheard() -> NoReturn:
    """Exit with 0 although the reader has closed the pipe."""
    silence(sys.stdout)
    sys.exit(0)


def _fail(error: AnonTuneError, *lines: Text | str) -> NoReturn:
    """Print an error and exit with its code, even if the streams cannot be written."""
    with contextlib.suppress(OSError):
        for line in lines:
            err.print(line, soft_wrap=True)
    for stream in (sys.stdout, sys.stderr):
        if not _takes_all(stream):
            silence(stream)
    sys.exit(error.exit_code)
