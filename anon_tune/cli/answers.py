"""Commands that give what jobs have found: configurations, and a gamma for an architecture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from anon_tune import catalogue, console
from anon_tune.cli.options import AsJson, JobId
from anon_tune.cli.place import open_backend
from anon_tune.cli.printing import err, out, print_json
from anon_tune.errors import InputError
from anon_tune.export import FORMATS, form_of

__all__ = ["best", "export", "suggest"]


def best(job_id: JobId, as_json: AsJson = False) -> None:
    """Show the best trial of each arm so far."""
    job = open_backend().job(job_id)
    if as_json:
        print_json({arm: seen.best and seen.best.model_dump(mode="json") for arm, seen in job.arms.items()})
    else:
        out.print(console.best_table(job.arms))


def export(
    job_id: JobId,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help=f"{', '.join(FORMATS)}. Default: what the file's name ends in, else yaml."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A file; default, and '-': standard output.")
    ] = None,
    arm: Annotated[str, typer.Option(help="Another arm's winner.")] = "anon",
) -> None:
    """Export a job's best configuration, with its evidence."""
    if output == Path("-"):
        output = None
    text = open_backend().export(job_id, form or form_of(output or Path()), arm)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror}). Choose another -o.") from None
    err.print(f"Wrote {output}", soft_wrap=True)


def suggest(
    family: Annotated[str, typer.Option(help=f"{', '.join(catalogue.FAMILIES)}.")],
    as_json: AsJson = False,
) -> None:
    """Suggest a gamma for an architecture family, from finished jobs or the published guidance."""
    advice = open_backend().advice(family)
    if as_json:
        print_json(advice)
        return
    gamma = advice["gamma"]
    if gamma is None:
        out.print(f"Nothing is known of gamma for {family} yet: search the whole range.")
    else:
        out.print(
            f"gamma {gamma['mean']:.2f} for {family}  ({gamma['low']:.2f} to {gamma['high']:.2f}, from "
            f"{advice['source']})"
        )
    for item in advice["jobs"]:
        out.print(
            f"  job {item['job']} ({item['name']}): recommends {item['best']:.2f}; its best lies between "
            f"{item['low']:.2f} and {item['high']:.2f} (90%)"
        )
    if advice["published"]:
        out.print(f"  published (arXiv 2605.02317): {advice['published']}")
