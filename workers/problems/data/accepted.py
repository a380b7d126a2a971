"""Checks of a batch of a user's Dataset for each kind of data; the caller adds the Dataset's name to errors."""

from __future__ import annotations

import torch
from torch import Tensor

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.split import Split

__all__ = ["images", "is_whole", "rows", "windows"]

_WHOLE = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Integer dtypes that torch computes with; it has no maximum for larger unsigned ones."""


def images(batch: Split, classes: int | None) -> Split:
    """Return images (n, channels, height, width) as bytes or float32, and classes (n) below `classes`.

    Raises:
        InputError: They are invalid. If `classes` is None, the targets are ignored and returned as 0.
    """
    inputs, shape = batch.inputs, batch.shape
    if len(shape) != 3:
        raise InputError(
            f"an input is {shape}, and images are (channels, height, width): (1, height, width) without colours, "
            "(1, 1, n) for a row of n numbers"
        )
    if shape[0] > 4 and shape[2] in {1, 3, 4}:
        raise InputError(f"an input is {shape}, but channels come first: use image.permute(2, 0, 1)")
    if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
        raise InputError(
            f"inputs are {inputs.dtype}; images are bytes (torch.uint8) or floating-point numbers"
        )
    pixels = inputs if inputs.dtype == torch.uint8 else inputs.float()
    if classes is None:
        return Split(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    if batch.targets.ndim != 1:
        raise InputError(f"a target is {tuple(batch.targets.shape[1:])}, and a class is one whole number")
    return Split(pixels, _below(classes, batch.targets, "target", "classes").long())


def rows(batch: Split) -> Split:
    """Return inputs (n, ...) and targets (n) as float32. Raises InputError if they are invalid."""
    if not batch.inputs.is_floating_point():
        raise InputError(
            f"inputs are {batch.inputs.dtype}; return floating-point numbers with a scale of about 1"
        )
    if batch.targets.shape not in {(len(batch),), (len(batch), 1)} or batch.targets.is_complex():
        raise InputError(f"a target is {tuple(batch.targets.shape[1:])}, and regression needs one number")
    return Split(batch.inputs.float(), batch.targets.float().reshape(-1))


def windows(batch: Split, vocabulary: int) -> Split:
    """Return tokens and next tokens, each (n, length) and below `vocabulary`. Raises InputError."""
    if batch.inputs.ndim != 2 or batch.targets.shape != batch.inputs.shape:
        raise InputError(
            f"an input is {batch.shape} and its target {tuple(batch.targets.shape[1:])}; give (length,) tokens and "
            "as many, each the one that follows"
        )
    tokens = (_below(vocabulary, part, "token", "tokens") for part in (batch.inputs, batch.targets))
    return Split(*tokens)


def _below(limit: int, values: Tensor, what: str, kind: str) -> Tensor:
    if not is_whole(values):
        raise InputError(f"a {what} is {values.dtype}; {kind} are whole numbers from 0 (torch.int64)")
    low, high = (int(value) for value in values.aminmax())
    if low < 0 or high >= limit:
        raise InputError(
            f"there is the {what} {low if low < 0 else high}, and {kind} go from 0 to {limit - 1}; how many there "
            "are is what `data: {classes: N}` in the job file says, or `classes` of the training Dataset, or else "
            "its items"
        )
    return values


def is_whole(values: Tensor) -> bool:
    """Whether values are whole numbers by their dtype."""
    return values.dtype in _WHOLE
