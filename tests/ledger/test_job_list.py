"""Lists of jobs to look through, on every kind of database."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import JobOrder, JobQuery, JobState, NewTrial, Phase, TrialState


def spec(model: str | None = "mlp", mode: str = "min", **more: Any) -> dict[str, Any]:
    return {
        "task": "image_classification",
        "model": None if model is None else {"name": model},
        "objective": {"mode": mode},
        "budget": {"trials": 4},
        "search": {"repeats": 1},
        "arms": ["anon", "sgd"],
        **more,
    }


def create(ledger: Ledger, name: str, owner: str | None = None, **keys: Any) -> str:
    return ledger.jobs.create(name, spec(**keys), {}, owner=owner).id


def names(ledger: Ledger, **query: Any) -> list[str]:
    return [line.name for line in ledger.overviews.find(JobQuery(**query)).lines]


def test_the_newest_come_first_in_pages(ledger: Ledger):
    for number in range(5):
        create(ledger, f"job {number}")
    first = ledger.overviews.find(JobQuery(limit=2))
    assert ([line.name for line in first.lines], first.found) == (["job 4", "job 3"], 5)
    assert names(ledger, limit=2, offset=4) == ["job 0"]
    assert names(ledger, descending=False, limit=1) == ["job 0"]


def test_jobs_are_found_by_state_owner_and_text(ledger: Ledger):
    create(ledger, "Digits", "ann", model="cnn")
    paused = create(ledger, "letters_1", "ben")
    ledger.jobs.pause(paused)
    create(ledger, "letters 1", None, model=None, command="python train.py")
    found = ledger.overviews.find(JobQuery())
    assert found.states == {JobState.QUEUED: 2, JobState.PAUSED: 1}
    assert found.owners == ("ann", "ben")
    assert [line.model for line in found.lines] == ["python train.py", "mlp", "cnn"]
    assert names(ledger, states=frozenset({JobState.PAUSED})) == ["letters_1"]
    assert names(ledger, owner="ann") == ["Digits"]
    for text, expected in (
        ("DIGITS", ["Digits"]),
        ("cnn", ["Digits"]),
        ("Ben", ["letters_1"]),
        ("train.py", ["letters 1"]),
        ("_1", ["letters_1"]),
        ("%", []),
        (paused, ["letters_1"]),
    ):
        assert names(ledger, text=text) == expected, text
    assert ledger.overviews.find(JobQuery(owner="ann", text="letters")).found == 0


def test_jobs_are_sorted_by_each_column(ledger: Ledger):
    ids = [
        create(ledger, name, owner, model=model)
        for name, owner, model in (("b", "ann", "x"), ("A", None, "y"), ("c", "ben", "W"))
    ]
    ledger.jobs.pause(ids[0])
    for job, gamma in ((ids[1], 0.5), (ids[2], 1.5)):
        lease = ledger.leases.acquire(job, "me", 60.0)
        ledger.jobs.update(lease, result={"gamma": {"best": gamma}})
    assert names(ledger, order=JobOrder.NAME, descending=False) == ["A", "b", "c"]
    assert names(ledger, order=JobOrder.NAME) == ["c", "b", "A"]
    assert names(ledger, order=JobOrder.MODEL, descending=False) == ["c", "b", "A"]
    assert names(ledger, order=JobOrder.OWNER, descending=False) == ["b", "c", "A"], "without one: last"
    assert names(ledger, order=JobOrder.OWNER) == ["c", "b", "A"]
    assert names(ledger, order=JobOrder.GAMMA) == ["c", "A", "b"]
    assert names(ledger, order=JobOrder.GAMMA, descending=False) == ["A", "c", "b"]
    assert names(ledger, order=JobOrder.STATE, descending=False) == ["b", "c", "A"]


@pytest.mark.parametrize(("mode", "best"), [("min", (0.2, "sgd")), ("max", (0.9, "anon"))])
def test_a_line_has_progress_and_the_best_value(ledger: Ledger, mode: str, best: tuple[float, str]):
    job = create(ledger, "searching", mode=mode)
    lease = ledger.leases.acquire(job, "me", 60.0)
    (before,) = ledger.overviews.find(JobQuery()).lines
    assert (before.done, before.trials, before.best, before.gamma) == (0, 8, None, None)
    for number, (arm, phase, value) in enumerate(
        (
            ("anon", Phase.SEARCH, 0.9),
            ("anon", Phase.SEARCH, 0.3),
            ("sgd", Phase.SEARCH, 0.2),
            ("sgd", Phase.SEARCH, None),
            ("anon", Phase.VERDICT, 0.001 if mode == "min" else 1.0),
        )
    ):
        trial = ledger.trials.add(lease, NewTrial(arm, phase, number, number, {"x": number}, {})).id
        ledger.attempts.start(lease, trial)
        if value is not None:
            ledger.trials.report(lease, trial, 1, 1, value, {})
            ledger.trials.finish(lease, trial, TrialState.COMPLETE, value)
    (line,) = ledger.overviews.find(JobQuery()).lines
    assert (line.done, line.trials, (line.best, line.best_arm)) == (3, 8, best)
    ledger.jobs.update(lease, phase=Phase.CONFIRM)
    assert ledger.overviews.find(JobQuery()).lines[0].trials == 4, "the search ended early"


def test_a_job_that_nobody_works_on_is_abandoned(ledger: Ledger):
    ledger.leases.acquire(create(ledger, "alive"), "me", 60.0)
    ledger.leases.acquire(create(ledger, "dead"), "me", -1.0)
    assert [(line.name, line.abandoned) for line in ledger.overviews.find(JobQuery()).lines] == [
        ("dead", True),
        ("alive", False),
    ]
