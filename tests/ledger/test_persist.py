"""Transactions that are repeated, though the one before may have been stored."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from anon_tune.errors import ConflictError, DatabaseUnavailableError, LeaseLostError, TransitionError
from anon_tune.ledger import Lease, Ledger, Operations, after, retried
from anon_tune.ledger import ledger as ledger_module
from anon_tune.ledger.database import write
from anon_tune.records import JobState, NewTrial, Phase, TrialState

NEW = NewTrial("anon", Phase.SEARCH, 0, 7, {"x": 0.5}, {"lr": 0.1})


class Breaking:
    """A connection that breaks at the end of each transaction, before its commit or after it, and then works."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stored: bool) -> None:
        self.broken = 0
        self._stored, self._breaks = stored, True
        monkeypatch.setattr(ledger_module, "write", self._write)

    @contextlib.contextmanager
    def _write(self, engine: sa.Engine, *, durable: bool = True) -> Iterator[sa.Connection]:
        breaks, self._breaks = self._breaks, not self._breaks
        with write(engine, durable=durable) as connection:
            yield connection
            if breaks and not self._stored:
                self.broken += 1
                raise DatabaseUnavailableError("the connection broke before the commit")
        if breaks:
            self.broken += 1
            raise DatabaseUnavailableError("the connection broke after the commit")


def steps(lease: Lease) -> list[Callable[[Operations], Any]]:
    """All that a driver writes about one trial that is lost once, and about its job."""

    def begin(ledger: Operations) -> int:
        ledger.jobs.update(lease, phase=Phase.SEARCH)
        return ledger.attempts.start(lease, ledger.trials.add(lease, NEW).id)

    def end(ledger: Operations) -> Any:
        report = ledger.trials.report(lease, trial, 2, 3, 0.25, {"epoch_seconds": 1.0}, f"{trial}/2/3.pt")
        return report, ledger.trials.finish(lease, trial, TrialState.COMPLETE, 0.25)

    trial = NEW.id_in(lease.job)
    return [
        begin,
        lambda ledger: ledger.trials.report(
            lease, trial, 1, 1, 0.5, {"epoch_seconds": 1.0}, f"{trial}/1/1.pt"
        ),
        lambda ledger: ledger.attempts.lose(lease, trial, "its process died"),
        lambda ledger: ledger.attempts.start(lease, trial),
        # The first report of a step stands; the checkpoint is the new attempt's.
        lambda ledger: ledger.trials.report(lease, trial, 2, 1, 0.75, {}, f"{trial}/2/1.pt"),
        end,
        lambda ledger: ledger.leases.release(lease, JobState.SUCCEEDED, "done"),
    ]


def without_times(value: object) -> str:
    return re.sub(r"datetime\.datetime\([^()]*\)", "TIME", repr(value))


@pytest.mark.parametrize("stored", [True, False])
def test_a_transaction_whose_outcome_is_unknown_counts_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, stored: bool
):
    leases = [ledger.leases.acquire(ledger.jobs.create("x", {}, {}).id, "me", 600.0) for _ in range(2)]
    found = [[ledger.persist(step, lambda: True) for step in steps(leases[0])]]
    breaking = Breaking(monkeypatch, stored=stored)
    found.append([ledger.persist(step, lambda: False) for step in steps(leases[1])])
    assert breaking.broken == len(found[0])
    whole, broken = (
        (
            values,
            ledger.jobs.get(lease.job, trials=True).trials,
            ledger.attempts.of_job(lease.job),
            ledger.jobs.get(lease.job).state,
        )
        for values, lease in zip(found, leases, strict=True)
    )
    assert without_times(broken).replace(leases[1].job, leases[0].job) == without_times(whole)


def test_only_a_repetition_is_forgiven(ledger: Ledger):
    """A second start, end or release that is not one would be another process's, or an error of ours."""
    lease = ledger.leases.acquire(ledger.jobs.create("x", {}, {}).id, "me", 600.0)
    refused = {0: ConflictError, 2: TransitionError, 3: TransitionError, 5: ConflictError, 6: LeaseLostError}
    for number, step in enumerate(steps(lease)):
        ledger.persist(step, lambda: True)
        if number in refused:
            with pytest.raises(refused[number]):
                ledger.persist(step, lambda: True)


def test_a_repetition_under_a_lost_lease_is_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    lease = ledger.leases.acquire(ledger.jobs.create("x", {}, {}).id, "me", -1.0)
    Breaking(monkeypatch, stored=False)
    ledger.leases.acquire(lease.job, "another", 600.0)
    first, *_, last = steps(lease)
    for step in (first, last):
        with pytest.raises(LeaseLostError):
            ledger.persist(step, lambda: False)


def test_calls_end_when_nothing_more_may_be_tried():
    tries: list[bool] = []

    def fail(again: bool) -> None:
        tries.append(again)
        raise DatabaseUnavailableError("away")

    with pytest.raises(DatabaseUnavailableError, match="away"):
        retried(fail, lambda: len(tries) >= 3)
    assert tries == [False, True, True]
    with pytest.raises(DatabaseUnavailableError):
        retried(fail, after(-1.0))
    assert len(tries) == 4
    with pytest.raises(ZeroDivisionError):
        retried(lambda again: 1 // int(again), lambda: False)
