"""Live table of a job that runs in this process: in a terminal or in a notebook; elsewhere, notes on its code."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live

from anon_tune.console import live_view, notes_view
from anon_tune.errors import DependencyError
from anon_tune.jobs.interface import Jobs

__all__ = ["live_table"]

_LIVE_SECONDS = 0.5
_NOTEBOOK_WIDTH = 110


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
    # A notebook assigns output to cells by thread.
    with _in_notebook() if console.is_jupyter else _in_terminal(console) as show:
        thread = threading.Thread(target=_draw, args=(jobs, job_id, show, done), name="live", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _draw(jobs: Jobs, job_id: str, show: Callable[[RenderableType], None], done: threading.Event) -> None:
    """Draw a job at once, then repeatedly, and once more when it is done."""
    started, pause, first = time.monotonic(), 0.0, None
    ended = False
    while not ended:
        ended, pause = done.wait(pause), _LIVE_SECONDS
        try:
            job = jobs.job(job_id)
        except DependencyError:
            continue  # skip this update; the driver reports the error
        first = first or job
        show(live_view(job, time.monotonic() - started, first))


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
