"""The checker of histories: silent on a right one, and each planted fault is found."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.faults.checker import Fault, check
from benchmarks.faults.history import (
    Acquired,
    AttemptRow,
    Ended,
    Event,
    Extended,
    JobRow,
    Released,
    Renewed,
    Reported,
    ReportRow,
    Requested,
    Rows,
    Started,
    Submitted,
    TrialRow,
    append,
    read_history,
)

LEASE = 15.0


def at(seconds: float) -> datetime.datetime:
    return datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)


@dataclass(frozen=True)
class Case:
    history: tuple[Event, ...]
    rows: Rows

    def without(self, kind: type) -> Case:
        return replace(self, history=tuple(e for e in self.history if not isinstance(e, kind)))

    def add(self, *events: Event) -> Case:
        return replace(self, history=(*self.history, *events))

    def ledger(self, **rows: Sequence[object]) -> Case:
        return replace(self, rows=replace(self.rows, **rows))  # type: ignore[arg-type]

    def job(self, **values: object) -> Case:
        return self.ledger(jobs=[replace(self.rows.jobs[0], **values), *self.rows.jobs[1:]])  # type: ignore[arg-type]


def clean() -> Case:
    """One job of two trials, extended from one; its first holder dies in the second. Another job is cancelled."""
    history: tuple[Event, ...] = (
        Submitted("J", ("anon",), {"search": 1, "confirm": 0, "verdict": 0}),
        Submitted("K", ("anon",), {"search": 1, "confirm": 0, "verdict": 0}),
        Requested("K", "cancel", at(0)),
        Acquired("J", 1, "first", at(1), LEASE),
        Extended("J", 2),
        Started("J", 1, at(2), "J-1", 1),
        Reported("J", 1, at(3), "J-1", 1, 0.5, at(3)),
        Ended("J", 1, at(3), "J-1", "COMPLETE", 0.5),
        Renewed("J", 1, at(4)),
        Started("J", 1, at(5), "J-2", 1),
        Reported("J", 1, at(6), "J-2", 1, None, at(6)),
        Acquired("J", 2, "second", at(4 + LEASE), LEASE),
        Started("J", 2, at(21), "J-2", 2),
        Reported("J", 2, at(22), "J-2", 1, None, at(6)),  # reported again: the first one stands
        Reported("J", 2, at(23), "J-2", 2, 0.25, at(23)),
        Ended("J", 2, at(23), "J-2", "COMPLETE", 0.25),
        Released("J", 2),
    )
    rows = Rows(
        jobs=[JobRow("J", "SUCCEEDED", None, 2), JobRow("K", "CANCELLED", "cancel requested", 1)],
        trials=[
            TrialRow("J-1", "J", "anon", "search", "COMPLETE", 0.5),
            TrialRow("J-2", "J", "anon", "search", "COMPLETE", 0.25),
        ],
        attempts=[
            AttemptRow("J-1", 1, at(2), at(3)),
            AttemptRow("J-2", 1, at(5), at(19)),
            AttemptRow("J-2", 2, at(21), at(23)),
        ],
        reports=[
            ReportRow("J-1", 1, 1, 0.5, at(3)),
            ReportRow("J-2", 1, 1, None, at(6)),
            ReportRow("J-2", 2, 2, 0.25, at(23)),
        ],
    )
    return Case(history, rows)


def without_report(case: Case) -> Case:
    """Time of the last report that was confirmed to the first holder."""
    return case.ledger(reports=[report for report in case.rows.reports if report.time != at(3)])


def changed_report(case: Case) -> Case:
    first, *others = case.rows.reports
    return case.ledger(reports=[replace(first, value=0.75), *others])


def replaced_report(case: Case) -> Case:
    first, *others = case.rows.reports
    return case.ledger(reports=[replace(first, time=at(9)), *others])


def reopened(case: Case) -> Case:
    first, *others = case.rows.trials
    return case.ledger(trials=[replace(first, state="CANCELLED", value=None), *others])


def one_step_more(case: Case, step: int) -> Case:
    return case.ledger(reports=[*case.rows.reports, ReportRow("J-2", step, 2, 0.1, at(23))])


def one_attempt_more(case: Case, begin: float) -> Case:
    return case.ledger(attempts=[*case.rows.attempts, AttemptRow("J-2", 3, at(begin), at(30))])


def one_trial_more(case: Case, **values: str) -> Case:
    more = replace(TrialRow("J-3", "J", "anon", "search", "COMPLETE", 0.1), **values)  # type: ignore[arg-type]
    return case.ledger(trials=[*case.rows.trials, more])


def earlier_takeover(case: Case) -> Case:
    early = Acquired("J", 2, "second", at(3.5 + LEASE), LEASE)
    return case.without(Acquired).add(case.history[3], early)


PLANTED: dict[str, tuple[Fault, Callable[[Case], Case]]] = {
    "a job that is gone": (Fault.SUBMISSION_LOST, lambda c: c.ledger(jobs=c.rows.jobs[1:])),
    "a job that waits for ever": (Fault.SUBMISSION_LOST, lambda c: c.job(state="QUEUED")),
    "a job that nobody paused": (Fault.SUBMISSION_LOST, lambda c: c.job(state="PAUSED")),
    "a job that was resumed": (
        Fault.SUBMISSION_LOST,
        lambda c: c.job(state="PAUSED").add(
            Requested("J", "pause", at(24)), Requested("J", "resume", at(25))
        ),
    ),
    "a cancel without effect": (
        Fault.REQUEST_LOST,
        lambda c: c.job(state="PAUSED").add(Requested("J", "cancel", at(24))),
    ),
    "a cancelled job that is taken": (
        Fault.REQUEST_LOST,
        lambda c: c.add(Acquired("K", 1, "second", at(2), LEASE)),
    ),
    "a paused job that goes on": (
        Fault.REQUEST_LOST,
        lambda c: c.job(state="RUNNING").add(Requested("J", "pause", at(24))),
    ),
    "an extension without effect": (Fault.REQUEST_LOST, lambda c: c.job(trials=1)),
    "a report that is gone": (Fault.WRITE_LOST, without_report),
    "a report with another value": (Fault.WRITE_LOST, changed_report),
    "a report that was stored again": (Fault.WRITE_LOST, replaced_report),
    "an end that is gone": (Fault.WRITE_LOST, reopened),
    "an attempt that is gone": (Fault.WRITE_LOST, lambda c: c.ledger(attempts=c.rows.attempts[:2])),
    "a step twice": (Fault.STEP_TWICE, lambda c: one_step_more(c, 2)),
    "a step left out": (Fault.STEP_TWICE, lambda c: one_step_more(c, 4)),
    "an attempt after the end": (Fault.TRIAL_TWICE, lambda c: one_attempt_more(c, 24)),
    "two attempts at once": (Fault.TRIAL_TWICE, lambda c: one_attempt_more(c, 22)),
    "a lease given too early": (Fault.TWO_HOLDERS, earlier_takeover),
    "one token twice": (Fault.TWO_HOLDERS, lambda c: c.add(Acquired("J", 2, "third", at(50), LEASE))),
    "a write under a former lease": (
        Fault.TWO_HOLDERS,
        lambda c: c.add(Reported("J", 1, at(20), "J-1", 1, 0.5, at(3))),
    ),
    "a renewal of a former lease": (Fault.TWO_HOLDERS, lambda c: c.add(Renewed("J", 1, at(20)))),
    "a trial too many": (Fault.BUDGET, one_trial_more),
    "a trial too few": (Fault.BUDGET, lambda c: c.add(Extended("J", 3)).job(trials=3)),
    "a trial of another arm": (Fault.BUDGET, lambda c: one_trial_more(c, arm="sgd")),
    "a trial of another phase": (Fault.BUDGET, lambda c: one_trial_more(c, phase="verdict")),
    "a trial without an end": (Fault.BUDGET, lambda c: one_trial_more(c, phase="confirm", state="RUNNING")),
    "a cancelled job with too many": (Fault.BUDGET, lambda c: one_trial_more(one_trial_more(c, job="K"), job="K")),
}  # fmt: skip


def test_a_right_history_has_no_violation() -> None:
    assert check(clean().history, clean().rows) == []


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str) -> None:
    fault, plant = PLANTED[name]
    case = plant(clean())
    found = check(case.history, case.rows)
    assert fault in {violation.fault for violation in found}, found


def test_a_lease_that_was_given_back_may_be_given_at_once() -> None:
    early = earlier_takeover(clean())
    assert check((Released("J", 1), *early.history), early.rows) == []


def test_a_paused_job_may_rest_and_a_late_cancel_finds_the_job_ended() -> None:
    paused = clean().job(state="PAUSED").add(Requested("J", "pause", at(24)))
    assert check(paused.history, paused.rows) == []
    late = clean().add(Requested("J", "cancel", at(24)))
    assert check(late.history, late.rows) == []


def test_a_history_is_read_as_it_was_written(tmp_path: Path) -> None:
    for event in clean().history:
        append(tmp_path / "history", event)
    assert tuple(read_history(tmp_path / "history")) == clean().history
