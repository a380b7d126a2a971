"""The time limit of an attempt: the driver asks for its end, and the attempt's own process ends itself.

Tune cannot end a process that hangs: it would give it to the next trial. Needs neither torch nor Ray.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from anon_tune.records import RAN_TOO_LONG

__all__ = ["Watchdog", "ask_to_end", "overdue", "withdraw"]

_TIMES_MEDIAN = 10
_LEAST_SECONDS = 600.0
_LOOK_SECONDS = 1.0
_SUFFIX = ".end"
_STANDARD_ERROR = 2


def overdue(seconds: float, limit: float | None, completed: Iterable[float]) -> str | None:
    """Return a reason if an attempt that has run for `seconds` must end, else None.

    The text is the same for all trials under one limit: three failures for one reason pause a job.

    Args:
        seconds: Duration of the attempt so far.
        limit: `budget.trial_time`; None for ten times the median of `completed`, but at least ten minutes.
        completed: Durations of the arm's COMPLETE trials in seconds. Without any, only `limit` counts.
    """
    if limit is not None:
        if seconds <= limit:
            return None
        return (
            f"{RAN_TOO_LONG} {limit:g} s (budget.trial_time) and was stopped. `anon-tune logs` shows where it "
            "hung; set a larger budget.trial_time if it only needs longer."
        )
    if seconds <= _LEAST_SECONDS:
        return None
    durations = list(completed)
    if not durations or seconds <= _TIMES_MEDIAN * statistics.median(durations):
        return None
    return (
        f"{RAN_TOO_LONG} 10 minutes and ten times the median of its arm's trials, and was stopped. `anon-tune "
        "logs` shows where it hung; set budget.trial_time if trials need longer."
    )


def ask_to_end(root: Path, trial: str, attempt: int) -> None:
    """Ask the process of an attempt to end, by a file in the job's folder of checkpoints."""
    with contextlib.suppress(OSError):  # the driver asks again
        _request(root, trial, attempt).touch()


def withdraw(root: Path, trial: str | None = None, attempt: int = 0) -> None:
    """Withdraw the request to end an attempt; without `trial`, those of all attempts of the job."""
    with contextlib.suppress(OSError):
        for path in root.glob(f"*{_SUFFIX}") if trial is None else [_request(root, trial, attempt)]:
            path.unlink(missing_ok=True)


class Watchdog:
    """Ends this process, which may hang, once the driver asks for the end of its attempt.

    A thread looks for the request once a second, until `close`. Before it ends the process, it writes the stack of
    each thread to standard error, and kills all child processes.

    Args:
        root: The job's folder of checkpoints.
        trial: The trial's id.
        attempt: Its number.
        seconds: Time between two checks.
        end: Ends what works on the attempt; by default this process.
    """

    def __init__(
        self,
        root: Path,
        trial: str,
        attempt: int,
        seconds: float = _LOOK_SECONDS,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._end = end or _end_process
        self._request = _request(root, trial, attempt)
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop checking: the attempt is over, and the process may train another trial."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._seconds):
            # Not Path.exists, which raises if a file system fails for a moment.
            if os.path.exists(self._request):  # noqa: PTH110
                self._end()
                return


def _request(root: Path, trial: str, attempt: int) -> Path:
    return root / f"{trial}.{attempt}{_SUFFIX}"


def _end_process() -> None:
    """End this process and its child processes at once."""
    try:
        with contextlib.suppress(Exception):
            os.write(_STANDARD_ERROR, _stacks().encode(errors="replace"))
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    finally:
        os._exit(1)


def _stacks() -> str:
    """Return the stack of each other thread, innermost call last; a user's training function comes last.

    Only the last lines of a trial's output are kept, and `faulthandler` would write the main thread's oldest calls
    there. Source lines are left out: the file system may be what hangs.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main, own = threading.main_thread().ident, threading.get_ident()
    frames = [(number, frame) for number, frame in sys._current_frames().items() if number != own]
    frames.sort(key=lambda item: (names.get(item[0]) == "training", item[0] == main))
    lines = ["The time limit of this trial is over. Each thread, innermost call last:"]
    for number, frame in frames:
        lines.append(f"Thread {names.get(number, number)}:")
        calls = list(traceback.walk_stack(frame))
        lines += [
            f"  {f.f_code.co_filename}:{line}, in {f.f_code.co_qualname}" for f, line in reversed(calls)
        ]
    return "\n".join([*lines, ""])
