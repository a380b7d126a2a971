"""Buckets: tensors that take one step together, and which of them a kernel can walk through side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Bucket", "Row", "one_order"]

Row: TypeAlias = "tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]"
"""(p, g, m, s, v) of one tensor; without s and v at gamma = 0."""

_PLAIN = {Tensor, torch.nn.Parameter}
_SHAPE: Callable[[Tensor], torch.Size] = attrgetter("shape")
_DTYPE: Callable[[Tensor], torch.dtype] = attrgetter("dtype")
_ON_CPU: Callable[[Tensor], bool] = attrgetter("is_cpu")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tensors of one device, one dtype and one step count; the lists run in parallel.

    At gamma = 0 there is no second moment: `exp_avg_sqs` and `multipliers` are empty.

    Attributes:
        settled: Whether every multiplier is known to be positive: no coordinate still waits for a first gradient or a
            first refresh (see `anon_tune.optim.rule`).
    """

    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    multipliers: list[Tensor]
    settled: bool = False

    @classmethod
    def of(cls, rows: Sequence[Row], settled: bool = False) -> Bucket:
        """Return the bucket of these rows; all of them have s and v, or none has."""
        p, g, m, s, v = zip(*rows, strict=True) if rows else ((),) * 5
        adaptive = bool(s) and s[0] is not None
        second, multipliers = (list(s), list(v)) if adaptive else ([], [])
        return cls(list(p), list(g), list(m), second, multipliers, settled)

    def rows(self) -> Iterator[Row]:
        """(p, g, m, s, v) of each tensor."""
        none: list[Tensor | None] = [None] * len(self.params)
        return zip(
            self.params,
            self.grads,
            self.exp_avgs,
            self.exp_avg_sqs or none,
            self.multipliers or none,
            strict=True,
        )

    def split_by_order(self) -> tuple[Bucket, Bucket]:
        """Return the tensors that `one_order` accepts, and the others."""
        return (self, Bucket.of([])) if self._is_contiguous() else self.split(one_order)

    def _is_contiguous(self) -> bool:
        """Whether `one_order` accepts every tensor, and in the usual order of memory."""
        # The usual case. No Python function runs per tensor here: with many small tensors the check would
        # take longer than the step.
        first = self.params[0]
        shapes = list(map(_SHAPE, self.params))
        states = (self.params, self.exp_avgs, self.exp_avg_sqs, self.multipliers)
        place: Callable[[Tensor], Any] = _ON_CPU if first.is_cpu else Tensor.get_device
        return all(
            set(map(type, tensors)) <= _PLAIN
            and set(map(_DTYPE, tensors)) == {first.dtype}
            and set(map(place, tensors)) == {place(first)}
            and (tensors is self.params or list(map(_SHAPE, tensors)) == shapes)
            and (tensors is self.grads or all(map(Tensor.is_contiguous, tensors)))
            for tensors in (*states, self.grads)
            if tensors
        )

    def parts(self, entries: int) -> Iterator[Bucket]:
        """Yield the bucket in pieces of whole tensors, each of about so many entries."""
        part: list[Row] = []
        held = 0
        for row in self.rows():
            part.append(row)
            held += row[0].numel()
            if held >= entries:
                yield Bucket.of(part, self.settled)
                part, held = [], 0
        if part:
            yield Bucket.of(part, self.settled)

    def split(self, takes: Callable[[Row], bool]) -> tuple[Bucket, Bucket]:
        """Return the tensors whose row satisfies a predicate, and the others."""
        rows = list(self.rows())
        taken = [takes(row) for row in rows]
        if all(taken):
            return self, Bucket.of([])
        return (
            Bucket.of([row for row, yes in zip(rows, taken, strict=True) if yes], self.settled),
            Bucket.of([row for row, yes in zip(rows, taken, strict=True) if not yes], self.settled),
        )

    def aligned_grads(self) -> list[Tensor]:
        """Return the gradients in the memory order of their parameters, copied if they are in another."""
        if all(map(Tensor.is_contiguous, self.grads)) and all(map(Tensor.is_contiguous, self.params)):
            return self.grads
        return [
            g if p.is_contiguous() and g.is_contiguous() else g.contiguous(memory_format=_order(p))
            for p, g in zip(self.params, self.grads, strict=True)
        ]


def one_order(row: Row) -> bool:
    """Whether a kernel may walk through the memory of these plain tensors side by side.

    A kernel gets one size and one dtype and trusts them, so all five must have the same shape, dtype and device. A
    parameter whose `data` was replaced may not. Parameter and state must fill their memory without gaps and in the
    same order; a gradient may be in another order (`Bucket.aligned_grads`).
    """
    p, g, *states = row
    order = _order(p)
    state = [t for t in states if t is not None]
    return all(
        type(t) in _PLAIN and t.shape == p.shape and t.dtype == p.dtype and t.device == p.device
        for t in (p, g, *state)
    ) and all(t.is_contiguous(memory_format=order) for t in (p, *state))


def _order(tensor: Tensor) -> torch.memory_format:
    """Return the memory order of the tensor, or the best one to copy it into."""
    images = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if images and not tensor.is_contiguous() else torch.contiguous_format
