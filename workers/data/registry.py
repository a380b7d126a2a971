"""Reading data by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from anon_tune.catalogue import DATASETS
from anon_tune.documents import is_function, unknown
from anon_tune.errors import InputError
from anon_tune.workers.data.cifar10 import cifar10
from anon_tune.workers.data.digits import digits
from anon_tune.workers.data.idx import idx
from anon_tune.workers.data.images import Images
from anon_tune.workers.data.surface import (
    Surface,
    quadratic_surface,
    rastrigin_surface,
    rosenbrock_surface,
)
from anon_tune.workers.data.table import Table, csv, diabetes
from anon_tune.workers.data.text import Text, python_source, text
from anon_tune.workers.data.user_data import user_images, user_table, user_text

__all__ = ["READERS", "read_images", "read_surface", "read_table", "read_text"]

_IMAGES: Mapping[str, Callable[..., Images]] = {"cifar10": cifar10, "digits": digits, "idx": idx}
_TEXTS: Mapping[str, Callable[..., Text]] = {"python_source": python_source, "text": text}
_TABLES: Mapping[str, Callable[..., Table]] = {"csv": csv, "diabetes": diabetes}
_SURFACES: Mapping[str, Callable[..., Surface]] = {
    "quadratic": quadratic_surface,
    "rastrigin": rastrigin_surface,
    "rosenbrock": rosenbrock_surface,
}
READERS: Mapping[str, Callable[..., Images | Surface | Table | Text]] = {
    **_IMAGES,
    **_SURFACES,
    **_TABLES,
    **_TEXTS,
}


def read_images(
    name: str,
    options: Mapping[str, Any],
    folder: str | None = None,
    num_workers: int = 0,
    *,
    labelled: bool = True,
) -> Images:
    """Return images of the catalogue or of the user; in one process they are read once.

    Args:
        name: A data set of the catalogue; or "module:function", see user_images.
        options: Those that differ from the catalogue's defaults.
        folder: Where a module of the user is looked for first.
        num_workers: Processes that make the user's examples, where these are not held in memory.
        labelled: Whether targets have to be classes.

    Raises:
        InputError: The name or an option is unknown, or the data is not what it should be.
    """
    if is_function(name):
        return user_images(name, options, folder, num_workers, labelled=labelled)
    found: Images = _read(name, _filled_in(name, options, _IMAGES))
    return found


def read_text(name: str, options: Mapping[str, Any], folder: str | None = None, num_workers: int = 0) -> Text:
    """Return a text; otherwise as read_images."""
    if is_function(name):
        return user_text(name, options, folder, num_workers)
    found: Text = _read(name, _filled_in(name, options, _TEXTS))
    return found


def read_table(
    name: str, options: Mapping[str, Any], folder: str | None = None, num_workers: int = 0
) -> Table:
    """Return a table; otherwise as read_images."""
    if is_function(name):
        return user_table(name, options, folder, num_workers)
    found: Table = _read(name, _filled_in(name, options, _TABLES))
    return found


def read_surface(name: str, options: Mapping[str, Any]) -> Surface:
    """Return a test function of the catalogue; otherwise as read_images."""
    found: Surface = _read(name, _filled_in(name, options, _SURFACES))
    return found


def _filled_in(
    name: str, options: Mapping[str, Any], readers: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
    if name not in readers:
        raise InputError(unknown("data set", name, readers))
    values = {**DATASETS[name].options, **options}
    for option in values.keys() - DATASETS[name].options.keys():
        raise InputError(unknown(f"option of {name}", option, DATASETS[name].options))
    return tuple(sorted(values.items()))


@cache
def _read(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return READERS[name](**dict(options))
