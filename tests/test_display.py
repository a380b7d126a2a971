"""The live table of a job in this process; without a terminal, the notes of the check-up."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from anon_tune import display
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Ledger
from anon_tune.records import JobState
from anon_tune.settings import Settings
from tests import builders
from tests.test_console import text


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


def test_a_job_is_drawn_at_once_and_once_more_at_its_end(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(display, "_LIVE_SECONDS", 1e6)  # nothing is drawn in between
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)
    shown: list[RenderableType] = []
    drawn, done = threading.Event(), threading.Event()

    def show(view: RenderableType) -> None:
        shown.append(view)
        drawn.set()

    jobs = LedgerJobs(ledger, Settings(home=tmp_path))
    thread = threading.Thread(target=display._draw, args=(jobs, job, show, done, 40))
    thread.start()
    assert drawn.wait(60)
    ledger.leases.release(lease, JobState.PAUSED, "no data")
    done.set()
    thread.join()
    first, last = (text(view, 140).splitlines() for view in shown)
    assert first[0].endswith("gone, estimating time left")
    assert "PAUSED after" in last[0]
    assert last[1].strip() == "no data"


class Closed(io.StringIO):
    """A terminal that was closed."""

    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_was_closed_does_not_end_the_work(ledger: Ledger, tmp_path: Path):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    terminal = Closed()
    console = Console(file=io.StringIO(), force_terminal=True)
    with display.live_table(LedgerJobs(ledger, Settings(home=tmp_path)), job, console):
        console.file = terminal


def test_notes_are_printed_where_no_table_can_be_drawn(ledger: Ledger, tmp_path: Path):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    lease = ledger.leases.acquire(job, "me", 60.0)
    ledger.jobs.update(lease, probe={"notes": ["no optimizer trains head.weight"]})
    written = io.StringIO()
    jobs = LedgerJobs(ledger, Settings(home=tmp_path))
    display._print_notes(jobs, job, Console(file=written), threading.Event())
    assert written.getvalue() == "  Note: no optimizer trains head.weight.\n"
