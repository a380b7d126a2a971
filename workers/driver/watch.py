"""Events that reach the holder of a job while it works: orders from the ledger, and signals from the machine."""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

from anon_tune.errors import DependencyError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import Orders, Request

__all__ = ["Watch", "stacks"]

_HEARTBEATS_PER_LEASE = 5
_LOOKS_PER_HEARTBEAT = 6  # at what needs no database
_LOOKS_TO_BELIEVE = 3  # who stops a service signals all of its processes, and ours may hear of it last
_NOTICE_SECONDS = 4.0  # and some more until Ray has stopped: within 10 s the lease is given back
_STOP_SECONDS = 30.0  # until Ray has stopped, on a machine that is busy
_TURN_SECONDS = 300.0  # Tune's loop turns several times a second

_log = logging.getLogger(__name__)


class Watch:
    """Renews a lease from a thread, and interrupts the main thread when the work is to stop now.

    That is when the lease is lost or could not be renewed in time, when the job is cancelled, when whoever started
    this process has ended, or something on which the work depends, and on SIGTERM and SIGINT. The interrupt is a
    KeyboardInterrupt, and is noted besides: Python ignores an exception that is raised in a destructor or in a
    callback of C code, and the main thread is often in Ray's. Between `notice` and its end a first signal from
    outside is no interrupt yet.

    Nobody may wait for a main thread that hangs, whose lease this thread would renew for ever: where it does not stop
    within half a minute of being told, or has not come by `check` for five minutes since the first `notice`, what all
    threads were doing is logged, and `on_hang` is called, once.

    Args:
        orders: What the holder was told last.
        is_wanted: Whether whoever started this process still lives.
        on_hang: Called by the thread that renews the lease, which then ends.

    Attributes:
        orders: What the ledger said at the last heartbeat.
        lost: Whether another process has the lease.
        unwritable: Why the lease could not be renewed before it ran out; None if it could.
        failure: What says that something has ended on which the work depends; None if nothing has.
    """

    def __init__(
        self,
        orders: Orders | None = None,
        is_wanted: Callable[[], bool] = lambda: True,
        on_hang: Callable[[], None] = lambda: None,
    ) -> None:
        self.orders = orders or Orders()
        self.on_hang = on_hang
        self.lost = False
        self.unwritable: Exception | None = None
        self.failure: Exception | None = None
        self._is_wanted = is_wanted
        self._interrupted = False
        self._busy = False
        self._at_once = False
        self._leave: Callable[[], None] | None = None
        self._deadline = math.inf
        self._turns = 0
        self._elsewhere = False
        self._look: Callable[[], None] = _nothing

    @property
    def leaving(self) -> bool:
        """Whether the work is to stop within seconds, and nothing new is to begin."""
        return self._deadline < math.inf

    def check(self) -> None:
        """Raise KeyboardInterrupt if the process was told to stop: the first may have been raised unheard."""
        self._turns += 1
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
        self._turns += 1
        try:
            yield
        finally:
            self._leave = None
            if self.leaving:
                self._interrupted = True

    @contextlib.contextmanager
    def depending_on(self, runs: Callable[[], bool], failure: Exception) -> Iterator[None]:
        """Interrupt the work once something does not run any more, or nobody can tell; `failure` is noted.

        After a signal it is not: who stops a service signals all of its processes. Nor is it where the work was done.
        """
        gone = 0

        def ended() -> bool:
            if self.leaving or self._interrupted or self._at_once:
                return False
            try:
                return not runs()
            except Exception:  # noqa: BLE001 - the thread that looks renews the lease too, and goes on
                _log.warning("whether what this works with still runs cannot be told", exc_info=True)
                return True

        def look() -> None:
            nonlocal gone
            gone = gone + 1 if ended() else 0
            if gone >= _LOOKS_TO_BELIEVE and self._look is look:
                self.failure = failure

        self._look = look
        try:
            yield
        except BaseException:
            if self.failure is None and ended():
                self.failure = failure
            if self.failure is not None:
                self._interrupted = True  # it stops already
            raise
        finally:
            self._look = _nothing

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
    def heartbeats(self, ledger: Ledger, lease: Lease) -> Iterator[None]:
        """Renew the lease from now on, and hear what it says. Raises LeaseLostError if it is lost already."""
        done = threading.Event()
        self.orders = ledger.leases.heartbeat(lease)
        interval = lease.seconds / _HEARTBEATS_PER_LEASE
        look_interval = interval / _LOOKS_PER_HEARTBEAT

        def beat() -> None:
            renewed, before, silent = time.monotonic(), None, 0
            due, unheard = renewed + interval, 0
            while not done.wait(look_interval):
                self._look()
                if time.monotonic() >= due:
                    due = max(due + interval, time.monotonic())
                    if not self._is_over():
                        renewed = self._renew(ledger, lease, renewed)
                if not self._interrupted and (self._is_over() or self._is_to_stop()):
                    self._at_once = True
                    if self._elsewhere:
                        self._interrupted = True
                    elif unheard % _LOOKS_PER_HEARTBEAT == 0:  # once more where it was raised unheard
                        # Not SIGINT, which is ignored by what a shell runs in the background.
                        _thread.interrupt_main(signal.SIGTERM)
                    unheard += 1
                stopping = self._interrupted or self._at_once
                now = "stopping" if stopping else self._turns
                # Looks are counted, not seconds: a process that was stopped for a while does not hang.
                silent = silent + 1 if now and now == before else 0
                before = now
                if silent * look_interval > (_STOP_SECONDS if stopping else _TURN_SECONDS):
                    _log.critical("job %s: its process hangs\n%s", lease.job, stacks())
                    self.on_hang()
                    return

        thread = threading.Thread(target=beat, name=f"heartbeat-{lease.job}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _renew(self, ledger: Ledger, lease: Lease, renewed: float) -> float:
        """Renew the lease, and return when it was renewed last."""
        try:
            self.orders = ledger.leases.heartbeat(lease)
            return time.monotonic()
        except LeaseLostError:
            self.lost = True
        except DependencyError as error:
            # For a moment: the lease lasts some heartbeats more, and writes are fenced.
            _log.warning("heartbeat of job %s: %s", lease.job, error)
            if time.monotonic() - renewed > lease.seconds:
                self.unwritable = error
        return renewed

    def _is_over(self) -> bool:
        return self.lost or self.unwritable is not None

    def _is_to_stop(self) -> bool:
        """Whether an interrupt is due: of what leaves no time, or of a signal some seconds ago."""
        asked = self.orders.request is Request.CANCEL or not self._is_wanted()
        return asked or self.failure is not None or time.monotonic() > self._deadline

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

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._leave is not None and not self.leaving and not self._at_once:
            self._deadline = time.monotonic() + _NOTICE_SECONDS
            self._leave()
            return
        self._interrupted = True
        if not self._busy:
            raise KeyboardInterrupt


def _nothing() -> None:
    """Do nothing: the default of what is called at each heartbeat."""


def stacks() -> str:
    """Return the stack of each thread of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}"
        for number, frame in sys._current_frames().items()
    )
