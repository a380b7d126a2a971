"""A check of a service's history: whatever it has confirmed is in its ledger, once, by one holder at a time.

`check` is a pure function of the history and of the ledger's rows at the end, when nothing works any more.
"""

from __future__ import annotations

import datetime
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from anon_tune.records import ENDED, FINISHED, JobState, Phase
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
    Requested,
    Rows,
    Started,
    Submitted,
)

__all__ = ["Fault", "Violation", "check"]


class Fault(StrEnum):
    """Kinds of violations."""

    SUBMISSION_LOST = "submission lost"
    """A confirmed job is gone, or it neither ended nor rests for a person who paused it."""
    REQUEST_LOST = "request lost"
    """A confirmed pause, cancel or extension had no effect."""
    WRITE_LOST = "write lost"
    """A confirmed start, report or end is gone or changed."""
    STEP_TWICE = "step twice"
    """A step has two reports, or was left out."""
    TRIAL_TWICE = "trial twice"
    """A trial had two attempts at once, or one after its end."""
    TWO_HOLDERS = "two holders"
    """A lease was given while another one was valid, or a process wrote after a newer lease was given."""
    BUDGET = "budget"
    """A job has other trials than its budget says."""


@dataclass(frozen=True)
class Violation:
    """A violation, its subject (a job, or a trial) and a text for people."""

    fault: Fault
    subject: str
    text: str


def check(history: Sequence[Event], rows: Rows) -> list[Violation]:
    """Return all violations, of every kind, in the order of `Fault`."""
    found = [
        *_submissions(history, rows),
        *_requests(history, rows),
        *_writes(history, rows),
        *_steps(rows),
        *_attempts(history, rows),
        *_holders(history),
        *_budgets(history, rows),
    ]
    return sorted(found, key=lambda violation: list(Fault).index(violation.fault))


def _submissions(history: Sequence[Event], rows: Rows) -> Iterator[Violation]:
    jobs = {job.id: job for job in rows.jobs}
    asked = {
        event.job: event.request for event in history if isinstance(event, Requested)
    }  # the last one counts
    for event in history:
        if isinstance(event, Submitted):
            job = jobs.get(event.job)
            if job is None:
                yield Violation(Fault.SUBMISSION_LOST, event.job, "the ledger has no such job")
            elif job.state not in ENDED and not (
                job.state == JobState.PAUSED and asked.get(job.id) == "pause"
            ):
                yield Violation(Fault.SUBMISSION_LOST, job.id, f"it is {job.state} ({job.reason}) in the end")


def _requests(history: Sequence[Event], rows: Rows) -> Iterator[Violation]:
    jobs = {job.id: job for job in rows.jobs}
    for index, event in enumerate(history):
        job = jobs.get(event.job)
        if job is None:
            continue
        if isinstance(event, Extended) and job.trials < event.trials:
            text = f"its budget has {job.trials} trials, and {event.trials} were confirmed"
            yield Violation(Fault.REQUEST_LOST, job.id, text)
        elif isinstance(event, Requested):
            later = [each for each in history[index + 1 :] if each.job == event.job]
            yield from _request(event, job, later)


def _request(event: Requested, job: JobRow, later: Sequence[Event]) -> Iterator[Violation]:
    """A job that was cancelled is over, and is not worked on anew; one that was paused rests until it is resumed."""
    withdrawn = any(isinstance(each, Requested | Extended) for each in later)
    if event.request == "resume" or withdrawn:
        return
    rests = {*ENDED, JobState.PAUSED} if event.request == "pause" else ENDED
    if job.state not in rests:
        yield Violation(Fault.REQUEST_LOST, job.id, f"it is {job.state} after a confirmed {event.request}")
    for each in later:
        if isinstance(each, Acquired) and each.time > event.time:
            text = f"{each.holder} took it after a confirmed {event.request}"
            yield Violation(Fault.REQUEST_LOST, job.id, text)


def _writes(history: Sequence[Event], rows: Rows) -> Iterator[Violation]:
    trials = {trial.id: trial for trial in rows.trials}
    attempts = {(attempt.trial, attempt.number) for attempt in rows.attempts}
    reports = {(report.trial, report.step): report for report in rows.reports}
    for event in history:
        match event:
            case Started() if (event.trial, event.attempt) not in attempts:
                yield Violation(Fault.WRITE_LOST, event.trial, f"attempt {event.attempt} is gone")
            case Reported():
                report = reports.get((event.trial, event.step))
                if report is None:
                    yield Violation(Fault.WRITE_LOST, event.trial, f"the report of step {event.step} is gone")
                elif (report.value, report.time) != (event.value, event.stored):
                    text = f"the report of step {event.step} has changed: {event} is now {report}"
                    yield Violation(Fault.WRITE_LOST, event.trial, text)
            case Ended():
                trial = trials.get(event.trial)
                if trial is None or (trial.state, trial.value) != (event.state, event.value):
                    yield Violation(Fault.WRITE_LOST, event.trial, f"its end is gone: {event} is now {trial}")


def _steps(rows: Rows) -> Iterator[Violation]:
    steps: dict[str, list[int]] = defaultdict(list)
    for report in rows.reports:
        steps[report.trial].append(report.step)
    for trial, found in steps.items():
        if sorted(found) != list(range(1, len(found) + 1)):
            odd = sorted(Counter(found).items())
            yield Violation(Fault.STEP_TWICE, trial, f"its steps, each with the number of its reports: {odd}")


def _attempts(history: Sequence[Event], rows: Rows) -> Iterator[Violation]:
    ends = {event.trial: event.time for event in history if isinstance(event, Ended)}
    of_trial: dict[str, list[AttemptRow]] = defaultdict(list)
    for attempt in sorted(rows.attempts, key=lambda each: each.number):
        of_trial[attempt.trial].append(attempt)
    for trial, attempts in of_trial.items():
        for before, after in itertools.pairwise(attempts):
            if before.finished is None or before.finished > after.started:
                text = f"attempt {after.number} began before attempt {before.number} had ended"
                yield Violation(Fault.TRIAL_TWICE, trial, text)
        if trial in ends and attempts[-1].started > ends[trial]:
            text = f"attempt {attempts[-1].number} began after the trial's end"
            yield Violation(Fault.TRIAL_TWICE, trial, text)


def _holders(history: Sequence[Event]) -> Iterator[Violation]:
    jobs: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        jobs[event.job].append(event)
    for job, events in jobs.items():
        taken = sorted((e for e in events if isinstance(e, Acquired)), key=lambda e: e.token)
        for before, after in itertools.pairwise(taken):
            yield from _handed_over(job, events, before, after)


def _handed_over(job: str, events: Iterable[Event], before: Acquired, after: Acquired) -> Iterator[Violation]:
    """The former lease was given back or has run out, and nobody has written under it since.

    A process may have died between a renewal and its event, so a lease may have been valid for longer than the
    history says: never for less.
    """
    if after.token == before.token:
        yield Violation(
            Fault.TWO_HOLDERS, job, f"{before.holder} and {after.holder} have token {after.token}"
        )
        return
    renewed, released = before.time, False
    for event in events:
        if isinstance(event, Renewed | Started | Reported | Ended) and event.token == before.token:
            if event.time > after.time:
                text = (
                    f"{event.kind} under token {event.token} at {event.time}, after {after.token} was given"
                )
                yield Violation(Fault.TWO_HOLDERS, job, f"{text} at {after.time}")
            elif isinstance(event, Renewed):
                renewed = max(renewed, event.time)
        released |= isinstance(event, Released) and event.token == before.token
    expires = renewed + datetime.timedelta(seconds=before.seconds)
    if not released and after.time < expires:
        text = f"{after.holder} took it at {after.time}, while {before.holder} held it until {expires}"
        yield Violation(Fault.TWO_HOLDERS, job, text)


def _budgets(history: Sequence[Event], rows: Rows) -> Iterator[Violation]:
    """A job that has SUCCEEDED has made its trials, and no other; no other job has made more."""
    jobs = {job.id: job for job in rows.jobs}
    totals = {event.job: event.trials for event in history if isinstance(event, Extended)}
    finished = {trial.id for trial in rows.trials if trial.state in FINISHED}
    for event in history:
        job = jobs.get(event.job)
        if not isinstance(event, Submitted) or job is None:
            continue
        expected = {**event.trials, Phase.SEARCH: max(event.trials[Phase.SEARCH], totals.get(event.job, 0))}
        of_job = [trial for trial in rows.trials if trial.job == event.job]
        made = Counter((trial.arm, trial.phase) for trial in of_job)
        succeeded = job.state == JobState.SUCCEEDED
        for arm, phase in sorted({*made, *((arm, phase) for arm in event.arms for phase in expected)}):
            number = expected.get(phase, 0) if arm in event.arms else 0
            if made[arm, phase] > number or (succeeded and made[arm, phase] < number):
                text = f"{made[arm, phase]} trials of {arm} in its {phase} phase instead of {number}"
                yield Violation(Fault.BUDGET, event.job, text)
        for trial in of_job:
            if succeeded and trial.id not in finished:
                yield Violation(Fault.BUDGET, trial.id, f"it is {trial.state}, and its job has SUCCEEDED")
