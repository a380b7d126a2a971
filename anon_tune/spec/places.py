"""Paths of the search spaces and data that a job names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anon_tune.documents import unknown
from anon_tune.errors import NotFoundError, SpecError
from anon_tune.search_spaces import Space, load_space, space_names
from anon_tune.settings import Settings

__all__ = ["SPACE_FILE", "found", "named_space", "served", "space_files"]

SPACE_FILE = (".yaml", ".yml")


def space_files(document: Mapping[str, Any]) -> list[str]:
    """Return the file names of the search spaces in a job document."""
    arms, spaces = document.get("arms"), document.get("spaces")
    named = [
        document.get("space"),
        *(arms if isinstance(arms, list | tuple) else ()),
        *(spaces.values() if isinstance(spaces, Mapping) else ()),
    ]
    return sorted({name for name in named if isinstance(name, str) and name.endswith(SPACE_FILE)})


def found(option: str, named: str, context: Mapping[str, Any]) -> str:
    """Return the absolute path of data beside the job file, or in the data folder. Raises ValueError."""
    roots = [context.get("folder", Path()), *filter(None, [Settings.from_environment().data])]
    path = Path(named).expanduser()
    if path.is_absolute():
        return str(path)
    for root in roots:
        if (root / path).exists():
            return str((root / path).absolute())
    looked = " and ".join(str(root.absolute()) for root in roots)
    raise ValueError(f"there is no {option} {named!r} in {looked}; set ANON_TUNE_DATA to your data folder")


def served(option: str, named: str) -> str:
    """Return the absolute path of a service's data, which must be in its data folder. Raises ValueError."""
    root = Settings.from_environment().data
    if root is None:
        raise ValueError(
            f"this service has no data folder; {option} needs ANON_TUNE_DATA to be set for the service"
        )
    try:
        path = (root / named).resolve()
        inside = path.is_relative_to(root.resolve()) and path.exists()
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise ValueError(f"there is no {option} {named!r} in this service's data folder")
    return str(path)


def named_space(name: str, context: Mapping[str, Any]) -> tuple[str, Space]:
    """Return a space's name or absolute path, and the space. Raises ValueError, as validators do."""
    given = context.get("spaces", {})
    if name in given:
        return name, given[name]
    if context.get("remote"):
        if name.endswith(SPACE_FILE) or name not in space_names():
            raise ValueError(f"{unknown('space', name, space_names())}; send your own file in `spaces`")
    elif name.endswith(SPACE_FILE):
        name = str(context.get("folder", Path()) / Path(name).expanduser())
    return name, _space_from(name)


def _space_from(name: str) -> Space:
    """Return a space by name or path. Raises ValueError, as validators do, with its problems."""
    try:
        return load_space(name)
    except SpecError as error:
        raise ValueError("; ".join(error.problems)) from None
    except NotFoundError as error:
        raise ValueError(str(error)) from None
