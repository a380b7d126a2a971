"""The command line, `anon-tune`: on the jobs of the ledger here, or with `--server` on those of a service.

Exit codes are those of `errors`; besides, 1 is also a job that FAILED, and 130 an interrupt.
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
from anon_tune.cli import administration, answers, contents, jobs, machine
from anon_tune.cli.place import chosen
from anon_tune.cli.printing import err, out, silence
from anon_tune.errors import AnonTuneError, DependencyError, InputError, SpecError

__all__ = ["app", "main"]

_HIDDEN = "Hidden"
_COMMANDS: dict[str, list[Callable[..., Any]]] = {
    "Run jobs": [machine.run, jobs.submit, machine.worker, machine.up, machine.serve, machine.doctor],
    "Jobs": [
        jobs.jobs,
        jobs.show,
        jobs.watch,
        jobs.logs,
        jobs.trials,
        jobs.pause,
        jobs.resume,
        jobs.cancel,
        jobs.extend,
    ],
    "Answers": [answers.best, answers.export, answers.suggest],
    "What can be tuned": [contents.tasks, contents.spaces],
    _HIDDEN: [machine.job_process],
}
_LONG_RUNNING = {"run", "worker", "job-process", "up", "serve", "watch", "logs", "trials", "mlflow"}
"""Commands that may run for long, by their first word: the others end before there is any garbage to collect."""

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
            metavar="URL", help="A service whose jobs to act on. Default: ANON_TUNE_SERVER, else here."
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
    """Run the command line; errors of anon_tune become one message and their exit code."""
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
        _fail(error, Text.assemble(("error", "red"), f" {error}"))
    except BrokenPipeError:
        _end_unheard()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer makes 1 of it, which a job that failed has
            _end_unheard()
        raise
    except OSError as error:
        if _takes_all(sys.stdout):
            raise
        problem = DependencyError(
            f"The output cannot be written ({error.strerror}). The command may have done the rest: look before you "
            "call it again."
        )
        _fail(problem, Text.assemble(("error", "red"), f" {problem}"))


def _check_place() -> None:
    try:
        "".join(sys.argv[1:]).encode()
    except UnicodeEncodeError:
        raise InputError(
            "An argument is no text in this locale's encoding. UTF-8 has all: LC_ALL=C.UTF-8"
        ) from None
    try:
        Path.cwd()
    except FileNotFoundError:
        raise DependencyError(
            "The folder you are in is gone. Go to one that is there, and try again."
        ) from None


def _takes_all(stream: TextIO) -> bool:
    """Whether what was written to a stream, and could not be passed on before, can be now."""
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _end_unheard() -> NoReturn:
    """End as if all had been read: whoever reads has had enough."""
    silence(sys.stdout)
    sys.exit(0)


def _fail(error: AnonTuneError, *lines: Text | str) -> NoReturn:
    """Say what went wrong and end, whether or not anything can be written."""
    with contextlib.suppress(OSError):
        for line in lines:
            err.print(line, soft_wrap=True)
    for stream in (sys.stdout, sys.stderr):
        if not _takes_all(stream):
            silence(stream)
    sys.exit(error.exit_code)
