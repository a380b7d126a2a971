"""The user's data: a function "module:function" that returns three torch Datasets."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from anon_tune.errors import InputError
from anon_tune.user_code import load_function
from anon_tune.workers.problems.data.accepted import images, is_whole, rows, windows
from anon_tune.workers.problems.data.images import Images
from anon_tune.workers.problems.data.loaded import LoadedSplit, seeded
from anon_tune.workers.problems.data.split import Examples, Split
from anon_tune.workers.problems.data.table import Table
from anon_tune.workers.problems.data.text import Text

__all__ = ["user_images", "user_table", "user_text"]

_PARTS = ("train", "validation", "test")
_FACTORY_SEED = (0,)
_COUNTING_BATCH = 256
_MOST = 2**31
"""Limit of classes while they are counted."""


def user_images(
    name: str, options: Mapping[str, Any], folder: str | None, num_workers: int, *, labelled: bool = True
) -> Images:
    """Return the user's images; each process calls the function once, as for tables and texts.

    The function gets the options as keyword arguments and returns (train, validation, test): map-style torch Datasets
    whose items are pairs (input, target) of tensors, arrays or numbers. The global random states are fixed during the
    call, so random splits are always the same. A TensorDataset, or a Subset of one, is held on the device; other
    Datasets make their items on demand.

    - Images: an input is (channels, height, width): bytes, which are scaled to [-1, 1], or numbers, which are used
      unchanged. A target is a class from 0.
    - Table: an input is floating-point numbers of one shape, a target is a number; both are used unchanged.
    - Text: an input is tokens (length), whole numbers from 0; a target is the next token at each position, (length).

    The number of classes (or of tokens in the vocabulary) comes from the first of these that exists: the option
    `classes`, which the function gets only if it has that parameter; `classes` of the training Dataset, a number or a
    list of names; its targets. Without a list `targets`, all items of a Dataset that is not held are read.

    Args:
        name: "module:function".
        options: Plain values, as in a job file.
        folder: Folder to search first for the module.
        num_workers: As in LoadedSplit.
        labelled: Whether the targets are classes; otherwise they are ignored, and there is one class.

    Raises:
        InputError: The function returns something else.
        Exception: The function raised it.
    """
    return _read_images(name, json.dumps(options, sort_keys=True), folder, num_workers, labelled)


def user_table(name: str, options: Mapping[str, Any], folder: str | None, num_workers: int) -> Table:
    """Return the user's table; see user_images."""
    return _read_table(name, json.dumps(options, sort_keys=True), folder, num_workers)


def user_text(name: str, options: Mapping[str, Any], folder: str | None, num_workers: int) -> Text:
    """Return the user's text; see user_images."""
    return _read_text(name, json.dumps(options, sort_keys=True), folder, num_workers)


@cache
def _read_images(name: str, options: str, folder: str | None, num_workers: int, labelled: bool) -> Images:
    source = _call(name, json.loads(options), folder, num_workers)
    classes = 1
    if labelled:
        found = _said(source) or _by_targets(source.datasets[0])
        classes = found or source.counted(partial(images, classes=_MOST), lambda batch: batch.targets)
    train, validation, test = source.splits(partial(images, classes=classes if labelled else None))
    half = torch.full((train.shape[0], 1, 1), 0.5)
    pixels = (0.0, 255.0) if train.dtype == torch.uint8 else (-1.0, 1.0)
    return Images(train, validation, test, classes, half, half, pixels)


@cache
def _read_table(name: str, options: str, folder: str | None, num_workers: int) -> Table:
    return Table(*_call(name, json.loads(options), folder, num_workers).splits(rows), deviation=1.0)


@cache
def _read_text(name: str, options: str, folder: str | None, num_workers: int) -> Text:
    source = _call(name, json.loads(options), folder, num_workers)
    vocabulary = _said(source) or source.counted(
        partial(windows, vocabulary=_MOST), lambda batch: torch.cat([batch.inputs, batch.targets])
    )
    return Text(*source.splits(partial(windows, vocabulary=vocabulary)), vocabulary)


@dataclass(frozen=True)
class _Source:
    """Return value of a user's function, and the call that made it."""

    name: str
    options: Mapping[str, Any]
    datasets: tuple[Dataset[Any], ...]
    num_workers: int

    def splits(self, accept: Callable[[Split], Split]) -> tuple[Examples, Examples, Examples]:
        """Return training, validation and test data in the task's form."""
        train, validation, test = (self._split(part, accept) for part in range(len(_PARTS)))
        for part, split in zip(_PARTS[1:], (validation, test), strict=True):
            if (split.shape, split.dtype) != (train.shape, train.dtype):
                raise InputError(
                    f"{self.name}: inputs of the {part} Dataset are {split.shape} of {split.dtype}, those of the "
                    f"training one {train.shape} of {train.dtype}. All three need one shape and one dtype."
                )
        return train, validation, test

    def counted(self, accept: Callable[[Split], Split], numbers: Callable[[Split], Tensor]) -> int:
        """Return one more than the largest number in the training data, which is read completely."""
        batches = self._split(0, accept).batches(_COUNTING_BATCH)
        return 1 + max(int(numbers(batch).max()) for batch in batches)

    def _split(self, part: int, accept: Callable[[Split], Split]) -> Examples:
        dataset, name = self.datasets[part], f"{self.name}, {_PARTS[part]}"
        tensors = _tensors(dataset)
        if tensors is None:
            return LoadedSplit(dataset, name, accept, self.num_workers)
        if len(tensors) != 2:
            raise InputError(
                f"{name}: a TensorDataset of {len(tensors)} tensors; it needs two, inputs and targets."
            )
        try:
            return accept(Split(*(tensor.detach() for tensor in tensors)))
        except InputError as error:
            raise InputError(f"{name}: {error}.") from None


def _call(name: str, options: Mapping[str, Any], folder: str | None, num_workers: int) -> _Source:
    function = load_function(name, folder)
    parameters = inspect.signature(function).parameters.values()
    takes_classes = any(p.name == "classes" or p.kind is p.VAR_KEYWORD for p in parameters)
    arguments = {key: value for key, value in options.items() if key != "classes" or takes_classes}
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise InputError(f"{name} cannot be called with the options of `data`: {error}.") from None
    with seeded(_FACTORY_SEED):
        made = function(**arguments)
    if not isinstance(made, tuple | list) or len(made) != len(_PARTS):
        many = f" of {len(made)}" if isinstance(made, tuple | list) else ""
        raise InputError(
            f"{name} returned a {type(made).__name__}{many}; return three Datasets, (train, validation, test). "
            "torch.utils.data.random_split(dataset, [0.6, 0.2, 0.2]) splits one into three."
        )
    for part, dataset in zip(_PARTS, made, strict=True):
        if not isinstance(dataset, Dataset) or isinstance(dataset, IterableDataset):
            raise InputError(
                f"{name}, {part}: a {type(dataset).__name__}, not a map-style torch.utils.data.Dataset (one with "
                "__len__ and __getitem__)."
            )
        if not isinstance(dataset, Sized) or not len(dataset):
            raise InputError(f"{name}, {part}: the Dataset is empty, or has no __len__.")
    return _Source(name, options, tuple(made), num_workers)


def _tensors(dataset: Dataset[Any]) -> tuple[Tensor, ...] | None:
    """Return the tensors of a TensorDataset or a Subset of one; None for others, whose items may be computed."""
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset and (whole := _tensors(dataset.dataset)) is not None:
        indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return tuple(tensor[indices] for tensor in whole)
    return None


def _said(source: _Source) -> int | None:
    """Return the number of classes from the job file or the training Dataset."""
    classes, dataset = source.options.get("classes"), source.datasets[0]
    while classes is None and type(dataset) is Subset and not hasattr(dataset, "classes"):
        dataset = dataset.dataset
    if classes is None:
        classes = getattr(dataset, "classes", None)
    if isinstance(classes, Sized) and not isinstance(classes, str):
        classes = len(classes)
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 1):
        raise InputError(
            f"{source.name}: expected `classes` to be a number from 1 or a list of names, found {classes!r}."
        )
    return classes


def _by_targets(dataset: Dataset[Any]) -> int | None:
    """Return the number of classes in the Dataset's list of targets, if it has one."""
    if type(dataset) is Subset:
        return _by_targets(dataset.dataset)
    try:
        targets = torch.as_tensor(getattr(dataset, "targets", ()))
    except (RuntimeError, TypeError, ValueError):
        return None
    return 1 + int(targets.max()) if targets.ndim == 1 and is_whole(targets) and len(targets) else None
