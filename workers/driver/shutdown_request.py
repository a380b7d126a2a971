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
_LOOKS_TO_BELIEVE = 3  # a service manager signals all processes, and ours may get the signal last
_NOTICE_SECONDS = 4.0  # plus the time until Ray has stopped: the lease is released within 10 s

_log = logging.getLogger(__name__)


class ShutdownRequest:
    """Interrupts the main thread when its work must stop.

    Reasons are SIGTERM, SIGINT and SIGHUP (a terminal or ssh connection was closed), the end of a
    dependency, and `is_due`. The interrupt is a KeyboardInterrupt. A flag is set as well: Python ignores exceptions
    in destructors and in callbacks of C code, and the main thread is often in Ray's. Inside `notice` the first signal
    does not interrupt at once.

    Args:
        is_due: Returns whether the work must stop at once. It is called from a thread, and must not raise.

    Attributes:
        failure: The error for a dependency that has ended; None if none has.
        turns: Number of calls of `check` and `notice` from the main thread.
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
        """Whether the work must stop within seconds, and nothing new may begin."""
        return self._deadline < math.inf

    @property
    def stopping(self) -> bool:
        """Whether the work must stop now."""
        return self._interrupted or self._at_once

    def check(self) -> None:
        """Raise KeyboardInterrupt if the work must stop: Python may have ignored an earlier one."""
        self.turns += 1
        if time.monotonic() > self._deadline:
            self._interrupted = True
        if self._interrupted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def notice(self, leave: Callable[[], None]) -> Iterator[None]:
        """Call `leave` at the first signal, and interrupt some seconds later in `check`, or at the end of the block.

        A second signal interrupts at once, and so does a reason that leaves no time: a lost lease, a cancel.
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
        """Finish a write to the ledger before an interrupt is raised. Raises as `check`, before and after."""
        self.check()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        self.check()

    @contextlib.contextmanager
    def depending_on(self, runs: Callable[[], bool], failure: Exception) -> Iterator[None]:
        """Interrupt the work once a dependency has ended or its state is unknown, and set `failure`.

        This does not apply after a signal, since a service manager signals all processes, nor after the block.
        """
        gone = 0

        def ended() -> bool:
            if self.leaving or self.stopping:
                return False
            try:
                return not runs()
            except Exception:  # noqa: BLE001 - the checking thread continues
                _log.warning("cannot check whether Ray is still running", exc_info=True)
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
        """Check for reasons to stop every so many seconds, from a background thread."""
        with repeating(self._look, seconds, "shutdown-request"):
            yield

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGHUP like Ctrl-C, also if SIGINT is ignored. With `nohup` SIGHUP stays ignored.

        Only the main thread can receive signals; in another one `check` raises the interrupt.
        """
        if threading.current_thread() is not threading.main_thread():
            self._elsewhere = True
            yield
            return
        ignorable = (signal.SIGINT, signal.SIGHUP)
        heard = [signal.SIGTERM, *(n for n in ignorable if signal.getsignal(n) is not signal.SIG_IGN)]
        before = {number: signal.signal(number, self._interrupt) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _look(self) -> bool:
        """Interrupt the main thread if there is a reason, and again after some checks: it may have ignored it."""
        self._look_at_dependency()
        if self._interrupted or not self._is_to_stop():
            return True
        self._at_once = True
        if self._elsewhere:
            self._interrupted = True
        elif self._unheard % _LOOKS_PER_INTERRUPT == 0:
            # Not SIGINT, which background processes of a shell ignore.
            _thread.interrupt_main(signal.SIGTERM)
        self._unheard += 1
        return True

    def _is_to_stop(self) -> bool:
        """Return whether an interrupt is due: for an urgent reason, or some seconds after a signal."""
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
    """Do nothing: there is no dependency."""
