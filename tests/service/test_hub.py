"""Watching a job: one look for all, the newest state first, and an end when it is time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from anon_tune.errors import DependencyError
from anon_tune.ledger import Ledger
from anon_tune.records import JobState
from anon_tune.service import hub as module
from anon_tune.service.hub import Hub, Look
from anon_tune.spec import parse_spec
from anon_tune.views import JobView, job_view
from tests.service.conftest import SPEC


class Watched:
    """A job whose state the test sets, and which counts how often it is looked at."""

    def __init__(self, ledger: Ledger) -> None:
        job = ledger.jobs.create("watched", parse_spec(SPEC).model_dump(mode="json"), {})
        self._view = job_view(ledger.overviews.job(job.id))
        self.looks = 0
        self.error: Exception | None = None

    def set(self, state: JobState) -> None:
        self._view = self._view.model_copy(update={"state": state})

    def look(self, job_id: str) -> JobView:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return self._view.model_copy()


@pytest.fixture
def job(ledger: Ledger) -> Watched:
    return Watched(ledger)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(module, "_LARGEST_SHARE", 1e9)
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run in a thread of its own: a browser of other tests may have a loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, asyncio.wait_for(test(), 60)).result()


def may() -> bool:
    return True


async def state(looks: AsyncIterator[Look]) -> JobState:
    return (await anext(looks)).job.state


def test_all_watchers_share_looks_and_texts(job: Watched):
    async def test() -> None:
        hub = Hub(job.look, lambda: False)
        streams = [hub.watch("j", may) for _ in range(50)]
        await asyncio.gather(*(anext(stream) for stream in streams))
        before = job.looks
        job.set(JobState.RUNNING)
        seen = await asyncio.gather(*(anext(stream) for stream in streams))
        assert job.looks - before <= 2, "not one for each watcher"
        assert len({id(look) for look in seen}) == 1
        made = [look.text("name", lambda view: f"{view.name}, made anew") for look in seen]
        assert len({id(text) for text in made}) == 1
        for stream in streams:
            await stream.aclose()
        assert hub._jobs == {}

    run(test)


@pytest.mark.usefixtures("no_pauses")
def test_changes_are_sent_and_nothing_else(job: Watched):
    async def test() -> None:
        stream = Hub(job.look, lambda: False).watch("j", may)
        assert await state(stream) is JobState.QUEUED
        waiting = asyncio.ensure_future(anext(stream))
        before = job.looks
        while job.looks < before + 3:
            await asyncio.sleep(0)
        assert not waiting.done()
        job.set(JobState.RUNNING)
        assert (await waiting).job.state is JobState.RUNNING
        await stream.aclose()

    run(test)


def test_who_joins_sees_the_state_of_now(job: Watched):
    """A client that resumes a job and then watches it must not be told that it is still PAUSED."""

    async def test() -> None:
        hub = Hub(job.look, lambda: False)
        job.set(JobState.PAUSED)
        first = hub.watch("j", may)
        assert await state(first) is JobState.PAUSED
        job.set(JobState.QUEUED)
        second = hub.watch("j", may)
        assert await state(second) is JobState.QUEUED
        assert await state(first) is JobState.QUEUED
        await first.aclose()
        await second.aclose()

    run(test)


@pytest.mark.usefixtures("no_pauses")
def test_a_stream_ends_for_who_may_no_longer_watch(job: Watched):
    async def test() -> None:
        hub, allowed = Hub(job.look, lambda: False), [True]
        mine, other = hub.watch("j", lambda: allowed[0]), hub.watch("j", may)
        await anext(mine)
        await anext(other)
        allowed.clear()
        allowed.append(False)
        assert [look async for look in mine] == []
        job.set(JobState.RUNNING)
        assert await state(other) is JobState.RUNNING
        await other.aclose()
        assert [look async for look in hub.watch("j", lambda: False)] == []

    run(test)


@pytest.mark.usefixtures("no_pauses")
def test_streams_end_with_the_service(job: Watched):
    async def test() -> None:
        stopping = [False]
        stream = Hub(job.look, lambda: stopping[0]).watch("j", may)
        await anext(stream)
        stopping[0] = True
        assert [look async for look in stream] == []

    run(test)


@pytest.mark.usefixtures("no_pauses")
def test_an_error_reaches_each_watcher_and_is_forgotten(job: Watched):
    async def test() -> None:
        hub = Hub(job.look, lambda: False)
        streams = [hub.watch("j", may) for _ in range(2)]
        for stream in streams:
            await anext(stream)
        job.error = DependencyError("no database")
        for stream in streams:
            with pytest.raises(DependencyError):
                await anext(stream)
        job.error = None
        again = hub.watch("j", may)
        assert await state(again) is JobState.QUEUED
        await again.aclose()

    run(test)
