"""Multiplications of forward passes, counted by module and operation. Needs torch alone."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from anon_tune.architecture import Computation

__all__ = ["counted"]

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_SOFTMAX = ("_softmax", "_safe_softmax")
_FLOPS = 2
"""A multiplication and the addition of its product."""


@contextlib.contextmanager
def counted() -> Iterator[Computation]:
    """Count the multiplications of the forward passes in this context, for `architecture.fingerprint`.

    The computation is complete when the context has ended. Operations outside any module's forward are not counted,
    nor are those of the backward passes. The results of the modules are the same as without counting; each operation
    takes some microseconds longer, and a compiled module runs uncompiled.
    """
    modules = _Modules()
    handles = [
        register_module_forward_pre_hook(modules.enter),
        register_module_forward_hook(modules.leave),
    ]
    try:
        with modules.counter:
            yield modules.found
    finally:
        for handle in handles:
            handle.remove()


class _Modules:
    """The modules whose forward is running, and what each has multiplied."""

    def __init__(self) -> None:
        self.found = Computation()
        self.counter = FlopCounterMode(display=False, custom_mapping=_more_formulas())
        self.counter.flop_registry = {op: _safe(each) for op, each in self.counter.flop_registry.items()}
        self._running: list[nn.Module] = []
        self._before: Counter[str] = Counter()

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self._settle()
        self._running.append(module)
        self.found.operations.setdefault(module, Counter())

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._settle()
        if module in self._running:
            while self._running.pop() is not module:  # one whose forward has raised never leaves
                pass
        if isinstance(module, _RECURRENT):
            self.found.operations[module]["recurrent"] += _of_recurrent(module, output)

    def _settle(self) -> None:
        """Add what was counted since the last call to the innermost module that is running."""
        now = Counter({_name(op): count for op, count in self.counter.flop_counts["Global"].items()})
        new = now - self._before
        self._before = now
        if self._running and not isinstance(self._running[-1], _RECURRENT):
            self.found.operations[self._running[-1]].update({name: n // _FLOPS for name, n in new.items()})


def _name(operation: Any) -> str:
    name = str(getattr(operation, "__name__", operation))
    return "softmax" if name in _SOFTMAX else name


def _of_recurrent(module: nn.Module, output: Any) -> int:
    """Return the multiplications of a recurrent layer: each weight once for each step of each sequence.

    torch's counter does not know the kernels of these layers. Their first output is a tensor (..., h) or packed.
    """
    first = getattr(output[0] if isinstance(output, tuple) else output, "data", None)
    if not isinstance(first, Tensor) or not first.dim():
        return 0
    steps = first.numel() // max(1, first.shape[-1])
    return steps * sum(weight.numel() for weight in module.parameters(recurse=False) if weight.dim() > 1)


def _more_formulas() -> dict[Any, Any]:
    """Return formulas of operations that torch's counter leaves out, by operation: FLOPs from shapes."""
    aten = torch.ops.aten
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    found = {getattr(aten, name): _one for name in _SOFTMAX if hasattr(aten, name)}
    return {**found, **({getattr(aten, attention): _of_attention} if hasattr(aten, attention) else {})}


def _safe(formula: Callable[..., int]) -> Callable[..., int]:
    """Return a formula that counts one where the given one fails: torch's know no attention with grouped heads."""

    def count(*args: Any, **kwargs: Any) -> int:
        try:
            return formula(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the user's operation itself has worked
            return _FLOPS

    return count


def _one(*_: Any, **__: Any) -> int:
    return _FLOPS


def _of_attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    """Return the FLOPs of attention on (..., queries, width), (..., keys, width) and (..., keys, values)."""
    return _FLOPS * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
