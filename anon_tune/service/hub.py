"""Live views of jobs: one look at the ledger per job and second, for all who watch it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from anon_tune.errors import NotFoundError
from anon_tune.views import JobView

__all__ = ["Hub", "Look"]

_LOOK_SECONDS = 1.0
_LARGEST_SHARE = 0.1
"""Share of the time that looks at one job may take: a job of many trials is looked at less often."""
_CHECK_SECONDS = 3.0
"""Time between checks of whether someone may still watch."""


@dataclass(frozen=True, eq=False)
class Look:
    """A job as it was seen, the same for all who watch it."""

    job: JobView
    _texts: dict[str, str] = field(default_factory=dict, repr=False)

    def text(self, name: str, make: Callable[[JobView], str]) -> str:
        """Return a text made from the job, such as its JSON or a part of a page; it is made once for all.

        Args:
            name: Names the text; texts that differ for two users need two names.
            make: Makes it.
        """
        if name not in self._texts:
            self._texts[name] = make(self.job)
        return self._texts[name]


class _Watched:
    """A job that is watched, and the task that looks at it."""

    def __init__(self, look: Callable[[], JobView]) -> None:
        self._look = look
        self._begun = self._ended = 0
        self._error: Exception | None = None
        self._hurry, self._next = asyncio.Event(), asyncio.Event()
        self.watchers = 0
        self.latest: Look | None = None
        self.task = asyncio.create_task(self._run())

    async def fresh(self) -> None:
        """Wait for a look that begins after this call."""
        number = self._begun + 1
        self._hurry.set()
        while self._ended < number:
            await self.next()

    async def next(self) -> None:
        """Wait for the end of the next look, and raise the error that it ended with."""
        if self._error is None:
            await self._next.wait()
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        while self._error is None:
            self._hurry.clear()
            self._begun += 1
            began = time.monotonic()
            try:
                job = await run_in_threadpool(self._look)
            except Exception as error:  # noqa: BLE001 (each watcher raises it)
                self._error = error
            else:
                if self.latest is None or self.latest.job != job:
                    self.latest = Look(job)
            self._ended += 1
            self._next.set()
            self._next = asyncio.Event()
            pause = max(_LOOK_SECONDS, (time.monotonic() - began) / _LARGEST_SHARE)
            await _wait(self._hurry, pause)


class Hub:
    """Watched jobs of one instance of the service: `app.state.hub`.

    Args:
        look: Returns a job by its id; called in another thread.
        is_stopping: Returns whether the service stops, so that all streams have to end.
    """

    def __init__(self, look: Callable[[str], JobView], is_stopping: Callable[[], bool]) -> None:
        self._look, self._is_stopping = look, is_stopping
        self._jobs: dict[str, _Watched] = {}

    async def watch(self, job_id: str, may_watch: Callable[[], bool]) -> AsyncGenerator[Look]:
        """Yield the job as it is now, and whenever it has changed, until the service stops or the job is deleted.

        Args:
            job_id: Id of the job.
            may_watch: Asked again every few seconds, in another thread; the watch ends if it returns False.
        """
        with self._joined(job_id) as watched:
            due = time.monotonic() + _CHECK_SECONDS
            if not await run_in_threadpool(may_watch):
                return
            await watched.fresh()  # a job at rest that was resumed just now must not seem to be at rest still
            seen = None
            while not self._is_stopping():
                if time.monotonic() >= due:
                    if not await run_in_threadpool(may_watch):
                        return
                    due = time.monotonic() + _CHECK_SECONDS
                if watched.latest is not None and watched.latest is not seen:
                    seen = watched.latest
                    yield seen
                else:
                    try:
                        await watched.next()
                    except NotFoundError:  # it was deleted
                        return

    @contextlib.contextmanager
    def _joined(self, job_id: str) -> Iterator[_Watched]:
        watched = self._jobs.get(job_id)
        if watched is None or watched.task.done():
            watched = self._jobs[job_id] = _Watched(lambda: self._look(job_id))
        watched.watchers += 1
        try:
            yield watched
        finally:
            watched.watchers -= 1
            if watched.watchers == 0:
                watched.task.cancel()
                if self._jobs.get(job_id) is watched:
                    del self._jobs[job_id]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not longer than some seconds."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
