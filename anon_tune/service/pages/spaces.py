"""The page of search spaces and tasks: what a job may name."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from anon_tune import catalogue
from anon_tune.dashboards.pages import render
from anon_tune.records import Role
from anon_tune.search_spaces import Space, load_space, space_names, space_text
from anon_tune.sentences import short
from anon_tune.service.pages.session import PageReader
from anon_tune.spec.editing import flow
from anon_tune.spec.form import space_for

__all__ = ["router"]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Argument:
    """An argument of a space's optimizer.

    Attributes:
        values: Its range or value.
        scale: "log", "linear", "choices" or "fixed".
    """

    name: str
    values: str
    scale: str
    meaning: str
    condition: str


@dataclass(frozen=True)
class SpaceEntry:
    """A search space.

    Attributes:
        arguments: Those that it searches or fixes.
        defaults: The others with their values, in words.
        text: Its file.
        start: The points that are tried first, in words.
        use: Address of a job with it; None for the space of a baseline, which every job has.
    """

    name: str
    space: Space
    arguments: tuple[Argument, ...]
    defaults: str
    start: tuple[str, ...]
    text: str
    use: str | None


@dataclass(frozen=True)
class Entry:
    """A data set or a model of a task.

    Attributes:
        options: Its options with their defaults, in words.
        yaml: How a job file names it.
        use: Address of a job with it.
    """

    name: str
    summary: str
    family: str
    options: str
    yaml: str
    use: str


@dataclass(frozen=True)
class TaskPart:
    """A task with its data sets and models."""

    name: str
    task: catalogue.TaskEntry
    metrics: str
    data: tuple[Entry, ...]
    models: tuple[Entry, ...]


@router.get("/spaces", response_class=HTMLResponse)
def spaces(user: PageReader) -> str:
    """Show the search spaces that come with anon_tune, and the tasks with their data and models."""
    return render(
        "spaces.html",
        user=user,
        page="Spaces",
        spaces=_spaces(),
        tasks=_tasks(),
        may_submit=user.user.has(Role.SUBMIT),
    )


@functools.cache
def _spaces() -> tuple[SpaceEntry, ...]:
    return tuple(
        map(_space, sorted(space_names(), key=lambda name: (load_space(name).optimizer != "anon", name)))
    )


def _space(name: str) -> SpaceEntry:
    space = load_space(name)
    use = f"/submit?{urlencode({**_task_of(name), 'space': name})}" if space.optimizer == "anon" else None
    return SpaceEntry(
        name=name,
        space=space,
        arguments=tuple(_arguments(space)),
        defaults=_defaults(space),
        start=tuple(_start(space)),
        text=space_text(name),
        use=use,
    )


def _task_of(space: str) -> dict[str, str]:
    """Return a task and model whose space it is; without one any model may have it."""
    found = [
        {"task": task, "model": model}
        for task, entry in catalogue.TASKS.items()
        for model in entry.models
        if space_for(task, model) == space
    ]
    return found[0] if found and space != "default" else {}


def _arguments(space: Space) -> Iterator[Argument]:
    for name, meaning in space.meanings.items():
        domain = space.parameters.get(name)
        if domain is not None:
            scale = "choices" if not hasattr(domain, "log") else "log" if domain.log else "linear"
            values = domain.text.removesuffix(", log")
            yield Argument(name, values, scale, meaning, domain.condition)
        elif name in space.fixed:
            yield Argument(name, short(space.constant(name)), "fixed", meaning, "")


def _defaults(space: Space) -> str:
    return ", ".join(
        f"{name} {short(space.constant(name))}"
        for name in space.meanings
        if space.is_constant(name) and name not in space.fixed
    )


def _start(space: Space) -> Iterator[str]:
    for family, points in space.start.items():
        where = "" if len(space.start) == 1 else f"{family}: "
        yield from (
            f"{where}{', '.join(f'{key} {short(value)}' for key, value in p.items())}" for p in points
        )


@functools.cache
def _tasks() -> tuple[TaskPart, ...]:
    return tuple(_task(name, task) for name, task in catalogue.TASKS.items())


def _task(name: str, task: catalogue.TaskEntry) -> TaskPart:
    def entry(of: str, chosen: str, found: catalogue.DatasetEntry | catalogue.ModelEntry) -> Entry:
        return Entry(
            chosen,
            found.summary,
            found.family if isinstance(found, catalogue.ModelEntry) else "",
            ", ".join(
                f"{key} {value}" if value != "" else f"{key} (required)"
                for key, value in found.options.items()
            ),
            f"{of}: {flow(_named(chosen, found.options))}",
            f"/submit?{urlencode({'task': name, of: chosen})}",
        )

    return TaskPart(
        name,
        task,
        ", ".join(f"{metric} ({mode})" for metric, mode in task.metrics.items()),
        tuple(entry("data", each, catalogue.DATASETS[each]) for each in task.datasets),
        tuple(entry("model", each, catalogue.MODELS[each]) for each in task.models),
    )


def _named(name: str, options: Mapping[str, int | float | str]) -> object:
    """Return how a job names an entry: with its options, of which the required ones are to be filled in."""
    given = {key: key.upper() if value == "" else value for key, value in options.items()}
    return {"name": name, **given} if given else name
