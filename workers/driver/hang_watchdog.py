"""Watchdog for a main thread that hangs, in Ray or in a system call."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from anon_tune.workers.driver.periodic import repeating
from anon_tune.workers.driver.shutdown_request import ShutdownRequest

__all__ = ["HangWatchdog", "stacks"]

_STOP_SECONDS = 30.0  # until Ray has stopped, on a machine that is busy
_TURN_SECONDS = 300.0  # Tune's loop turns several times a second

_log = logging.getLogger(__name__)


class HangWatchdog:
    """Detects a main thread that hangs, whose lease must not be renewed for ever.

    It hangs if it has not stopped half a minute after a request to, or if it has not called `ShutdownRequest.check`
    for five minutes since its first `notice`. The stack of each thread then goes to the log.

    Args:
        job: Id of the job that the main thread works on, for the log.
        shutdown: Counts the calls from the main thread.
        on_hang: Called once, from the watchdog's thread.
    """

    def __init__(self, job: str, shutdown: ShutdownRequest, on_hang: Callable[[], None]) -> None:
        self._job = job
        self._shutdown = shutdown
        self._on_hang = on_hang
        self._before: int | str = 0
        self._silent = 0

    @contextlib.contextmanager
    def watching(self, seconds: float) -> Iterator[None]:
        """Check every so many seconds, from a background thread."""
        with repeating(lambda: self._look(seconds), seconds, "hang-watchdog"):
            yield

    def _look(self, seconds: float) -> bool:
        """Return whether to check again: the main thread does not hang."""
        stopping = self._shutdown.stopping
        now = "stopping" if stopping else self._shutdown.turns
        # Count checks, not seconds: a process that was suspended does not hang.
        self._silent = self._silent + 1 if now and now == self._before else 0
        self._before = now
        if self._silent * seconds <= (_STOP_SECONDS if stopping else _TURN_SECONDS):
            return True
        _log.critical("job %s: its process hangs\n%s", self._job, stacks())
        self._on_hang()
        return False


def stacks() -> str:
    """Return the stack of each thread of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    )
