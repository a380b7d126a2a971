"""The ledger's contract, on every kind of database it runs on."""

from __future__ import annotations

import dataclasses
import inspect
import math
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from anon_tune.errors import (
    AnonTuneError,
    ConflictError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    TransitionError,
)
from anon_tune.ledger import Cursor, Lease, Ledger, Operations, open_database
from anon_tune.ledger.tables import ATTEMPTS
from anon_tune.records import (
    FINISHED,
    JobState,
    LearningCurve,
    NewTrial,
    Phase,
    ReportPlace,
    Trial,
    TrialColumn,
    TrialQuery,
    TrialReport,
    TrialState,
)

LONG = 3600.0
"""Seconds of a lease that outlives its test."""
OVER = -1.0
"""Seconds of a lease that has run out when it begins."""
TOGETHER = 4


@pytest.fixture
def job(ledger: Ledger) -> str:
    return ledger.jobs.create("a job", {"name": "a job"}, {"anon": {}}).id


def new_trial(number: int = 0, **changes: Any) -> NewTrial:
    plain = NewTrial("anon", Phase.SEARCH, number, 100 + number, {"gamma": number / 8}, {"lr": 0.1})
    return dataclasses.replace(plain, **changes)


def only_trial(ledger: Ledger, job: str) -> Trial:
    (found,) = ledger.jobs.get(job, trials=True).trials
    return found


def attempts(url: str, trial_id: str) -> list[tuple[int, str | None, str | None]]:
    """Number, outcome and reason of a trial's attempts; an open one has no outcome and no end."""
    engine = open_database(url)
    with engine.connect() as connection:
        query = sa.select(ATTEMPTS).where(ATTEMPTS.c.trial_id == trial_id).order_by(ATTEMPTS.c.number)
        rows = connection.execute(query).mappings().all()
    engine.dispose()
    assert all((row["finished"] is None) == (row["outcome"] is None) for row in rows)
    return [(row["number"], row["outcome"], row["reason"]) for row in rows]


# Jobs


def test_a_job_comes_back_as_it_was_stored(ledger: Ledger):
    spec = {"name": "café", "budget": {"trials": 3}, "lr": 0.1 + 0.2}
    made = ledger.jobs.create("café", spec, {"anon": {"z": 1, "a": 2}})
    found = ledger.jobs.get(made.id)
    assert found == made
    assert (found.state, found.phase, found.lease, found.result) == (JobState.QUEUED, Phase.PROBE, None, None)
    assert found.spec == spec
    assert found.created.tzinfo is not None
    assert list(ledger.jobs.spaces(made.id)["anon"]) == [
        "z",
        "a",
    ]  # the order of coordinates decides the search


def test_job_ids_are_short_unique_and_safe_in_urls_and_file_names(ledger: Ledger):
    ids = [ledger.jobs.create("x", {}, {}).id for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(len(i) <= 8 and i.isascii() and i.isalnum() and i == i.lower() for i in ids)


def test_jobs_lists_the_newest_first(ledger: Ledger):
    made = [ledger.jobs.create(f"job {n}", {}, {}) for n in range(3)]
    listed = ledger.overviews.jobs()
    assert {record.id for record in listed} == {record.id for record in made}
    assert [record.created for record in listed] == sorted((r.created for r in made), reverse=True)


def test_measured_jobs_of_a_task_and_model_are_found(ledger: Ledger):
    def measured(model: str | None, probe: dict[str, float] | None) -> str:
        spec = {"task": "t", "model": model and {"name": model}, "arms": ["anon"]}
        job = ledger.jobs.create("job", spec, {}).id
        lease = ledger.leases.acquire(job, "me", 60.0)
        if probe is not None:
            ledger.jobs.update(lease, probe=probe)
        return job

    one, *_, other = measured("cnn", {"a": 1.0}), measured("cnn", None), measured(None, {"b": 2.0})
    assert [job.id for job in ledger.overviews.measured("t", "cnn", 9)] == [one]
    assert [job.id for job in ledger.overviews.measured("t", None, 9)] == [other]
    assert ledger.overviews.measured("u", "cnn", 9) == []


def test_answers_change_when_a_job_succeeds(ledger: Ledger, job: str):
    assert ledger.overviews.answers() == (0, None)
    ledger.leases.release(ledger.leases.acquire(job, "me", 60.0), JobState.SUCCEEDED)
    assert ledger.overviews.answers() == (1, ledger.jobs.get(job).finished)


@pytest.mark.parametrize(
    "ask",
    [
        lambda ledger: ledger.jobs.get("nothere"),
        lambda ledger: ledger.jobs.spaces("nothere"),
        lambda ledger: ledger.leases.acquire("nothere", "me", LONG),
    ],
    ids=["job", "spaces", "acquire"],
)
def test_an_unknown_job_is_not_found(ledger: Ledger, ask: Callable[[Ledger], Any]):
    with pytest.raises(NotFoundError, match="nothere"):
        ask(ledger)


def test_results_of_a_job_are_stored(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.jobs.update(lease, phase=Phase.SEARCH, probe={"log_mean_sigma": -9.5})
    ledger.jobs.update(lease, architecture={"family": "cnn"}, result={"verdict": []})
    found = ledger.jobs.get(job)
    assert found.phase is Phase.SEARCH
    assert found.probe == {"log_mean_sigma": -9.5}
    assert found.architecture == {"family": "cnn"}
    assert found.result == {"verdict": []}


# Leases


def test_a_lease_has_one_holder(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "first", LONG)
    with pytest.raises(LeaseHeldError, match="first"):
        ledger.leases.acquire(job, "second", LONG)
    found = ledger.jobs.get(job)
    assert found.state is JobState.RUNNING
    assert found.started is not None
    assert found.lease is not None
    assert (found.lease.holder, found.lease.token, found.lease.alive) == ("first", lease.token, True)
    assert (found.lease.expires - found.lease.heartbeat).total_seconds() == pytest.approx(LONG)


def test_an_expired_lease_can_be_acquired(ledger: Ledger, job: str):
    first = ledger.leases.acquire(job, "first", OVER)
    begun = ledger.jobs.get(job)
    assert begun.lease is not None
    assert not begun.lease.alive
    second = ledger.leases.acquire(job, "second", LONG)
    assert second.token > first.token
    found = ledger.jobs.get(job)
    assert found.lease is not None
    assert found.lease.holder == "second"
    assert found.started == begun.started


def test_a_heartbeat_renews(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", OVER)
    # Nobody has taken it, so it is still the holder's to renew.
    ledger.leases.heartbeat(dataclasses.replace(lease, seconds=LONG))
    with pytest.raises(LeaseHeldError):
        ledger.leases.acquire(job, "other", LONG)


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (JobState.PAUSED, True),
        (JobState.QUEUED, True),
        (JobState.SUCCEEDED, False),
        (JobState.FAILED, False),
        (JobState.CANCELLED, False),
    ],
)
def test_release_ends_the_lease(ledger: Ledger, job: str, state: JobState, again: bool):
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.leases.release(lease, state, "because")
    found = ledger.jobs.get(job)
    assert (found.state, found.reason, found.lease) == (state, "because", None)
    ended = state in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    assert (found.finished is not None) == ended
    if again:
        ledger.leases.acquire(job, "next", LONG)
        assert ledger.jobs.get(job).reason is None
    else:
        said = rf"Job {job} has ended as {state} \(because\).*`anon-tune show {job}`.*anon-tune run SPEC"
        with pytest.raises(TransitionError, match=said):
            ledger.leases.acquire(job, "next", LONG)
        assert ledger.jobs.get(job) == found


def test_no_job_runs_without_a_lease(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    before = ledger.jobs.get(job)
    with pytest.raises(TransitionError):
        ledger.leases.release(lease, JobState.RUNNING)
    assert ledger.jobs.get(job) == before


# Trials


def test_a_trial_comes_back_as_it_was_stored(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    new = new_trial(params={"gamma": 0.1 + 0.2, "delay": 2.0}, hyperparameters={"betas": [0.9, 0.999, 0.5]})
    made = ledger.trials.add(lease, new)
    assert made == only_trial(ledger, job)
    assert made.id == f"{job}-anon-s000"
    assert (made.state, made.attempts, made.reports) == (TrialState.WAITING, 0, ())
    assert made.params == new.params


def test_a_trial_id_names_a_further_search(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    made = ledger.trials.add(lease, new_trial(12, repeat=3))
    assert made == only_trial(ledger, job)
    assert (made.id, made.repeat) == (f"{job}-anon-s012r3", 3)


@pytest.mark.parametrize(
    "second",
    [new_trial(1, seed=100, params={"gamma": 0.0}), new_trial(0, seed=7, params={"gamma": 9.0})],
    ids=["configuration and seed", "number"],
)
def test_a_duplicate_trial_is_refused(ledger: Ledger, job: str, second: NewTrial):
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.trials.add(lease, new_trial(0, seed=100, params={"gamma": 0.0}))
    before = ledger.jobs.get(job, trials=True)
    with pytest.raises(ConflictError, match="repeats"):
        ledger.trials.add(lease, second)
    assert ledger.jobs.get(job, trials=True) == before


@pytest.mark.parametrize(
    "second",
    [
        new_trial(1, seed=5),
        new_trial(0, arm="sgd"),
        new_trial(0, phase=Phase.CONFIRM),
        new_trial(0, repeat=1),
    ],
    ids=["another seed", "another arm", "another phase", "another search"],
)
def test_a_different_trial_is_added(ledger: Ledger, job: str, second: NewTrial):
    lease = ledger.leases.acquire(job, "me", LONG)
    ledger.trials.add(lease, new_trial(0))
    ledger.trials.add(lease, dataclasses.replace(second, params={"gamma": 0.0}))
    assert len(ledger.jobs.get(job, trials=True).trials) == 2


def into(ledger: Ledger, lease: Lease, trial_id: str, state: TrialState) -> None:
    """Move a WAITING trial to a state by the ledger's own methods."""
    if state is not TrialState.WAITING:
        ledger.attempts.start(lease, trial_id)
    if state in FINISHED:
        ledger.trials.finish(lease, trial_id, state)


def move(ledger: Ledger, lease: Lease, trial_id: str, state: TrialState) -> None:
    """Ask for one step to a state, whatever the state before."""
    if state is TrialState.WAITING:
        ledger.attempts.lose(lease, trial_id, "lost")
    elif state is TrialState.RUNNING:
        ledger.attempts.start(lease, trial_id)
    else:
        ledger.trials.finish(lease, trial_id, state)


ALLOWED = {
    TrialState.WAITING: {TrialState.RUNNING, TrialState.CANCELLED},
    TrialState.RUNNING: {
        TrialState.WAITING,
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.DIVERGED,
        TrialState.FAILED,
        TrialState.CANCELLED,
    },
}


@pytest.mark.parametrize("before", TrialState)
def test_trial_transitions(ledger: Ledger, job: str, before: TrialState):
    lease = ledger.leases.acquire(job, "me", LONG)
    for number, after in enumerate(TrialState):
        trial_id = ledger.trials.add(lease, new_trial(number)).id
        into(ledger, lease, trial_id, before)
        stored = ledger.jobs.get(job, trials=True)
        if after in ALLOWED.get(before, ()):
            move(ledger, lease, trial_id, after)
            moved = next(t for t in ledger.jobs.get(job, trials=True).trials if t.id == trial_id)
            assert moved.state is after
            assert (moved.finished is not None) == (after in FINISHED)
        else:
            with pytest.raises(TransitionError):
                move(ledger, lease, trial_id, after)
            assert ledger.jobs.get(job, trials=True) == stored


@pytest.mark.parametrize("state", [TrialState.WAITING, TrialState.RUNNING])
def test_only_an_end_finishes_a_trial(ledger: Ledger, job: str, state: TrialState):
    lease = ledger.leases.acquire(job, "me", LONG)
    trial_id = ledger.trials.add(lease, new_trial()).id
    ledger.attempts.start(lease, trial_id)
    with pytest.raises(TransitionError):
        ledger.trials.finish(lease, trial_id, state)
    assert only_trial(ledger, job).state is TrialState.RUNNING


def test_attempts_are_counted_and_closed(ledger: Ledger, job: str, database_url: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    trial_id = ledger.trials.add(lease, new_trial()).id
    assert ledger.attempts.start(lease, trial_id) == 1
    started = only_trial(ledger, job).started
    ledger.attempts.lose(lease, trial_id, "the worker died")
    assert ledger.attempts.start(lease, trial_id) == 2
    assert attempts(database_url, trial_id) == [(1, "LOST", "the worker died"), (2, None, None)]
    ended = ledger.trials.finish(lease, trial_id, TrialState.COMPLETE, 0.25, "done")
    assert attempts(database_url, trial_id) == [(1, "LOST", "the worker died"), (2, "COMPLETE", "done")]
    found = only_trial(ledger, job)
    assert (found.attempts, found.value, found.reason, found.finished) == (2, 0.25, "done", ended)
    assert found.started == started


@pytest.mark.parametrize("ending", ["acquire", "release"])
def test_running_trials_wait_again_when_their_holder_is_gone(
    ledger: Ledger, job: str, database_url: str, ending: str
):
    lease = ledger.leases.acquire(job, "old", OVER)
    states = [TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE, TrialState.RUNNING]
    for number, state in enumerate(states):
        into(ledger, lease, ledger.trials.add(lease, new_trial(number)).id, state)
    if ending == "acquire":
        ledger.leases.acquire(job, "new", LONG)
        reason = "the process that ran it stopped"
    else:
        ledger.leases.release(lease, JobState.PAUSED, reason := "interrupted")
    found = ledger.jobs.get(job, trials=True).trials
    waiting = TrialState.WAITING
    assert [t.state for t in found] == [waiting, waiting, TrialState.COMPLETE, waiting]
    assert [t.attempts for t in found] == [1, 0, 1, 1]
    assert attempts(database_url, found[0].id) == [(1, "LOST", reason)]
    assert attempts(database_url, found[2].id) == [(1, "COMPLETE", None)]


@pytest.mark.parametrize("ended", [JobState.FAILED, JobState.CANCELLED, JobState.SUCCEEDED])
def test_no_trial_of_an_ended_job_waits(ledger: Ledger, job: str, ended: JobState):
    lease = ledger.leases.acquire(job, "me", LONG)
    states = [TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE]
    for number, state in enumerate(states):
        into(ledger, lease, ledger.trials.add(lease, new_trial(number)).id, state)
    ledger.leases.release(lease, ended, "enough")
    found = ledger.jobs.get(job, trials=True).trials
    cancelled = TrialState.CANCELLED
    assert [t.state for t in found] == [cancelled, cancelled, TrialState.COMPLETE]
    assert all(t.finished is not None for t in found)


# Reports


@pytest.fixture
def running(ledger: Ledger, job: str) -> tuple[Lease, str]:
    """A lease and a RUNNING trial."""
    lease = ledger.leases.acquire(job, "me", LONG)
    trial_id = ledger.trials.add(lease, new_trial()).id
    ledger.attempts.start(lease, trial_id)
    return lease, trial_id


def test_the_first_report_of_a_step_stands(ledger: Ledger, job: str, running: tuple[Lease, str]):
    lease, trial_id = running
    first = ledger.trials.report(lease, trial_id, 1, 1, 0.5, {"accuracy": 0.7})
    assert ledger.trials.report(lease, trial_id, 1, 1, 0.1, {"accuracy": 0.9}) == first
    ledger.attempts.lose(lease, trial_id, "lost")
    ledger.attempts.start(lease, trial_id)
    assert ledger.trials.report(lease, trial_id, 2, 1, 0.2, {}) == first
    second = ledger.trials.report(lease, trial_id, 2, 2, 0.25, {})
    assert only_trial(ledger, job).reports == (first, second)
    assert (first.step, first.value, first.metrics) == (1, 0.5, {"accuracy": 0.7})


def test_text_that_no_database_stores_is_escaped(
    ledger: Ledger, job: str, running: tuple[Lease, str], database_url: str
):
    lease, trial_id = running
    ledger.trials.finish(lease, trial_id, TrialState.FAILED, reason="caf\udce9\0 ж", log="\ud800")
    assert only_trial(ledger, job).reason == "caf\\udce9\\x00 ж"
    assert attempts(database_url, trial_id)[0][2] == "caf\\udce9\\x00 ж"
    ledger.leases.release(lease, JobState.FAILED, "\udfff")
    assert ledger.jobs.get(job).reason == "\\udfff"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_reads_as_nan(
    ledger: Ledger, job: str, running: tuple[Lease, str], value: float
):
    lease, trial_id = running
    given = ledger.trials.report(lease, trial_id, 1, 1, value, {"loss": value, "accuracy": 0.5})
    (stored,) = only_trial(ledger, job).reports
    for report in (given, stored):
        assert math.isnan(report.value)
        assert math.isnan(report.metrics["loss"])
        assert report.metrics["accuracy"] == 0.5
    ledger.trials.finish(lease, trial_id, TrialState.DIVERGED, value)
    assert only_trial(ledger, job).value is None


@pytest.mark.parametrize("value", [1e-300, -1e300, 0.1 + 0.2, 5e-324])
def test_values_keep_every_bit(ledger: Ledger, job: str, running: tuple[Lease, str], value: float):
    lease, trial_id = running
    ledger.trials.report(lease, trial_id, 1, 1, value, {"x": value})
    (report,) = only_trial(ledger, job).reports
    assert (report.value, report.metrics["x"]) == (value, value)


def test_each_attempt_names_its_newest_checkpoint_and_the_last_attempt_comes_first(
    ledger: Ledger, job: str, running: tuple[Lease, str]
):
    lease, trial_id = running
    assert only_trial(ledger, job).checkpoints == ()
    for step in (1, 2):
        ledger.trials.report(lease, trial_id, 1, step, 0.5, {}, f"t/1/{step}.pt")
    ledger.trials.report(lease, trial_id, 1, 3, 0.5, {})
    assert only_trial(ledger, job).checkpoints == ("t/1/2.pt",)
    for attempt in (2, 3):
        ledger.attempts.lose(lease, trial_id, "lost")
        assert ledger.attempts.start(lease, trial_id) == attempt
    assert only_trial(ledger, job).checkpoints == ("t/1/2.pt",)
    # Of a step that was reported before, the first report stands, and this attempt's file is as good.
    standing = ledger.trials.report(lease, trial_id, 3, 3, 0.9, {}, "t/3/3.pt")
    assert standing.value == 0.5
    assert only_trial(ledger, job).checkpoints == ("t/3/3.pt", "t/1/2.pt")
    ledger.trials.finish(lease, trial_id, TrialState.COMPLETE, 0.5)
    assert only_trial(ledger, job).checkpoints == ("t/3/3.pt", "t/1/2.pt")


def test_checkpoints_are_named_with_their_report_or_not_at_all(
    ledger: Ledger, job: str, running: tuple[Lease, str]
):
    lease, trial_id = running
    before = ledger.jobs.get(job, trials=True)
    with pytest.raises(NotFoundError, match=f"{trial_id} has no attempt 2"):
        ledger.trials.report(lease, trial_id, 2, 1, 0.5, {}, "t/2/1.pt")
    assert ledger.jobs.get(job, trials=True) == before
    ledger.attempts.lose(lease, trial_id, "lost")
    before = ledger.jobs.get(job, trials=True)
    with pytest.raises(ConflictError):
        ledger.trials.report(lease, trial_id, 1, 1, 0.5, {}, "t/1/1.pt")
    assert ledger.jobs.get(job, trials=True) == before


@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.RUNNING])
def test_only_a_running_trial_reports(ledger: Ledger, job: str, state: TrialState):
    lease = ledger.leases.acquire(job, "me", LONG)
    trial_id = ledger.trials.add(lease, new_trial()).id
    into(ledger, lease, trial_id, state)
    with pytest.raises(ConflictError, match=state.value):
        ledger.trials.report(lease, trial_id, 1, 1, 0.5, {})
    assert only_trial(ledger, job).reports == ()


# Reports in pages


@pytest.fixture
def reported(ledger: Ledger, job: str) -> list[tuple[str, int]]:
    """Trial and step of a job's reports, in order; 3, 0, 5, 1, 4 and 2 of a trial. Another job has some too."""
    numbers = (3, 0, 5, 1, 4, 2)
    found = []
    for of in (ledger.jobs.create("another", {}, {}).id, job):
        lease = ledger.leases.acquire(of, "me", LONG)
        with ledger.transaction() as transaction:  # so that all were made at the same time
            trials = [transaction.trials.add(lease, new_trial(number)).id for number in range(4)]
        made = ledger.overviews.time()
        while ledger.overviews.time() == made:  # the next ones are made later
            pass
        trials += [ledger.trials.add(lease, new_trial(number, arm="adam")).id for number in (4, 5)]
        for trial_id, steps in zip(reversed(trials), reversed(numbers), strict=True):
            ledger.attempts.start(lease, trial_id)
            for step in range(1, steps + 1):
                ledger.trials.report(lease, trial_id, 1, step, step / 8, {"accuracy": step / 16})
        found = [(t, step) for t, steps in zip(trials, numbers, strict=True) for step in range(1, steps + 1)]
    return found


def in_pages(ledger: Ledger, job: str, trial_id: str | None, limit: int) -> list[list[TrialReport]]:
    """All pages of reports, up to one that is not full."""
    after, pages = None, []
    while not pages or len(pages[-1]) == limit:
        pages.append(ledger.overviews.reports(job, trial_id, limit=limit, after=after))
        if pages[-1]:
            after = ReportPlace(pages[-1][-1].trial, pages[-1][-1].step)
    return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 14, 15, 16])
def test_reports_come_in_pages_by_trial_and_step(
    ledger: Ledger, job: str, reported: list[tuple[str, int]], limit: int
):
    pages = in_pages(ledger, job, None, limit)
    assert [(report.trial, report.step) for page in pages for report in page] == reported
    assert [len(page) for page in pages[:-1]] == [limit] * (15 // limit)


@pytest.mark.parametrize("limit", [1, 2, 5, 6])
def test_one_trial_has_its_reports_in_pages(
    ledger: Ledger, job: str, reported: list[tuple[str, int]], limit: int
):
    for trial in ledger.jobs.get(job, trials=True).trials:
        found = [report for page in in_pages(ledger, job, trial.id, limit) for report in page]
        assert [(report.trial, report.step) for report in found] == [r for r in reported if r[0] == trial.id]
        assert [(report.value, report.metrics, report.time) for report in found] == [
            (report.value, report.metrics, report.time) for report in trial.reports
        ]


def test_new_reports_do_not_move_pages(ledger: Ledger, job: str, running: tuple[Lease, str]):
    lease, first = running
    second = ledger.trials.add(lease, new_trial(1)).id
    ledger.attempts.start(lease, second)
    for trial_id in (first, second):
        ledger.trials.report(lease, trial_id, 1, 1, 0.5, {})
    (seen,) = ledger.overviews.reports(job, limit=1)
    assert (seen.trial, seen.step, seen.attempt) == (first, 1, 1)
    ledger.attempts.lose(lease, first, "lost")
    ledger.attempts.start(lease, first)
    ledger.trials.report(lease, first, 2, 2, math.nan, {"loss": math.inf})
    rest = ledger.overviews.reports(job, limit=9, after=ReportPlace(first, 1))
    assert [(report.trial, report.step, report.attempt) for report in rest] == [(first, 2, 2), (second, 1, 1)]
    assert math.isnan(rest[0].value)
    assert math.isnan(rest[0].metrics["loss"])
    ledger.trials.report(lease, first, 2, 3, 0.5, {})
    assert ledger.overviews.reports(job, limit=9, after=ReportPlace(second, 1)) == []


def test_reports_of_an_unknown_job_or_trial_are_not_found(
    ledger: Ledger, job: str, running: tuple[Lease, str]
):
    other = ledger.jobs.create("another", {}, {}).id
    with pytest.raises(NotFoundError, match="no job 'nothere'"):
        ledger.overviews.reports("nothere", limit=1)
    with pytest.raises(NotFoundError, match=f"Job {other} has no trial '{running[1]}'"):
        ledger.overviews.reports(other, running[1], limit=1)
    with pytest.raises(NotFoundError, match=f"Job {other} has no trial '{running[1]}'"):
        ledger.overviews.reports(other, limit=1, after=ReportPlace(running[1], 1))
    assert ledger.overviews.reports(other, limit=1) == []


# Trials that a query asks for


@pytest.fixture
def several(ledger: Ledger, job: str) -> str:
    """A job with five trials of two arms; the first four have ended, one of them without a value."""
    lease = ledger.leases.acquire(job, "me", LONG)
    for number, (arm, value, delay) in enumerate(
        [
            ("anon", 0.3, 10.0),
            ("anon", None, 9.5),
            ("sgd", 0.1, None),
            ("anon", 0.2, "every:1"),
            ("sgd", 0.4, None),
        ]
    ):
        given = {"lr": 10.0 - number, "weight_decay": 1e-5 * number}
        if arm == "anon":
            given |= {"gamma": number / 8, "delay": delay, "betas": [0.9, 0.99, 0.5 - number / 10]}
        new = new_trial(
            number, arm=arm, params={"gamma": number, "step_size": (number * 2) % 5}, hyperparameters=given
        )
        trial = ledger.trials.add(lease, new).id
        if number < 4:
            ledger.attempts.start(lease, trial)
            ended = TrialState.DIVERGED if value is None else TrialState.COMPLETE
            ledger.trials.finish(lease, trial, ended, value, reason=None if value else "Loss 100% NaN")
    return job


def numbers(ledger: Ledger, job: str, **query: Any) -> list[int]:
    return [trial.number for trial in ledger.overviews.find_trials(job, TrialQuery(**query))[0]]


@pytest.mark.parametrize(
    ("column", "ascending", "descending"),
    [
        (None, [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]),
        (TrialColumn.ID, [0, 1, 3, 2, 4], [4, 2, 3, 1, 0]),
        (TrialColumn.VALUE, [2, 3, 0, 1, 4], [0, 3, 2, 1, 4]),
        (TrialColumn.LR, [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]),  # 10 is more than 9
        (TrialColumn.WEIGHT_DECAY, [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]),
        (TrialColumn.GAMMA, [0, 1, 3, 2, 4], [3, 1, 0, 2, 4]),
        (TrialColumn.BETA3, [3, 1, 0, 2, 4], [0, 1, 3, 2, 4]),
        (TrialColumn.DELAY, [1, 0, 3, 2, 4], [3, 0, 1, 2, 4]),  # a name is after all numbers
        (TrialColumn.STEP_SIZE, [0, 3, 1, 4, 2], [2, 4, 1, 3, 0]),
        (TrialColumn.REASON, [1, 0, 2, 3, 4], [1, 0, 2, 3, 4]),
    ],
)
def test_trials_are_sorted_by_any_column(
    ledger: Ledger, several: str, column: TrialColumn | None, ascending: list[int], descending: list[int]
):
    assert numbers(ledger, several, sort=column) == ascending
    assert numbers(ledger, several, sort=column, descending=True) == descending


def test_trials_can_be_sorted_by_all_columns(ledger: Ledger, several: str):
    for column in TrialColumn:
        assert sorted(numbers(ledger, several, sort=column)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"arm": "sgd"}, [2, 4]),
        ({"state": TrialState.WAITING}, [4]),
        ({"state": TrialState.COMPLETE, "arm": "anon"}, [0, 3]),
        ({"phase": Phase.VERDICT}, []),
        ({"text": "loss 100% n"}, [1]),
        ({"text": "ANON-S00"}, [0, 1, 3]),
        ({"text": "%"}, [1]),
        ({"text": "_"}, []),
    ],
)
def test_trials_are_chosen_by_their_columns(
    ledger: Ledger, several: str, query: dict[str, Any], found: list[int]
):
    assert numbers(ledger, several, **query) == found


def test_chosen_trials_come_in_pages_with_their_number(ledger: Ledger, several: str):
    found, total = ledger.overviews.find_trials(several, TrialQuery(arm="anon", limit=2, offset=2))
    assert ([trial.number for trial in found], total) == ([3], 3)
    assert ledger.overviews.find_trials(several, TrialQuery(offset=9)) == ([], 5)
    with pytest.raises(NotFoundError, match="no job 'nothere'"):
        ledger.overviews.find_trials("nothere", TrialQuery())


def test_curves_can_be_thinned(ledger: Ledger, job: str, running: tuple[Lease, str]):
    lease, first = running
    ledger.trials.add(lease, new_trial(1))
    for step in (100, 200, 300, 400, 1000):
        ledger.trials.report(lease, first, 1, step, math.nan if step == 300 else step / 8, {"loss": 1.0})

    def steps(points: int | None) -> list[int]:
        return list(ledger.overviews.curves(job, points)[first].steps)

    assert steps(None) == steps(5) == [100, 200, 300, 400, 1000]
    assert steps(3) == [100, 300, 1000]
    assert steps(1) == [100, 1000]
    assert ledger.overviews.curves(job, 3)[first].values == [12.5, None, 125.0]


def test_the_curve_of_one_trial_is_read_and_thinned_alone(
    ledger: Ledger, job: str, running: tuple[Lease, str]
):
    lease, first = running
    second = ledger.trials.add(lease, new_trial(1)).id
    ledger.attempts.start(lease, second)
    for trial, steps in ((first, 9), (second, 2)):
        for step in range(1, steps + 1):
            ledger.trials.report(lease, trial, 1, step, step / 8, {"loss": 1.0})
    assert ledger.overviews.curves(job, 2, second) == {second: LearningCurve([1, 2], [0.125, 0.25])}


def test_a_trial_is_read_alone(ledger: Ledger, job: str, running: tuple[Lease, str]):
    assert ledger.overviews.trial(job, running[1]) == only_trial(ledger, job)
    with pytest.raises(NotFoundError, match=f"Job {job} has no trial 'x'"):
        ledger.overviews.trial(job, "x")


# Fencing

WRITES: dict[str, Callable[[Operations, Lease, str, str], Any]] = {
    "leases.heartbeat": lambda to, lease, running, waiting: to.leases.heartbeat(lease),
    "leases.release": lambda to, lease, running, waiting: to.leases.release(lease, JobState.FAILED, "no"),
    "jobs.update": lambda to, lease, running, waiting: to.jobs.update(lease, result={"x": 1}),
    "trials.add": lambda to, lease, running, waiting: to.trials.add(lease, new_trial(9)),
    "trials.report": lambda to, lease, running, waiting: to.trials.report(
        lease, running, 2, 7, 0.5, {}, "7.pt"
    ),
    "trials.finish": lambda to, lease, running, waiting: to.trials.finish(
        lease, running, TrialState.COMPLETE, 0.5
    ),
    "attempts.start": lambda to, lease, running, waiting: to.attempts.start(lease, waiting),
    "attempts.lose": lambda to, lease, running, waiting: to.attempts.lose(lease, running, "no"),
}


def test_every_write_under_a_lease_is_fenced_below(ledger: Ledger):
    takes_a_lease = {
        f"{owner}.{name}"
        for owner, operations in vars(ledger).items()
        for name, method in inspect.getmembers(operations, inspect.ismethod)
        if not name.startswith("_") and "lease" in inspect.signature(method).parameters
    }
    assert takes_a_lease == WRITES.keys()


@pytest.mark.parametrize("write", WRITES)
def test_a_holder_that_was_replaced_writes_nothing(ledger: Ledger, job: str, write: str):
    old = ledger.leases.acquire(job, "old", OVER)
    running, waiting = (ledger.trials.add(old, new_trial(number)).id for number in range(2))
    ledger.attempts.start(old, running)
    new = ledger.leases.acquire(job, "new", LONG)
    ledger.attempts.start(new, running)
    before = ledger.jobs.get(job, trials=True)
    with pytest.raises(LeaseLostError, match="new"):
        WRITES[write](ledger, old, running, waiting)
    assert ledger.jobs.get(job, trials=True) == before
    WRITES[write](ledger, new, running, waiting)  # the same write is the new holder's to make
    assert write == "leases.heartbeat" or ledger.jobs.get(job, trials=True) != before


@pytest.mark.parametrize("write", WRITES)
def test_a_lease_that_was_given_back_writes_nothing(ledger: Ledger, job: str, write: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    running, waiting = (ledger.trials.add(lease, new_trial(number)).id for number in range(2))
    ledger.attempts.start(lease, running)
    ledger.leases.release(lease, JobState.PAUSED)
    before = ledger.jobs.get(job, trials=True)
    with pytest.raises(LeaseLostError):
        WRITES[write](ledger, lease, running, waiting)
    assert ledger.jobs.get(job, trials=True) == before


@pytest.mark.parametrize("write", ["attempts.start", "trials.report", "trials.finish", "attempts.lose"])
def test_a_lease_writes_about_its_own_job_alone(ledger: Ledger, job: str, write: str):
    mine = ledger.leases.acquire(job, "me", LONG)
    other = ledger.jobs.create("another", {}, {}).id
    theirs = ledger.leases.acquire(other, "they", LONG)
    running, waiting = (ledger.trials.add(theirs, new_trial(number)).id for number in range(2))
    ledger.attempts.start(theirs, running)
    before = ledger.jobs.get(other, trials=True)
    with pytest.raises(NotFoundError):
        WRITES[write](ledger, mine, running, waiting)
    assert ledger.jobs.get(other, trials=True) == before


# The projection's cursor


def test_the_cursor_of_the_projection_moves(ledger: Ledger, job: str, running: tuple[Lease, str]):
    _, trial_id = running
    ledger.projections.set(job, job, "run of the job")
    ledger.projections.set(job, trial_id, "run of the trial", steps=1)
    ledger.projections.set(job, trial_id, "run of the trial", steps=3, state="COMPLETE")
    assert ledger.projections.cursor(job) == Cursor("run of the job", 0, None)
    assert ledger.projections.cursor(trial_id) == Cursor("run of the trial", 3, "COMPLETE")
    assert ledger.projections.cursor("nothere") is None
    assert ledger.jobs.get(job).mlflow_run == "run of the job"
    assert [record.mlflow_run for record in ledger.overviews.jobs()] == ["run of the job"]
    assert only_trial(ledger, job).mlflow_run == "run of the trial"


def test_changed_trials_are_found_for_projection(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    first, second, third = (ledger.trials.add(lease, new_trial(number)).id for number in range(3))

    def found() -> list[tuple[str, int, Cursor | None]]:
        return [(trial.id, len(trial.reports), cursor) for trial, cursor in ledger.projections.behind(job, 9)]

    assert found() == [(first, 0, None), (second, 0, None), (third, 0, None)]
    assert [trial.id for trial, _ in ledger.projections.behind(job, 2)] == [first, second]
    for trial_id in (first, second, third):
        ledger.projections.set(job, trial_id, "a run", 0, TrialState.WAITING)
    assert found() == []
    ledger.attempts.start(lease, second)
    assert found() == [(second, 0, Cursor("a run", 0, "WAITING"))]
    ledger.projections.set(job, second, "a run", 0, TrialState.RUNNING)
    assert found() == []
    ledger.trials.report(lease, second, 1, 1, 0.5, {})
    assert found() == [(second, 1, Cursor("a run", 0, "RUNNING"))]
    ledger.projections.set(job, second, "a run", 1, TrialState.RUNNING)
    ledger.trials.finish(lease, second, TrialState.COMPLETE, 0.5)
    assert found() == [(second, 1, Cursor("a run", 1, "RUNNING"))]
    ledger.projections.set(job, second, "a run", 1, TrialState.COMPLETE)
    assert found() == []


def test_runs_that_are_about_to_be_made_are_announced(ledger: Ledger, job: str, running: tuple[Lease, str]):
    lease, trial_id = running
    other = ledger.trials.add(lease, new_trial(1)).id
    ledger.projections.announce(job, [trial_id])
    assert {t.id: cursor for t, cursor in ledger.projections.behind(job, 9)} == {
        trial_id: Cursor("", 0, None),
        other: None,
    }
    assert [t.mlflow_run for t in ledger.jobs.get(job, trials=True).trials] == [None, None]
    ledger.projections.set(job, trial_id, "a run", 0, TrialState.RUNNING)
    ledger.projections.announce(job)  # of all; what is known stays so
    assert [(t.id, cursor) for t, cursor in ledger.projections.behind(job, 9)] == [
        (other, Cursor("", 0, None))
    ]
    assert ledger.projections.cursor(trial_id) == Cursor("a run", 0, "RUNNING")


# Several calls as one


def test_calls_of_one_transaction_are_all_kept_or_none(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    with ledger.transaction(durable=False) as transaction:
        trial_id = transaction.trials.add(lease, new_trial()).id
        assert transaction.attempts.start(lease, trial_id) == 1
    before = only_trial(ledger, job)
    assert before.state is TrialState.RUNNING

    def fails() -> None:
        with ledger.transaction() as transaction:
            transaction.trials.report(lease, trial_id, 1, 1, 0.5, {})
            transaction.trials.add(lease, new_trial(1))
            transaction.trials.finish(lease, trial_id, TrialState.WAITING)

    with pytest.raises(TransitionError):
        fails()
    assert only_trial(ledger, job) == before
    with ledger.transaction() as transaction:
        report = transaction.trials.report(lease, trial_id, 1, 1, 0.5, {})
        finished = transaction.trials.finish(lease, trial_id, TrialState.COMPLETE, 0.5)
    assert finished == report.time
    assert only_trial(ledger, job).reports == (report,)


def test_a_lost_lease_loses_the_whole_transaction(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "first", OVER)
    second = ledger.leases.acquire(job, "second", LONG)
    trial_id = ledger.trials.add(second, new_trial()).id

    def late() -> None:
        with ledger.transaction() as transaction:
            transaction.attempts.start(second, trial_id)
            transaction.trials.add(lease, new_trial(1))

    with pytest.raises(LeaseLostError):
        late()
    assert only_trial(ledger, job).state is TrialState.WAITING


def test_a_transaction_of_one_thread_is_not_that_of_another(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    with ThreadPoolExecutor(1) as pool:
        others = []

        def fails() -> None:
            with ledger.transaction() as transaction:
                first = transaction.trials.add(lease, new_trial()).id
                others.append(pool.submit(ledger.trials.add, lease, new_trial(1)))  # it waits for this one
                transaction.trials.finish(lease, first, TrialState.COMPLETE)

        with pytest.raises(TransitionError):
            fails()
        kept = others[0].result().id
    assert only_trial(ledger, job).id == kept


# Many at once


def at_once(call: Callable[[int], Any], count: int = 8) -> list[Any]:
    """Results of `call(0)`, `call(1)`, ... from as many threads that start together; errors as values."""
    barrier = threading.Barrier(count)

    def one(index: int) -> Any:
        barrier.wait()
        try:
            return call(index)
        except AnonTuneError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.parametrize("held_before", [False, True], ids=["free", "run out"])
def test_of_many_threads_one_gets_the_lease(ledger: Ledger, job: str, held_before: bool):
    if held_before:
        ledger.leases.acquire(job, "dead", OVER)
    results = at_once(lambda index: ledger.leases.acquire(job, f"thread {index}", LONG))
    (lease,) = [result for result in results if isinstance(result, Lease)]
    assert sum(isinstance(result, LeaseHeldError) for result in results) == len(results) - 1
    found = ledger.jobs.get(job).lease
    assert found is not None
    assert (found.holder, found.token) == (lease.holder, lease.token)


def test_of_many_reports_of_a_step_one_stands(ledger: Ledger, job: str, running: tuple[Lease, str]):
    lease, trial_id = running
    results = at_once(lambda index: ledger.trials.report(lease, trial_id, 1, 1, float(index), {}))
    assert only_trial(ledger, job).reports == (results[0],)
    assert all(result == results[0] for result in results)


def test_of_many_reports_of_many_steps_all_are_kept(ledger: Ledger, job: str, running: tuple[Lease, str]):
    lease, trial_id = running
    results = at_once(lambda index: ledger.trials.report(lease, trial_id, 1, index + 1, float(index), {}))
    assert only_trial(ledger, job).reports == tuple(results)


def test_of_many_starts_of_a_trial_one_succeeds(ledger: Ledger, job: str):
    lease = ledger.leases.acquire(job, "me", LONG)
    trial_id = ledger.trials.add(lease, new_trial()).id
    results = at_once(lambda _: ledger.attempts.start(lease, trial_id))
    assert [result for result in results if not isinstance(result, TransitionError)] == [1]


def test_cursors_that_move_at_once_leave_one(ledger: Ledger, job: str):
    assert at_once(lambda index: ledger.projections.set(job, job, f"run {index}")) == [None] * 8
    assert ledger.projections.cursor(job) in [Cursor(f"run {index}", 0, None) for index in range(8)]


_barrier: Any = None


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _open_and_create(url: str) -> str:
    _barrier.wait()
    ledger = Ledger.open(url)
    made = ledger.jobs.create("x", {}, {}).id
    ledger.close()
    return made


def _claim(url: str, job: str) -> bool:
    ledger = Ledger.open(url)
    _barrier.wait()
    try:
        ledger.leases.acquire(job, "me", LONG)
    except LeaseHeldError:
        return False
    finally:
        ledger.close()
    return True


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Processes that start their work together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(TOGETHER)
    with ProcessPoolExecutor(TOGETHER, context, initializer=_meet, initargs=(barrier,)) as pool:
        yield pool


def test_processes_that_open_an_empty_database_together_all_can(
    processes: ProcessPoolExecutor, new_database: Callable[[], str]
):
    for _ in range(4):  # a race is not lost every time
        url = new_database()
        opening = [processes.submit(_open_and_create, url) for _ in range(TOGETHER)]
        made = {future.result() for future in opening}
        ledger = Ledger.open(url)
        assert {record.id for record in ledger.overviews.jobs()} == made
        assert len(made) == TOGETHER
        ledger.close()


def test_of_many_processes_one_gets_the_lease(
    processes: ProcessPoolExecutor, database_url: str, ledger: Ledger, job: str
):
    claims = [processes.submit(_claim, database_url, job) for _ in range(TOGETHER)]
    assert sorted(future.result() for future in claims) == [False] * (TOGETHER - 1) + [True]
