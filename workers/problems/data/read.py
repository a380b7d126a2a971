"""Reading of the catalogue's or the user's data by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from anon_tune.catalogue import DATASETS, Kind, resolve
from anon_tune.documents import is_function, unknown
from anon_tune.errors import InputError
from anon_tune.workers.problems.data.images import Images
from anon_tune.workers.problems.data.surface import Surface
from anon_tune.workers.problems.data.table import Table
from anon_tune.workers.problems.data.text import Text
from anon_tune.workers.problems.data.user_data import user_images, user_table, user_text

__all__ = ["read_images", "read_surface", "read_table", "read_text"]


def read_images(
    name: str,
    options: Mapping[str, Any],
    folder: str | None = None,
    num_workers: int = 0,
    *,
    labelled: bool = True,
) -> Images:
    """Return the catalogue's or the user's images; each process reads them once.

    Args:
        name: A data set of the catalogue; or "module:function", see user_images.
        options: Options that differ from the catalogue's defaults.
        folder: Folder to search first for the user's module.
        num_workers: Processes that make the user's examples, unless they are held in memory.
        labelled: Whether targets must be classes.

    Raises:
        InputError: The name or an option is unknown, or the data is invalid.
    """
    if is_function(name):
        return user_images(name, options, folder, num_workers, labelled=labelled)
    found: Images = _read(name, _filled_in(name, options, "images"))
    return found


def read_text(name: str, options: Mapping[str, Any], folder: str | None = None, num_workers: int = 0) -> Text:
    """Return a text; see read_images."""
    if is_function(name):
        return user_text(name, options, folder, num_workers)
    found: Text = _read(name, _filled_in(name, options, "text"))
    return found


def read_table(
    name: str, options: Mapping[str, Any], folder: str | None = None, num_workers: int = 0
) -> Table:
    """Return a table; see read_images."""
    if is_function(name):
        return user_table(name, options, folder, num_workers)
    found: Table = _read(name, _filled_in(name, options, "table"))
    return found


def read_surface(name: str, options: Mapping[str, Any]) -> Surface:
    """Return a test function of the catalogue; see read_images."""
    found: Surface = _read(name, _filled_in(name, options, "surface"))
    return found


def _filled_in(name: str, options: Mapping[str, Any], kind: Kind) -> tuple[tuple[str, Any], ...]:
    of_kind = {each: entry for each, entry in DATASETS.items() if entry.kind == kind}
    if name not in of_kind:
        raise InputError(unknown("data set", name, of_kind))
    defaults = of_kind[name].options
    values = {**defaults, **options}
    for option in values.keys() - defaults.keys():
        raise InputError(unknown(f"option of {name}", option, defaults))
    return tuple(sorted(values.items()))


@cache
def _read(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return resolve(DATASETS[name].read)(**dict(options))
