"""The command line, `anon-tune`: on the jobs of the ledger here, or with `--server` on those of a service.

Exit codes are those of `errors`; besides, 1 is also a job that FAILED, and 130 an interrupt.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from anon_tune.cli import administration, answers, contents, jobs, machine
from anon_tune.cli.place import chosen
from anon_tune.cli.printing import err
from anon_tune.errors import AnonTuneError, DependencyError, InputError, SpecError

__all__ = ["app", "main"]

_UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a full or broken output answers."""

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
_GROUPS = {
    "token": administration.token_app,
    "db": administration.db_app,
    "mlflow": administration.mlflow_app,
}


def _options(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A service whose jobs to act on. Default: ANON_TUNE_SERVER, else here."
        ),
    ] = None,
) -> None:
    chosen.server = server
    chosen.at_exit = context.with_resource(contextlib.ExitStack())


def _application(asked: str | None = None) -> typer.Typer:
    """All commands; or the one that is asked for by its name, as Typer looks through the parameters of each."""
    made = typer.Typer(
        name="anon-tune",
        help="Which optimizer, and how adaptive, for my model? Tuning for the Anon optimizer.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
    )
    made.callback()(_options)
    commands = {
        command.__name__.replace("_", "-"): (command, panel)
        for panel, several in _COMMANDS.items()
        for command in several
    }
    groups = _GROUPS
    if asked in commands:
        commands, groups = {asked: commands[asked]}, {}
    elif asked in groups:
        commands, groups = {}, {asked: groups[asked]}
    for name, (command, panel) in commands.items():
        made.command(name, rich_help_panel=panel, hidden=panel == _HIDDEN)(command)
    for name, group in groups.items():
        made.add_typer(group, name=name, rich_help_panel="Administration")
    return made


app = _application()


def main() -> None:
    """Run the command line; errors of anon_tune become one message and their exit code."""
    try:
        _check_arguments()
        _application(next(iter(sys.argv[1:]), None))(standalone_mode=True)
    except SpecError as error:
        _fail(
            error,
            Text.assemble(("error", "red"), f" in {error.source}:"),
            *map("  {}".format, error.problems),
        )
    except AnonTuneError as error:
        _fail(error, Text.assemble(("error", "red"), f" {error}"))
    except OSError as error:
        if error.errno not in _UNWRITTEN or error.filename is not None:
            raise
        problem = DependencyError(
            f"The output cannot be written ({error.strerror}). The command may have done the rest: look before you "
            "call it again."
        )
        _fail(problem, Text.assemble(("error", "red"), f" {problem}"))


def _check_arguments() -> None:
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        raise InputError(
            "An argument is no text in this locale's encoding. Write it in UTF-8, and set LC_ALL=C.UTF-8 if need be."
        ) from None


def _fail(error: AnonTuneError, *lines: Text | str) -> NoReturn:
    """Say what went wrong and end, whether or not anything can be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is sys.stderr:
                for line in lines:
                    err.print(line, soft_wrap=True)
            stream.flush()
        except OSError:  # Python would try again at its end, and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(error.exit_code)
