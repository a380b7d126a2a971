"""Loading modules without what takes time and finds nothing."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

__all__ = ["uncollected", "without_plugins"]

_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


@contextlib.contextmanager
def uncollected(*, for_good: bool = False) -> Iterator[None]:
    """Let the garbage collector rest while modules are imported.

    They make so many objects, which stay, that it would run again and again and find nothing: a fifth of the time
    that torch and Ray take to load.

    Args:
        for_good: Have it never look at what there is at the end, either. By itself it would at once, and again where
            the process ends: tens of milliseconds of a short command. For processes that are all
            ours, as garbage of others would stay too.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()  # before the collector may run
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def without_plugins() -> Iterator[None]:
    """Have Pydantic look for no plugins for the models that are made meanwhile.

    It would read what each installed package says of itself.
    """
    before = os.environ.get(_PLUGINS)
    os.environ[_PLUGINS] = "__all__"
    try:
        yield
    finally:
        os.environ.pop(_PLUGINS, None)
        if before is not None:
            os.environ[_PLUGINS] = before
