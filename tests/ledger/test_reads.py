"""Reads take from the database what they need: no search spaces, no metrics before someone asks for them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from anon_tune.ledger import Lease, Ledger, rows
from anon_tune.records import NewTrial, Phase, TrialState

SPEC = {
    "arms": ["anon"],
    "objective": {"mode": "min"},
    "budget": {"trials": 4},
    "task": "t",
    "model": {"name": "m"},
}


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """The statements that are executed meanwhile."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    """Lease on a job with a COMPLETE trial and a running one, of two reports each."""
    lease = ledger.leases.acquire(ledger.jobs.create("x", SPEC, {"anon": {}}).id, "me", 600.0)
    for number in range(2):
        trial = ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, number, number, {"x": number}, {})).id
        ledger.attempts.start(lease, trial)
        for step in (1, 2):
            ledger.trials.report(lease, trial, 1, step, 1.0 / step, {"loss": step, "other": math.nan})
    ledger.trials.finish(lease, trial, TrialState.COMPLETE, 0.5)
    return lease


def test_search_spaces_are_read_by_those_who_need_them_alone(ledger: Ledger, lease: Lease):
    with statements() as found:
        ledger.overviews.jobs(1000)
        ledger.overviews.job(lease.job)
        ledger.overviews.answered("mlp", 100)
        ledger.overviews.measured("t", "m", 20)
        ledger.jobs.get(lease.job)
        ledger.leases.heartbeat(lease)
        ledger.jobs.pause(lease.job)
        ledger.leases.claim("you", 60.0)
    assert found
    assert not [statement for statement in found if "spaces" in statement]


def test_metrics_are_decoded_when_they_are_needed(
    ledger: Ledger, lease: Lease, monkeypatch: pytest.MonkeyPatch
):
    decoded: list[str] = []
    loads = rows.json.loads
    monkeypatch.setattr(rows.json, "loads", lambda text: (decoded.append(text), loads(text))[1])
    trials = ledger.jobs.get(lease.job, trials=True).trials
    values = [[(report.step, report.value) for report in trial.reports] for trial in trials]
    assert values == [[(1, 1.0), (2, 0.5)]] * 2
    assert not [text for text in decoded if "loss" in str(text)]
    last = trials[0].reports[-1].metrics
    assert (last["loss"], math.isnan(last["other"]), sorted(last)) == (2.0, True, ["loss", "other"])
    assert len([text for text in decoded if "loss" in str(text)]) == 1


def test_progress_is_counted_by_the_database(ledger: Ledger, lease: Lease):
    with statements() as found:
        assert ledger.overviews.progress(lease.job) == 4 + 1
    assert not [statement for statement in found if "metrics" in statement or "params" in statement]
    ledger.trials.report(lease, f"{lease.job}-anon-s000", 1, 3, 0.1, {})
    assert ledger.overviews.progress(lease.job) == 5 + 1
    assert ledger.overviews.progress("nothing") == 0
