"""Paths of the search spaces and data that a job names, by where the job comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo

from anon_tune.documents import unknown
from anon_tune.errors import NotFoundError, SpecError
from anon_tune.search_spaces import Space, load_space, space_names
from anon_tune.texts import quoted

__all__ = ["SPACE_FILE", "Origin", "data_path", "named_space", "origin_of", "space_files"]

SPACE_FILE = (".yaml", ".yml")


@dataclass(frozen=True)
class Origin:
    """Origin of a job, the context of its validators: it says where to look for the files that the job names.

    Attributes:
        folder: Folder of the job file, from which paths in it are looked for.
        data_folder: Folder of all data, `Settings.data`; None where there is none.
        remote: Whether it came over the network, and can name only what a service offers.
        stored: Whether it is from the ledger: it was checked before, and its files may have gone.
        spaces: Search spaces that came along, by the file names that the job gives them.
    """

    folder: Path = Path()
    data_folder: Path | None = None
    remote: bool = False
    stored: bool = False
    spaces: Mapping[str, Space] = field(default_factory=dict)


def origin_of(info: ValidationInfo) -> Origin:
    """Return the origin that a validator was given; without one, a job in the current folder."""
    return info.context if isinstance(info.context, Origin) else Origin()


def space_files(document: Mapping[str, Any]) -> list[str]:
    """Return the file names of the search spaces in a job document."""
    arms, spaces = document.get("arms"), document.get("spaces")
    named = [
        document.get("space"),
        *(arms if isinstance(arms, list | tuple) else ()),
        *(spaces.values() if isinstance(spaces, Mapping) else ()),
    ]
    return sorted({name for name in named if isinstance(name, str) and name.endswith(SPACE_FILE)})


def data_path(option: str, named: str, origin: Origin) -> str:
    """Return the absolute path of data: beside the job file or in the folder of all data.

    Raises:
        ValueError: It is not there. Over the network only what is inside the folder of all data is.
    """
    if origin.remote:
        return _served(option, named, origin.data_folder)
    roots = [origin.folder, *filter(None, [origin.data_folder])]
    path = Path(named).expanduser()
    if path.is_absolute():
        return str(path)
    for root in roots:
        if (root / path).exists():
            return str((root / path).absolute())
    looked = " and ".join(str(root.absolute()) for root in roots)
    raise ValueError(
        f"there is no {option} {quoted(named)} in {looked}; set ANON_TUNE_DATA to your data folder"
    )


def _served(option: str, named: str, root: Path | None) -> str:
    """Return the absolute path of a service's data, which must be in its data folder. Raises ValueError."""
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
        raise ValueError(f"there is no {option} {quoted(named)} in this service's data folder")
    return str(path)


def named_space(name: str, origin: Origin) -> tuple[str, Space]:
    """Return a space's name or absolute path, and the space. Raises ValueError, as validators do."""
    if name in origin.spaces:
        return name, origin.spaces[name]
    if origin.remote:
        if name.endswith(SPACE_FILE) or name not in space_names():
            raise ValueError(f"{unknown('space', name, space_names())}; send your own file in `spaces`")
    elif name.endswith(SPACE_FILE):
        name = str(origin.folder / Path(name).expanduser())
    return name, _space_from(name)


def _space_from(name: str) -> Space:
    """Return a space by name or path. Raises ValueError, as validators do, with its problems."""
    try:
        return load_space(name)
    except SpecError as error:
        raise ValueError("; ".join(error.problems)) from None
    except NotFoundError as error:
        raise ValueError(str(error)) from None
