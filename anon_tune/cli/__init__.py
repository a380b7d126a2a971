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
}
_GROUPS = {
    "token": administration.token_app,
    "db": administration.db_app,
    "mlflow": administration.mlflow_app,
}

app = typer.Typer(
    name="anon-tune",
    help="Which optimizer, and how adaptive, for my model? Tuning for the Anon optimizer.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name, rich_help_panel="Administration")
app.command(hidden=True)(machine.job_process)


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
    chosen.server = server
    chosen.at_exit = context.with_resource(contextlib.ExitStack())


def main() -> None:
    """Run the command line; errors of anon_tune become one message and their exit code."""
    try:
        app(standalone_mode=True)
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
