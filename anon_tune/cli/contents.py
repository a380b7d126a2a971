"""Commands that list tasks, data sets, models and search spaces."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from anon_tune import catalogue, console
from anon_tune.cli.options import AsJson
from anon_tune.cli.printing import out, print_json

__all__ = ["spaces", "tasks"]


def tasks(as_json: AsJson = False) -> None:
    """List tasks, data sets and models."""
    if as_json:
        print_json(
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
        out.print(Text.assemble((name, "bold"), f"  {task.summary} Metrics: {metrics}"))
        entries: list[tuple[str, str, catalogue.DatasetEntry | catalogue.ModelEntry]] = [
            *(("data", data, catalogue.DATASETS[data]) for data in task.datasets),
            *(("model", model, catalogue.MODELS[model]) for model in task.models),
        ]
        for kind, entry_name, entry in entries:
            options = ", ".join(f"{option} {value}".strip() for option, value in entry.options.items())
            out.print(
                f"  {kind:6} {entry_name:10} {entry.summary}{f' Options: {options}' if options else ''}"
            )


def spaces(
    space: Annotated[
        str | None, typer.Argument(metavar="SPACE", help="Name or .yaml file of one space to show in full.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the search spaces with their ranges, or show one in full."""
    from anon_tune import search_spaces

    names = search_spaces.space_names() if space is None else [space]
    found = {name: search_spaces.load_space(name) for name in names}
    if as_json:
        print_json({name: found[name].model_dump(mode="json") for name in names})
    elif space is None:
        out.print(console.spaces_view(found))
    else:
        out.print(console.space_view(space, found[space]))
