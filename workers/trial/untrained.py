"""Parameters that get gradients and that no optimizer of the trial trains. Needs torch alone."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from typing import TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Untrained"]

_SHOWN = 3

T = TypeVar("T")


class Untrained:
    """Watch on the parameters of all models of this process, from the first step of an optimizer on.

    A parameter counts once its gradient has changed between two steps. So a model that was trained earlier, or a copy
    of one, does not count.

    Args:
        own: Class of the trial's optimizers.
    """

    def __init__(self, own: type[Optimizer]) -> None:
        self._own = own
        self._names = _names()
        self._others = list(self._other_optimizers())
        self._before = {each: _state(each) for each in self._names}
        self._reached: dict[Tensor, str] = {}

    def look(self, ours: Collection[Tensor]) -> None:
        """Note which parameters got a gradient since the last look; `ours` are those of the trial's optimizers."""
        new = {
            each: name for each, name in self._names.items() if each not in ours and self._has_changed(each)
        }
        self._before |= {each: _state(each) for each in new}
        if new.keys() - self._reached.keys():
            self._others = list(self._other_optimizers())  # one may have been made since
        self._reached |= new

    def notes(self, ours: Collection[Tensor]) -> Iterator[str]:
        """Yield what to tell the user; `ours` as in `look`."""
        reached = {each: name for each, name in self._reached.items() if each not in ours}
        theirs = {each: other for other in self._others for each in _parameters_of(other)}
        left = sorted(name for each, name in reached.items() if each not in theirs)
        if left:
            more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
            yield (
                f"no optimizer trains {', '.join(left[:_SHOWN])}{more}, though gradients reach them. Pass them to "
                "the trial's optimizer, or freeze them: requires_grad_(False)"
            )
        kinds = sorted({type(theirs[each]).__name__ for each in reached if each in theirs})
        if kinds:
            yield (
                f"another optimizer ({', '.join(kinds)}) trains some parameters. The search does not change it; "
                "make it with the trial's optimizer(...) too if it should be tuned"
            )

    def _has_changed(self, parameter: Tensor) -> bool:
        gradient, version = _state(parameter)
        if gradient is None:
            return False
        before, version_before = self._before[parameter]
        is_new = gradient is not before or version != version_before
        return is_new and (gradient.is_sparse or bool(gradient.count_nonzero()))

    def _other_optimizers(self) -> Iterator[Optimizer]:
        yield from (each for each in _alive(Optimizer) if not isinstance(each, self._own))


def _names() -> dict[Tensor, str]:
    """Return the parameters of all modules of this process with their longest names."""
    modules = list(_alive(nn.Module))
    children = {id(child) for module in modules for child in vars(module).get("_modules", {}).values()}
    names: dict[Tensor, str] = {}
    for module in modules:
        if id(module) in children or "_parameters" not in vars(module):
            continue
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and len(name) > len(names.get(parameter, "")):
                names[parameter] = name
    return names


def _alive(kind: type[T]) -> Iterator[T]:
    """Yield the objects of a class, without asking objects that stand for others, which may raise."""
    yield from (each for each in gc.get_objects() if issubclass(type(each), kind))


def _parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in getattr(optimizer, "param_groups", ()):
        yield from group["params"]


def _state(parameter: Tensor) -> tuple[Tensor | None, int]:
    """Return the gradient and the number of its changes in place."""
    gradient = parameter.grad
    return gradient, 0 if gradient is None else gradient._version
