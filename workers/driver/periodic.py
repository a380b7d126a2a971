"""Periodic calls from a background thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

__all__ = ["repeating"]


@contextlib.contextmanager
def repeating(call: Callable[[], bool], seconds: float, name: str) -> Iterator[None]:
    """Call a function periodically until it returns False or the block ends.

    Args:
        call: The function. An error in it ends the calls.
        seconds: Time before each call, at least 0.
        name: Name of the thread, for people.
    """
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds) and call():
            pass

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
