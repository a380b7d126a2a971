"""The live table of a job that runs in this process: in a terminal, or in a notebook."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from sqlalchemy.exc import DBAPIError

from anon_tune.backend import Backend
from anon_tune.console import live_view
from anon_tune.errors import DependencyError

__all__ = ["live_table"]

_LIVE_SECONDS = 0.5


@contextlib.contextmanager
def live_table(backend: Backend, job_id: str, console: Console | None) -> Iterator[None]:
    """Draw a job again and again, by a thread, as long as the context is open; None: draw nothing."""
    if console is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_draw, args=(backend, job_id, console, done), name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _draw(backend: Backend, job_id: str, console: Console, done: threading.Event) -> None:
    started = time.monotonic()
    before = backend.job(job_id).done
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while not done.wait(_LIVE_SECONDS):
            try:
                job = backend.job(job_id)
            except (DBAPIError, DependencyError):
                continue  # the table may miss a beat; the driver says what ails the database
            live.update(live_view(job, time.monotonic() - started, before), refresh=True)
