"""Options and arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AsJson", "JobId", "Overrides"]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job file, e.g. budget.trials=8."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job; `anon-tune jobs` lists them.")]
