"""The command line, `anon-tune`: on the jobs of the ledger here, or with `--server` on those of a service.

Exit codes are those of `errors`; besides, 1 is also a job that FAILED, and 130 an interrupt.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.text import Text

from anon_tune.cli import administration, answers, contents, jobs, machine
from anon_tune.cli.place import chosen
from anon_tune.cli.printing import err
from anon_tune.errors import AnonTuneError, SpecError

__all__ = ["app", "main"]

_INTERRUPTED = 128 + signal.SIGINT
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
        _application(next(iter(sys.argv[1:]), None))(standalone_mode=True)
    except SpecError as error:
        err.print(Text.assemble(("error", "red"), f" in {error.source}:"), soft_wrap=True)
        for problem in error.problems:
            err.print(f"  {problem}", soft_wrap=True)
        sys.exit(error.exit_code)
    except AnonTuneError as error:
        err.print(Text.assemble(("error", "red"), f" {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
