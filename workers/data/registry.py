"""Reading data by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from anon_tune.catalogue import DATASETS
from anon_tune.documents import unknown
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


def read_images(name: str, options: Mapping[str, Any]) -> Images:
    """Return images of the catalogue; in one process they are read once.

    Args:
        name: A data set of the catalogue.
        options: Those that differ from the catalogue's defaults.

    Raises:
        InputError: The name or an option is unknown, or the files are not what they should be.
    """
    found: Images = _read(name, _filled_in(name, options, _IMAGES))
    return found


def read_text(name: str, options: Mapping[str, Any]) -> Text:
    """Return a text of the catalogue; otherwise as read_images."""
    found: Text = _read(name, _filled_in(name, options, _TEXTS))
    return found


def read_table(name: str, options: Mapping[str, Any]) -> Table:
    """Return a table of the catalogue; otherwise as read_images."""
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
