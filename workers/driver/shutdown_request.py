"""Requests to a process to stop its work, and their way to the main thread."""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from anon_tune.workers.driver.periodic import repeating

__all__ = ["ShutdownRequest"]

_LOOKS_PER_INTERRUPT = 6
_LOOKS_TO_BELIEVE = 3  # who stops a service signals all of its processes, and ours may hear of it last
_NOTICE_SECONDS = 4.0  # and some more until Ray has stopped: within 10 s the lease is given back

_log = logging.getLogger(__name__)


class ShutdownRequest:
    """Interrupts the main thread when its work is to stop now.

    Reasons are SIGTERM and SIGINT, the end of something that the work depends on, and whatever `is_due` looks at.
    The interrupt is a KeyboardInterrupt, and is noted besides: Python ignores an exception that is raised in a
    destructor or in a callback of C code, and the main thread is often in Ray's. Between `notice` and its end a
    first signal is no interrupt yet.

    Args:
        is_due: Whether the work is to stop at once. It is called from a thread, and must not raise.

    Attributes:
        failure: The error of what has ended and the work depends on; None if nothing has.
        turns: How often the main thread has come by `check` or `notice`.
    """

    def __init__(self, is_due: Callable[[], bool] = lambda: False) -> None:
        self.failure: Exception | None = None
        self.turns = 0
        self._is_due = is_due
        self._interrupted = False
        self._busy = False
        self._at_once = False
        self._leave: Callable[[], None] | None = None
        self._deadline = math.inf
        self._unheard = 0
        self._elsewhere = False
        self._look_at_dependency: Callable[[], None] = _nothing

    @property
    def leaving(self) -> bool:
        """Whether the work is to stop within seconds, and nothing new is to begin."""
        return self._deadline < math.inf

    @property
    def stopping(self) -> bool:
        """Whether the work is to stop now."""
        return self._interrupted or self._at_once

    def check(self) -> None:
        """Raise KeyboardInterrupt if the process is to stop: the first may have been raised unheard."""
        self.turns += 1
        if time.monotonic() > self._deadline:
            self._interrupted = True
        if self._interrupted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def notice(self, leave: Callable[[], None]) -> Iterator[None]:
        """Let a first signal call `leave`, and be an interrupt some seconds later, by `check`, or at the end of this.

        A second one is an interrupt at once, and so is what leaves no time: a lost lease, a cancel.
        """
        self._leave = leave
        self.turns += 1
        try:
            yield
        finally:
            self._leave = None
            if self.leaving:
                self._interrupted = True

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Finish a write to the ledger before an interrupt is raised. Raises as check, before and after."""
        self.check()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        self.check()

    @contextlib.contextmanager
    def depending_on(self, runs: Callable[[], bool], failure: Exception) -> Iterator[None]:
        """Interrupt the work once something does not run any more, or nobody can tell; `failure` is noted.

        After a signal it is not: who stops a service signals all of its processes. Nor is it where the work was done.
        """
        gone = 0

        def ended() -> bool:
            if self.leaving or self.stopping:
                return False
            try:
                return not runs()
            except Exception:  # noqa: BLE001 - the thread that looks goes on
                _log.warning("whether what this works with still runs cannot be told", exc_info=True)
                return True

        def look() -> None:
            nonlocal gone
            gone = gone + 1 if ended() else 0
            if gone >= _LOOKS_TO_BELIEVE and self._look_at_dependency is look:
                self.failure = failure

        self._look_at_dependency = look
        try:
            yield
        except BaseException:
            if self.failure is None and ended():
                self.failure = failure
            if self.failure is not None:
                self._interrupted = True  # it stops already
            raise
        finally:
            self._look_at_dependency = _nothing

    @contextlib.contextmanager
    def watching(self, seconds: float) -> Iterator[None]:
        """Look for reasons to stop every so many seconds, from a thread of its own."""
        with repeating(self._look, seconds, "shutdown-request"):
            yield

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Let SIGTERM end the work as Ctrl-C does, also where SIGINT is ignored.

        Only the main thread can; in another one `check` raises what would be an interrupt.
        """
        if threading.current_thread() is not threading.main_thread():
            self._elsewhere = True
            yield
            return
        heard = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            heard.append(signal.SIGINT)
        before = {number: signal.signal(number, self._interrupt) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look(self) -> bool:
        """Interrupt the main thread if there is a reason to, and again after some looks: it may not have heard."""
        self._look_at_dependency()
        if self._interrupted or not self._is_to_stop():
            return True
        self._at_once = True
        if self._elsewhere:
            self._interrupted = True
        elif self._unheard % _LOOKS_PER_INTERRUPT == 0:
            # Not SIGINT, which is ignored by what a shell runs in the background.
            _thread.interrupt_main(signal.SIGTERM)
        self._unheard += 1
        return True

    def _is_to_stop(self) -> bool:
        """Whether an interrupt is due: for a reason that leaves no time, or of a signal some seconds ago."""
        return self._is_due() or self.failure is not None or time.monotonic() > self._deadline

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._leave is not None and not self.leaving and not self._at_once:
            self._deadline = time.monotonic() + _NOTICE_SECONDS
            self._leave()
            return
        self._interrupted = True
        if not self._busy:
            raise KeyboardInterrupt


def _nothing() -> None:
    """Do nothing: the work depends on nothing."""
