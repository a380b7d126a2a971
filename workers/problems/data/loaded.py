"""Examples that a user's Dataset makes on demand, possibly at random."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from anon_tune.errors import InputError
from anon_tune.workers.problems.data.split import Split

__all__ = ["LoadedSplit", "seeded"]

_CPU = torch.device("cpu")


class LoadedSplit:
    """A map-style Dataset as examples; see `Examples`.

    While a batch is made, the global random states of torch, numpy and Python are seeded with the batch's own seed;
    afterwards they are restored. So augmentation depends only on the trial's seed, the epoch and the batch, whichever
    process makes it.

    Args:
        dataset: Dataset whose items are pairs (input, target) that `default_collate` accepts.
        name: Name of the data and the split, for errors.
        accept: Converts a batch to the task's form. Raises InputError without the name.
        num_workers: Processes that make batches beside the training process; 0 makes them in that process.
        device: Device of the batches.

    Raises:
        InputError: The first item is invalid.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        name: str,
        accept: Callable[[Split], Split],
        num_workers: int = 0,
        device: torch.device = _CPU,
    ) -> None:
        self._dataset = dataset
        self._name = name
        self._accept = accept
        self._num_workers = num_workers
        self._device = device
        self._length = len(dataset)  # type: ignore[arg-type]  # map-style datasets have a length
        self._first = next(self._loaded(1, torch.zeros(1, dtype=torch.int64), (), 0))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self._first.shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the inputs."""
        return self._first.dtype

    def __len__(self) -> int:
        return self._length

    def batches(self, size: int, order: Tensor | None = None, seed: Sequence[int] = ()) -> Iterator[Split]:
        """Yield batches; see Examples. Raises InputError if an item is not a pair or differs from the first."""
        order = torch.arange(len(self)) if order is None else order.cpu()
        for batch in self._loaded(size, order, seed, self._num_workers):
            if (batch.shape, batch.dtype) != (self.shape, self.dtype):
                raise InputError(
                    f"{self._name}: the input of the first item is {self.shape} of {self.dtype}, and there are "
                    f"others of {batch.shape} of {batch.dtype}. All items need one shape and one dtype."
                )
            yield batch.to(self._device, non_blocking=True)

    def to(self, device: torch.device) -> LoadedSplit:
        """Return the split with its batches on a device."""
        moved = copy.copy(self)
        moved._device = device
        return moved

    def _loaded(self, size: int, order: Tensor, seed: Sequence[int], num_workers: int) -> Iterator[Split]:
        loader = DataLoader(
            _Batches(self._dataset, self._accept),
            batch_size=None,  # an index refers to a batch
            sampler=_Indices(order, size, seed),
            collate_fn=_as_it_is,
            num_workers=num_workers,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # otherwise torch's global random state would advance
        )
        for made in loader:
            if isinstance(made, str):
                raise InputError(f"{self._name}: {made}.")
            yield Split(*made)


@contextlib.contextmanager
def seeded(seed: Sequence[int]) -> Iterator[None]:
    """Seed the global random states of torch on CPU, numpy and Python, and restore them at the end."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    (value,) = np.random.SeedSequence(tuple(seed)).generate_state(1, np.uint64).tolist()
    torch.default_generator.manual_seed(value)
    np.random.seed(value % 2**32)
    random.seed(value)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


class _Indices:
    """A seed and the indices of each batch."""

    def __init__(self, order: Tensor, size: int, seed: Sequence[int]) -> None:
        self._order, self._size, self._seed = order, size, tuple(seed)

    def __len__(self) -> int:
        return -(-len(self._order) // self._size)

    def __iter__(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        for number, indices in enumerate(self._order.split(self._size)):
            yield (*self._seed, number), indices.tolist()


class _Batches(Dataset[Any]):
    """Whole batches of a Dataset."""

    def __init__(self, dataset: Dataset[Any], accept: Callable[[Split], Split]) -> None:
        self._dataset = dataset
        self._accept = accept

    def __getitem__(self, batch: tuple[tuple[int, ...], list[int]]) -> tuple[Tensor, Tensor] | str:
        """Return a batch's inputs and targets, or its problem, which another process may have to raise."""
        seed, indices = batch
        with seeded(seed):
            items = [self._dataset[index] for index in indices]
        try:
            made = self._accept(_batch(items, indices))
        except InputError as error:
            return str(error)
        return made.inputs, made.targets


def _batch(items: Sequence[Any], indices: Sequence[int]) -> Split:
    for index, item in zip(indices, items, strict=True):
        if not isinstance(item, tuple | list) or len(item) != 2:
            parts = f" of {len(item)}" if isinstance(item, tuple | list) else ""
            raise InputError(
                f"item {index} is a {type(item).__name__}{parts}; return pairs (input, target) from __getitem__"
            )
    inputs, targets = zip(*items, strict=True)
    return Split(_stacked("input", inputs, indices), _stacked("target", targets, indices))


def _stacked(part: str, values: Sequence[Any], indices: Sequence[int]) -> Tensor:
    """Return tensors, arrays and numbers of one shape as one tensor (n, ...)."""
    why, plain = "", [value.detach() if isinstance(value, Tensor) else value for value in values]
    try:
        stacked = default_collate(plain)
    except (RuntimeError, TypeError) as error:
        stacked, why = None, str(error)
    if not isinstance(stacked, Tensor):
        raise InputError(_difference(part, values, indices) or f"the {part}s cannot form a batch: {why}")
    # Collating merges several dtypes into one in this process, and rejects them in another.
    if len({value.dtype for value in plain if isinstance(value, Tensor)}) > 1:
        raise InputError(_difference(part, values, indices) or f"the {part}s have several dtypes")
    return stacked


def _difference(part: str, values: Sequence[Any], indices: Sequence[int]) -> str | None:
    """Return the type, shape or dtype that prevents stacking values into one tensor, if there is one."""
    for index, value in zip(indices, values, strict=True):
        if not isinstance(value, Tensor | np.ndarray | np.generic | int | float):
            return f"the {part} of item {index} is a {type(value).__name__}; make it a tensor in __getitem__"
    first, *others = (tuple(np.shape(value)) for value in values)
    for index, shape in zip(indices[1:], others, strict=True):
        if shape != first:
            return (
                f"the {part} of item {indices[0]} is {first}, and that of item {index} is {shape}; all items need "
                "one shape"
            )
    kinds = {value.dtype: n for n, value in zip(indices, values, strict=True) if isinstance(value, Tensor)}
    if len(kinds) > 1:
        found = " and ".join(f"that of item {n} is {kind}" for kind, n in kinds.items())
        return f"of the {part}s {found}; all items need one dtype"
    return None


def _as_it_is(batch: Any) -> Any:
    return batch
