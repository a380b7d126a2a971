"""Reports of trials: over HTTP, from Python and on the command line."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from anon_tune.cli import app
from anon_tune.cli.streaming import stream_csv, stream_json
from anon_tune.errors import AnonTuneError, DependencyError, InputError, NotFoundError
from anon_tune.jobs.interface import Jobs, Result
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import LearningCurve, NewTrial, Phase
from anon_tune.settings import Settings
from anon_tune.spec import parse_spec
from tests.service.conftest import SPEC, Serve
from tests.service.test_jobs import problem

MANY = 1100
"""Reports: more than a page of each kind has."""


def add(ledger: Ledger, lease: Lease, arm: str, number: int) -> str:
    params = {"gamma": number / 10}
    return ledger.trials.add(lease, NewTrial(arm, Phase.SEARCH, number, number, params, params)).id


@pytest.fixture
def lease(ledger: Ledger) -> Lease:
    job = ledger.jobs.create("reported", parse_spec(SPEC).model_dump(mode="json"), {}).id
    return ledger.leases.acquire(job, "me", 3600.0)


@pytest.fixture
def job(ledger: Ledger, lease: Lease) -> str:
    """A job with a trial of two reports, one that has made none yet, and one that has diverged."""
    first, _, third = (
        add(ledger, lease, arm, number) for arm, number in (("anon", 0), ("anon", 1), ("sgd", 0))
    )
    ledger.attempts.start(lease, first)
    ledger.trials.report(lease, first, 1, 1, 0.5, {"loss": 0.5, "step": 7.0})
    ledger.attempts.lose(lease, first, "lost")
    ledger.attempts.start(lease, first)
    ledger.trials.report(lease, first, 2, 2, 0.1 + 0.2, {"loss": 0.1 + 0.2, "step": 8.0})
    ledger.attempts.start(lease, third)
    ledger.trials.report(lease, third, 1, 1, math.inf, {"loss": math.nan, 'say, "λ"': 1.0})
    return lease.job


@pytest.fixture
def long_job(ledger: Ledger, lease: Lease) -> str:
    """A job with a trial of many reports between two of one."""
    trials = [add(ledger, lease, "anon", number) for number in range(3)]
    with ledger.transaction(durable=False) as transaction:
        for trial, steps in zip(trials, (1, MANY, 1), strict=True):
            transaction.attempts.start(lease, trial)
            for step in range(1, steps + 1):
                transaction.trials.report(lease, trial, 1, step, 1 / step, {"loss": 1 / step})
    return lease.job


def expected(ledger: Ledger, job: str) -> list[tuple[str, int]]:
    """Trial and step of all reports, from the records of the trials."""
    trials = ledger.jobs.get(job, trials=True).trials
    return [(trial.id, report.step) for trial in trials for report in trial.reports]


def pages(http: httpx2.Client, path: str, limit: int) -> list[list[dict[str, Any]]]:
    found, query = [], {"limit": limit}
    while True:
        page = http.get(path, params=query).json()
        found.append(page["items"])
        if page["next"] is None:
            return found
        query["after"] = page["next"]


def test_a_report_is_sent_as_it_is_stored(http: httpx2.Client, ledger: Ledger, job: str):
    first, _, third = (trial.id for trial in ledger.jobs.get(job, trials=True).trials)
    sent = http.get(f"/jobs/{job}/reports").json()
    stored = ledger.jobs.get(job, trials=True).trials[0].reports[1]
    assert sent["next"] is None
    assert sent["items"][1] == {
        "trial": first,
        "step": 2,
        "value": 0.1 + 0.2,
        "metrics": {"loss": 0.1 + 0.2, "step": 8.0},
        "time": stored.time.isoformat().replace("+00:00", "Z"),
        "attempt": 2,
    }
    diverged = sent["items"][2]
    assert (diverged["trial"], diverged["value"]) == (third, None)
    assert diverged["metrics"] == {"loss": None, 'say, "λ"': 1.0}


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_reports_of_a_job_come_in_pages(http: httpx2.Client, ledger: Ledger, job: str, limit: int):
    found = pages(http, f"/jobs/{job}/reports", limit)
    assert [(item["trial"], item["step"]) for page in found for item in page] == expected(ledger, job)
    assert max(map(len, found)) <= limit
    assert len(found) == math.ceil(3 / limit)


def test_curves_are_the_values_of_the_reports(ledger: Ledger, settings: Settings, job: str):
    jobs = LedgerJobs(ledger, settings)
    first, _, third = (trial.id for trial in ledger.jobs.get(job, trials=True).trials)
    assert jobs.curves(job) == Jobs.curves(jobs, job)
    assert jobs.curves(job)[first] == LearningCurve([1, 2], [0.5, 0.1 + 0.2])
    assert jobs.curves(job)[third] == LearningCurve([1], [None])


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_reports_of_a_trial_come_in_pages(http: httpx2.Client, ledger: Ledger, job: str, limit: int):
    for trial in ledger.jobs.get(job, trials=True).trials:
        found = pages(http, f"/jobs/{job}/trials/{trial.id}/reports", limit)
        assert [item["step"] for page in found for item in page] == [report.step for report in trial.reports]
        assert len(found) == max(1, math.ceil(len(trial.reports) / limit))


def test_new_reports_of_a_trial_follow_its_last_step(
    http: httpx2.Client, ledger: Ledger, lease: Lease, job: str
):
    first = expected(ledger, job)[0][0]
    path = f"/jobs/{job}/trials/{first}/reports"
    assert http.get(path, params={"after": 2}).json() == {"items": [], "next": None}
    ledger.trials.report(lease, first, 2, 3, 0.25, {})
    (new,) = http.get(path, params={"after": 2}).json()["items"]
    assert (new["step"], new["value"]) == (3, 0.25)


def test_invalid_page_parameters_are_refused(http: httpx2.Client, ledger: Ledger, job: str):
    trial = expected(ledger, job)[0][0]
    assert "no job 'nojob'" in problem(http.get("/jobs/nojob/reports"), 404)["detail"]
    assert "no job 'nojob'" in problem(http.get(f"/jobs/nojob/trials/{trial}/reports"), 404)["detail"]
    unknown = problem(http.get(f"/jobs/{job}/trials/other/reports"), 404)
    assert unknown["detail"] == f"Job {job} has no trial 'other'. `anon-tune trials {job}` lists them."
    path = f"/jobs/{job}/reports"
    assert "has no trial 'other'" in problem(http.get(path, params={"after": "other:1"}), 404)["detail"]
    for wrong in ({"after": trial}, {"after": f"{trial}:-1"}, {"after": ":1"}, {"limit": 0}, {"limit": 1001}):
        problem(http.get(path, params=wrong), 422)
    of_trial = f"/jobs/{job}/trials/{trial}/reports"
    for wrong in ({"after": -1}, {"after": f"{trial}:1"}, {"after": 2**31}, {"limit": 1001}):
        problem(http.get(of_trial, params=wrong), 422)


def test_all_reports_of_a_long_job_are_read(jobs: Jobs, ledger: Ledger, long_job: str):
    wanted = expected(ledger, long_job)
    assert len(wanted) == MANY + 2
    assert [(report.trial, report.step) for report in jobs.reports(long_job)] == wanted
    for trial in {trial for trial, _ in wanted}:
        of_trial = [(report.trial, report.step) for report in jobs.reports(long_job, trial)]
        assert of_trial == [each for each in wanted if each[0] == trial]


def test_an_unknown_job_or_trial_is_named(jobs: Jobs, job: str):
    with pytest.raises(NotFoundError, match="no job 'nojob'"):
        next(jobs.reports("nojob"))
    with pytest.raises(NotFoundError, match=f"Job {job} has no trial 'other'"):
        jobs.learning_curves(job, "other")


def test_learning_curves_are_a_table(jobs: Jobs, ledger: Ledger, job: str):
    frame = jobs.learning_curves(job)
    assert list(zip(frame["trial"], frame["step"], strict=True)) == expected(ledger, job)
    assert list(frame["attempt"]) == [1, 2, 1]
    assert frame["value"].tolist()[:2] == [0.5, 0.1 + 0.2]
    assert frame["metrics.step"].tolist()[:2] == [7.0, 8.0]
    assert {str(frame[name].dtype) for name in frame if name.startswith("metrics.") or name == "value"} == {
        "float64"
    }
    assert frame.isna().sum().to_dict() == {
        "trial": 0, "step": 0, "value": 1, "time": 0, "attempt": 0,
        "metrics.loss": 1, "metrics.step": 1, "metrics.say, \"λ\"": 2,
    }  # fmt: skip
    assert frame["time"].tolist() == [
        report.time for trial in ledger.jobs.get(job, trials=True).trials for report in trial.reports
    ]
    only_null = jobs.learning_curves(job, expected(ledger, job)[2][0])
    assert math.isnan(only_null["value"].sum(skipna=False))
    nothing = jobs.learning_curves(job, ledger.jobs.get(job, trials=True).trials[1].id)
    assert (len(nothing), list(nothing)) == (0, ["trial", "step", "value", "time", "attempt"])


def test_a_result_has_its_learning_curves(ledger: Ledger, settings: Settings, job: str):
    jobs = LedgerJobs(ledger, settings)
    frame = Result(jobs.job(job), jobs).learning_curves
    assert list(zip(frame["trial"], frame["step"], strict=True)) == expected(ledger, job)


# The command line


Call = Callable[..., str]


@pytest.fixture(params=["here", "service"])
def call(request: pytest.FixtureRequest, serve: Serve) -> Call:
    """Runs `anon-tune trials`, on the ledger or on a service that has it."""
    before = ["--server", serve()] if request.param == "service" else []

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*before, "trials", *arguments], catch_exceptions=True)
        if isinstance(result.exception, AnonTuneError):
            assert not result.stdout
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_csv_has_a_column_for_each_metric(call: Call, ledger: Ledger, job: str):
    header, *rows = csv.reader(io.StringIO(call(job, "--reports", "--csv")))
    assert header == [
        "trial", "step", "value", "time", "attempt", "metrics.loss", "metrics.step", "metrics.say, \"λ\"",
    ]  # fmt: skip
    first, third = expected(ledger, job)[0][0], expected(ledger, job)[2][0]
    assert [row[:3] + row[4:] for row in rows] == [
        [first, "1", "0.5", "1", "0.5", "7.0", ""],
        [first, "2", "0.30000000000000004", "2", "0.30000000000000004", "8.0", ""],
        [third, "1", "", "1", "", "", "1.0"],
    ]
    assert call(job, "--reports") == call(job, "--reports", "--csv")


def test_csv_and_json_say_the_same(call: Call, ledger: Ledger, long_job: str):
    printed = call(long_job, "--reports", "--json")
    reports = json.loads(printed)
    assert printed == json.dumps(reports, indent=2) + "\n"
    assert [(report["trial"], report["step"]) for report in reports] == expected(ledger, long_job)
    rows = csv.DictReader(io.StringIO(call(long_job, "--reports", "--csv")))
    assert list(rows) == [
        {
            **{name: str(report[name]) for name in ("trial", "step", "value", "time", "attempt")},
            "metrics.loss": str(report["metrics"]["loss"]),
        }
        for report in reports
    ]


def test_one_trial_has_its_reports_printed(call: Call, ledger: Ledger, job: str):
    first, second, _ = (trial.id for trial in ledger.jobs.get(job, trials=True).trials)
    found = json.loads(call(job, "--reports", "--trial", first, "--json"))
    assert [report["step"] for report in found] == [1, 2]
    assert call(job, "--reports", "--trial", second, "--json") == "[]\n"
    assert call(job, "--reports", "--trial", second) == "trial,step,value,time,attempt\n"


def test_invalid_report_requests_are_refused(call: Call, job: str):
    for form in ("--csv", "--json"):
        with pytest.raises(NotFoundError, match="no job 'nojob'"):
            call("nojob", "--reports", form)
        with pytest.raises(NotFoundError, match=f"Job {job} has no trial 'other'"):
            call(job, "--reports", "--trial", "other", form)
    with pytest.raises(InputError, match="Give only one of --csv and --json"):
        call(job, "--reports", "--csv", "--json")
    for without in (["--csv"], ["--trial", "x"]):
        with pytest.raises(InputError, match="Add --reports"):
            call(job, *without)


class Item(dict[str, Any]):
    """One that can be referred to weakly."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


@pytest.mark.parametrize("stream", [stream_json, lambda items: stream_csv(items, ["x"])], ids=["json", "csv"])
def test_printed_reports_are_streamed(
    stream: Callable[[Iterator[Item]], None], capsys: pytest.CaptureFixture[str]
):
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    most = 0

    def items() -> Iterator[Item]:
        nonlocal most
        for number in range(100):
            item = Item(x=number)
            alive.add(item)
            most = max(most, len(alive))
            yield item

    stream(items())
    assert most <= 2
    assert "99" in capsys.readouterr().out


def test_a_full_disk_is_named_before_anything_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda *_, **__: full)
        with pytest.raises(DependencyError, match=r"cannot be written \(No space left on device\).*TMPDIR"):
            stream_csv(({"x": number} for number in range(10_000)), ["x"])
    assert not capsys.readouterr().out
