"""Tables of numbers with one column to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.split import Examples, Split

__all__ = ["Table", "csv", "diabetes"]

_DIABETES = Path(__file__).with_name("diabetes.npz")
"""File of features (n, 10) and target (n) from scikit-learn, whose import takes longer than torch's."""
_SPLIT_SEED = 0
_HELD_OUT = 0.2
_FEWEST = 10


@dataclass(frozen=True)
class Table:
    """Rows of features (n, columns) and targets (n), standardized to mean 0 and deviation 1 over the training split.

    The user's data, with inputs (n, ...), is not standardized.

    Attributes:
        deviation: Standard deviation of the target in its own unit.
    """

    train: Examples
    validation: Examples
    test: Examples
    deviation: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (columns,)."""
        return self.train.shape


def diabetes() -> Table:
    """Return scikit-learn's diabetes data: 442 patients, 10 measurements, and the disease's progress after a year."""
    with np.load(_DIABETES) as arrays:
        return _split(arrays["features"], arrays["target"])


def csv(file: str, target: str) -> Table:
    """Read a file with a header; one column is the target, all others are features.

    Raises:
        InputError: The file cannot be read, has no such column, or holds something other than numbers.
    """
    import pandas as pd

    path = Path(file)
    try:
        frame = pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is not a CSV file: {error}") from None
    if target not in frame.columns:
        raise InputError(
            f"{path} has no column {target!r} (data.target). Its columns: {', '.join(frame.columns)}"
        )
    for column in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise InputError(f"{path}: column {column!r} holds text. Convert it to numbers, or remove it.")
        empty = np.flatnonzero(~np.isfinite(frame[column].to_numpy(dtype=float)))
        if len(empty):
            raise InputError(
                f"{path}: column {column!r} has no number in row {empty[0] + 1} after the header (and in "
                f"{len(empty) - 1} others). Fill the gaps, or remove the rows."
            )
    if len(frame) < _FEWEST or len(frame.columns) < 2:
        raise InputError(
            f"{path} has {len(frame)} rows of {len(frame.columns)} columns; it needs {_FEWEST} rows of 2 columns."
        )
    return _split(frame.drop(columns=target).to_numpy(dtype=float), frame[target].to_numpy(dtype=float))


def _split(features: NDArray[Any], target: NDArray[Any]) -> Table:
    """Return a random 60/20/20 split, always the same."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(target))
    held_out = int(_HELD_OUT * len(target))
    validation, test, train = np.split(order, [held_out, 2 * held_out])
    deviation = float(target[train].std())
    x = _standardized(features, train)
    y = _standardized(target, train)

    def split(rows: NDArray[Any]) -> Split:
        return Split(torch.tensor(x[rows], dtype=torch.float32), torch.tensor(y[rows], dtype=torch.float32))

    return Table(split(train), split(validation), split(test), deviation)


def _standardized(values: NDArray[Any], train: NDArray[Any]) -> NDArray[Any]:
    scale = values[train].std(axis=0)
    result: NDArray[Any] = (values - values[train].mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    return result
