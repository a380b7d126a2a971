"""Live table of a job that runs in this process: in a terminal or in a notebook; elsewhere, notes on its code."""

from __future__ import annotations

import contextlib
import io
import math
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live

from anon_tune.console import live_view, notes_view
from anon_tune.errors import DependencyError
from anon_tune.jobs.interface import Jobs
from anon_tune.views import JobView, TrialView

__all__ = ["LatestTrials", "live_table"]

_LIVE_SECONDS = 0.5
_NOTEBOOK_WIDTH, _NOTEBOOK_ROWS = 110, 40
_REST = 20.0
"""Seconds without reading trials, for each second that reading them took."""


@contextlib.contextmanager
def live_table(jobs: Jobs, job_id: str, console: Console | None) -> Iterator[None]:
    """Draw a job repeatedly, from a thread, while the context is open. Without a console nothing is drawn.

    A console that is neither a terminal nor a notebook gets the notes of the check-up alone.
    """
    if console is None:
        yield
        return
    done = threading.Event()
    if not console.is_terminal and not console.is_jupyter:
        threading.Thread(target=_print_notes, args=(jobs, job_id, console, done), daemon=True).start()
        try:
            yield
        finally:
            done.set()
        return
    rows = _NOTEBOOK_ROWS if console.is_jupyter else console.height
    # A notebook assigns output to cells by thread.
    with _in_notebook() if console.is_jupyter else _in_terminal(console) as show:
        thread = threading.Thread(
            target=_draw, args=(jobs, job_id, show, done, rows), name="live", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class LatestTrials:
    """Trials of a job for its plot, read when more of them have ended; a long list is read less often."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs, self._done, self._trials = jobs, 0, list[TrialView]()
        self._next = -math.inf

    def of(self, job: JobView) -> list[TrialView]:
        """Return the trials of a job, as they were a short time ago."""
        started = time.monotonic()
        if job.done != self._done and started >= self._next:
            self._trials, self._done = self._jobs.list_trials(job.id), job.done
            ended = time.monotonic()
            self._next = ended + _REST * (ended - started)
        return self._trials


def _draw(
    jobs: Jobs, job_id: str, show: Callable[[RenderableType], None], done: threading.Event, rows: int
) -> None:
    """Draw a job at once, then repeatedly, and once more when it is done."""
    started, pause, first = time.monotonic(), 0.0, None
    ended, trials = False, LatestTrials(jobs)
    while not ended:
        ended, pause = done.wait(pause), _LIVE_SECONDS
        try:
            job = jobs.job(job_id)
            seen = trials.of(job)
        except DependencyError:
            continue  # skip this update; the driver reports the error
        first = first or job
        show(live_view(job, time.monotonic() - started, first, seen, rows))


def _print_notes(jobs: Jobs, job_id: str, console: Console, done: threading.Event) -> None:
    """Print what the check-up has noticed, once it has ended."""
    while not done.wait(_LIVE_SECONDS):
        with contextlib.suppress(DependencyError):
            job = jobs.job(job_id)
            if job.probe is not None:
                for note in notes_view(job):
                    console.print(note, soft_wrap=True)
                return


@contextlib.contextmanager
def _in_terminal(console: Console) -> Iterator[Callable[[RenderableType], None]]:
    live = Live(console=console, transient=True, auto_refresh=False)

    def show(view: RenderableType) -> None:
        with contextlib.suppress(OSError):  # the terminal may be closed, which must not end the job
            live.update(view, refresh=True)

    live.start()
    try:
        yield show
    finally:
        with contextlib.suppress(OSError):
            live.stop()


@contextlib.contextmanager
def _in_notebook() -> Iterator[Callable[[RenderableType], None]]:
    """Yield a function that replaces the cell's output; Rich's own way needs ipywidgets."""
    from IPython.display import display

    place = display({"text/plain": ""}, raw=True, display_id=True)

    def show(view: RenderableType) -> None:
        written = Console(file=io.StringIO(), record=True, width=_NOTEBOOK_WIDTH, force_jupyter=False)
        written.print(view)
        place.update({"text/plain": written.export_text()}, raw=True)

    yield show
