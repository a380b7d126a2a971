"""Import hooks: in the processes of a benchmarked service, `sitecustomize` wraps modules of the package."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["install"]


def install(wrapped: Mapping[str, Callable[[ModuleType], None]]) -> None:
    """Call each function with its module once that is loaded. May be called several times, also for one module."""
    sys.meta_path.insert(0, _Finder(wrapped))


class _Finder(MetaPathFinder):
    def __init__(self, wrapped: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._wrapped = wrapped

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        wrap = self._wrapped.get(name)
        if wrap is None:
            return None
        place = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)  # by the finders after and before this one
        finally:
            sys.meta_path.insert(place, self)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_wrap(module: ModuleType) -> None:
            execute(module)
            wrap(module)

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec
