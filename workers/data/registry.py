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

__all__ = ["READERS", "read_images"]

READERS: Mapping[str, Callable[..., Images]] = {"cifar10": cifar10, "digits": digits, "idx": idx}


def read_images(name: str, options: Mapping[str, Any]) -> Images:
    """Return a data set of the catalogue; in one process it is read once.

    Args:
        name: A data set of the catalogue.
        options: Those that differ from the catalogue's defaults.

    Raises:
        InputError: The name or an option is unknown or missing, or the files are not what they should be.
    """
    if name not in READERS:
        raise InputError(unknown("data set", name, READERS))
    values = {**DATASETS[name].options, **options}
    for option in values.keys() - DATASETS[name].options.keys():
        raise InputError(unknown(f"option of {name}", option, DATASETS[name].options))
    return _read(name, tuple(sorted(values.items())))


@cache
def _read(name: str, options: tuple[tuple[str, Any], ...]) -> Images:
    return READERS[name](**dict(options))
