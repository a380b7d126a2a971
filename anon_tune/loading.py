"""Loading modules without looking for garbage among what they make."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["uncollected"]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Let the garbage collector rest while modules are imported.

    They make so many objects, which stay, that it would run again and again and find nothing: a fifth of the time
    that torch and Ray take to load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
