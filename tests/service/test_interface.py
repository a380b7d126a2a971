"""`Jobs`: a ledger's and a service's implementation answer alike."""

from __future__ import annotations

import html
import inspect
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import anon_tune
from anon_tune.advice.statement import Fingerprint
from anon_tune.architecture import fingerprint
from anon_tune.errors import AnonTuneError, ConflictError, InputError, NotFoundError, SpecError
from anon_tune.jobs import notebook
from anon_tune.jobs.client import Client
from anon_tune.jobs.interface import Jobs
from anon_tune.jobs.ledger import LedgerJobs
from anon_tune.jobs.service import ServiceJobs
from anon_tune.ledger import Ledger
from anon_tune.records import JobState, Role
from anon_tune.settings import Settings
from anon_tune.snippets import SNIPPETS
from anon_tune.spec import JobFile, read_job_file
from tests.ledger.test_workers import NEW
from tests.service.conftest import SPEC, Serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_cnn.yaml"
VERBS = [name for name, found in vars(Jobs).items() if inspect.isfunction(found) and not name.startswith("_")]


# Documented once, and tested here


def test_every_method_is_tested_here():
    text = Path(__file__).read_text()
    assert {name for name in VERBS if f"jobs.{name}(" not in text} == {"close"}


@pytest.mark.parametrize("kind", [LedgerJobs, ServiceJobs])
@pytest.mark.parametrize("name", VERBS)
def test_help_shows_what_a_method_does_and_takes(kind: type[Jobs], name: str):
    text = inspect.getdoc(getattr(kind, name))
    assert text is not None
    assert not re.search(r"[Aa]s `\w+\.\w+`", text)
    wanted = inspect.signature(getattr(Jobs, name)).parameters
    given = inspect.signature(getattr(kind, name)).parameters
    assert [each for each in given if each in wanted] == list(wanted)
    assert all(given[each].default is not inspect.Parameter.empty for each in given.keys() - wanted.keys())


def test_the_package_offers_the_interface_and_opens_it(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    with anon_tune.Client() as here, anon_tune.Client(serve()) as there:
        assert isinstance(here, anon_tune.Jobs)
        assert isinstance(there, anon_tune.Jobs)
    monkeypatch.setenv("ANON_TUNE_SERVER", serve())
    with anon_tune.Client() as named:
        assert type(named) is type(there)


# What is read


READS: dict[str, Callable[[Jobs, str], Any]] = {
    "jobs": lambda jobs, job: jobs.jobs(),
    "job": lambda jobs, job: jobs.job(job),
    "watch": lambda jobs, job: list(jobs.watch(job)),
    "best": lambda jobs, job: jobs.best(job),
    "list_trials": lambda jobs, job: jobs.list_trials(job),
    "trials": lambda jobs, job: jobs.trials(job).to_csv(),
    "reports": lambda jobs, job: list(jobs.reports(job)),
    "curves": lambda jobs, job: jobs.curves(job),
    "learning_curves": lambda jobs, job: jobs.learning_curves(job).to_csv(),
    "spaces": lambda jobs, job: jobs.spaces(job),
    "study": lambda jobs, job: jobs.study(job).trials_dataframe().to_csv(),
    "logs": lambda jobs, job: jobs.logs(job),
    "logs of a trial": lambda jobs, job: jobs.logs(job, f"{job}-anon-s009"),
    "logs since": lambda jobs, job: jobs.logs(job, since=1),
    "export": lambda jobs, job: jobs.export(job, "python", "sgd"),
    "export as code": lambda jobs, job: [jobs.export(job, form) for form in SNIPPETS],
    "figure": lambda jobs, job: jobs.figure(job, "response").to_json(),
    "report": lambda jobs, job: jobs.report(job),
    "workers": lambda jobs, job: jobs.workers(),
    "advice": lambda jobs, job: jobs.advice("mlp", -8.0).model_dump_json(),  # JSON has no tuples
}


@pytest.mark.parametrize("read", READS)
def test_reads_are_the_same_for_ledger_and_service(
    serve: Serve, done: str, settings: Settings, ledger: Ledger, read: str
):
    ledger.workers.heartbeat(NEW)
    log = settings.job_folder(done) / "job.log"
    log.parent.mkdir(parents=True)
    log.write_text("first\nsecond\n")
    with Client() as here, Client(serve()) as there:
        found = READS[read](here, done)
        assert found == READS[read](there, done)
        assert found


def test_a_result_has_the_answer(jobs: Jobs, done: str, tmp_path: Path):
    result = jobs.result(done)
    answer = jobs.job(done).result
    assert answer is not None
    assert (result.gamma, result.best) == (answer.gamma, answer.winners["anon"].hyperparameters)
    assert result.gamma.best == 0.4
    assert result.verdict.keys() == result.optimizer_verdict.keys() == {"adamw", "sgd"}
    assert len(result.trials) == len(jobs.list_trials(done))
    assert len(result.learning_curves) == len(list(jobs.reports(done)))
    assert result.reports.equals(result.learning_curves)
    assert result.study.best_trial.user_attrs["trial"] == f"{done}-anon-s002"
    assert result.export(tmp_path / "best.json").read_text() == jobs.export(done, "json")
    assert "gamma 0.4" in repr(result)


def test_a_result_without_an_answer_says_why(jobs: Jobs, ledger: Ledger):
    job = jobs.submit(SPEC)
    jobs.cancel(job.id)
    result = jobs.result(job.id)
    assert (result.verdict, len(result.trials)) == ({}, 0)
    assert "hyperparameters" not in result.trials
    for answer in ("best", "gamma"):
        with pytest.raises(ConflictError, match="CANCELLED"):
            getattr(result, answer)


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.FAILED])
def test_a_result_without_an_answer_shows_the_state_and_the_reason(
    jobs: Jobs, ledger: Ledger, tmp_path: Path, state: JobState
):
    job = jobs.submit(SPEC)
    ledger.leases.release(ledger.leases.acquire(job.id, "me", 60.0), state, "three trials in a row failed: x")
    result = jobs.result(job.id)
    assert repr(result) == f"<Result of job {job.id} (digits-mlp): {state}: three trials in a row failed: x>"
    for use in (
        lambda: result.best,
        lambda: result.gamma.best,
        lambda: result.export(tmp_path / "best.yaml"),
    ):
        with pytest.raises(ConflictError, match=rf"{state} \(three trials in a row failed: x\)"):
            use()


# What is changed


def test_arguments_of_python_arrive_as_json_has_them(jobs: Jobs):
    budget = {"trials": np.int64(2), "epochs": 1}
    arguments = {"k": np.int64(3), "sizes": (1, None), "rate": 1e-3}
    job = jobs.submit({"name": "x", "task": "acme.training:train", "budget": budget, "arguments": arguments})
    assert jobs.job(job.id).spec["arguments"] == {"k": 3, "sizes": [1, None], "rate": 0.001}


@pytest.mark.parametrize(
    "given",
    [str(EXAMPLE), EXAMPLE, read_job_file(EXAMPLE), read_job_file(EXAMPLE).document],
    ids=lambda given: type(given).__name__,
)
def test_a_job_is_submitted_from_a_file_or_its_keys(jobs: Jobs, ledger: Ledger, given: Any):
    job = jobs.submit(given, ["budget.trials=3"], priority=2)
    assert (job.name, job.state, job.priority) == ("digits-cnn", JobState.QUEUED, 2)
    assert ledger.jobs.get(job.id).spec["budget"]["trials"] == 3


def test_the_same_key_gives_the_same_job(jobs: Jobs, ledger: Ledger):
    made = {jobs.submit(SPEC, key="once").id for _ in range(2)}
    assert made == {job.id for job in ledger.overviews.jobs()}
    with pytest.raises(InputError, match="'once' was already used for job"):
        jobs.submit(SPEC, ["budget.trials=3"], key="once")


def test_every_problem_of_a_job_is_listed(jobs: Jobs):
    with pytest.raises(SpecError) as caught:
        jobs.submit({**SPEC, "budgt": 1, "confirm": {"seeds": 0}})
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(keys) == ["budgt", "confirm.seeds"]
    with pytest.raises(SpecError):
        jobs.submit({**SPEC, "name": {1, 2}})
    with pytest.raises(NotFoundError):
        jobs.submit("no such file.yaml")


def test_code_is_refused_by_a_ledger_and_by_default(jobs: Jobs, tmp_path: Path):
    """A ledger has no use for it, and a service takes none unless it is set to."""
    (tmp_path / "mine.py").touch()
    with pytest.raises(InputError, match=r"Code is only sent to a service|This service does not accept code"):
        jobs.submit(JobFile(SPEC), code=tmp_path)


def test_a_job_is_paused_resumed_extended_and_cancelled(jobs: Jobs, ledger: Ledger):
    job = jobs.submit(SPEC, ["budget.time=30"]).id
    assert jobs.pause(job).state is JobState.PAUSED
    assert jobs.resume(job).state is JobState.QUEUED
    assert jobs.extend(job, trials=6).id == job
    assert jobs.extend(job, seconds=60.0).state is JobState.QUEUED
    assert (ledger.jobs.get(job).spec["budget"]["trials"], ledger.jobs.get(job).spec["budget"]["time"]) == (
        6,
        60.0,
    )
    assert jobs.cancel(job).state is JobState.CANCELLED


def test_a_job_is_deleted_with_its_files(jobs: Jobs, ledger: Ledger, settings: Settings, done: str):
    other = jobs.submit(SPEC).id
    for job in (done, other):
        (settings.checkpoints(job) / "trial").mkdir(parents=True)
        (settings.job_folder(job) / "job.log").write_text("line")
    with pytest.raises(ConflictError, match="is QUEUED and was not deleted"):
        jobs.delete(other, only_ended=True)
    deleted = jobs.delete(done, only_ended=True)
    assert (deleted.id, deleted.code, deleted.mlflow_run_id) == (done, False, None)
    assert deleted.trials > 10
    assert not settings.job_folder(done).exists()
    assert settings.job_folder(other).exists()
    with pytest.raises(NotFoundError):
        jobs.job(done)
    assert jobs.delete(other).trials == 0
    assert jobs.jobs() == []


def test_files_that_were_left_behind_go_later(ledger: Ledger, settings: Settings):
    """A process that died in between, or another machine: the files go with the next deletion, or the next job."""
    here = LedgerJobs(ledger, settings)
    job = here.submit(SPEC).id
    settings.checkpoints(job).mkdir(parents=True)
    ledger.jobs.delete(job)
    unknown = settings.job_folder("unknwn")  # of another ledger with this home
    unknown.mkdir()
    with pytest.raises(NotFoundError, match="was deleted before"):
        here.delete(job)
    assert not settings.job_folder(job).exists()
    assert unknown.exists()


@pytest.mark.parametrize("kind", ["ledger", "service"])
def test_tokens_are_made_listed_and_revoked(serve: Serve, kind: str):
    server = serve() if kind == "service" else None
    with Client(server) as jobs:  # a service takes requests without a token until there is one
        _, secret = jobs.create_token("root", Role.ADMIN)
    with Client(server, secret) as jobs:
        made, _ = jobs.create_token("ann", Role.READ, may_send_code=True)
        assert [(token.owner, token.role, token.may_send_code) for token in jobs.tokens()] == [
            ("root", Role.ADMIN, False),
            ("ann", Role.READ, True),
        ]
        assert jobs.revoke_token(made.id).revoked is not None
        with pytest.raises(NotFoundError):
            jobs.revoke_token("nothing")
        with pytest.raises(InputError):
            jobs.create_token("", Role.READ)
        with pytest.raises(InputError, match="--expires: expected a duration"):
            jobs.create_token("ben", Role.READ, expires="soon")
        assert next(iter(jobs.audit())).subject == made.id


# What is refused


MISSING: dict[str, Callable[[Jobs], Any]] = {
    "job": lambda jobs: jobs.job("nojob"),
    "watch": lambda jobs: list(jobs.watch("nojob")),
    "result": lambda jobs: jobs.result("nojob"),
    "best": lambda jobs: jobs.best("nojob"),
    "list_trials": lambda jobs: jobs.list_trials("nojob"),
    "trials": lambda jobs: jobs.trials("nojob"),
    "curves": lambda jobs: jobs.curves("nojob"),
    "reports": lambda jobs: next(jobs.reports("nojob")),
    "learning_curves": lambda jobs: jobs.learning_curves("nojob"),
    "logs": lambda jobs: jobs.logs("nojob"),
    "pause": lambda jobs: jobs.pause("nojob"),
    "resume": lambda jobs: jobs.resume("nojob"),
    "cancel": lambda jobs: jobs.cancel("nojob"),
    "delete": lambda jobs: jobs.delete("nojob"),
    "extend": lambda jobs: jobs.extend("nojob", 9),
    "export": lambda jobs: jobs.export("nojob"),
}


@pytest.mark.parametrize("ask", MISSING.values(), ids=MISSING)
def test_an_unknown_job_is_named(jobs: Jobs, ask: Callable[[Jobs], Any]):
    with pytest.raises(NotFoundError, match="no job 'nojob'"):
        ask(jobs)


REFUSED: dict[str, tuple[Callable[[Jobs, str], Any], type[AnonTuneError], str]] = {
    "resume": (lambda jobs, job: jobs.resume(job), ConflictError, "only a PAUSED job"),
    "extend by less": (lambda jobs, job: jobs.extend(job, trials=4), ConflictError, "a larger number"),
    "extend by nothing": (lambda jobs, job: jobs.extend(job), InputError, "Give trials, time or seeds"),
    "too long": (lambda jobs, job: jobs.extend(job, seconds=1e16), InputError, "3650 days"),
    "no number": (lambda jobs, job: jobs.extend(job, seconds=float("nan")), InputError, "found nan"),
    "too many seeds": (lambda jobs, job: jobs.extend(job, seeds=5000), InputError, "at most 1000"),
    "early seeds": (lambda jobs, job: jobs.extend(job, seeds=30), ConflictError, "not reached its verdict"),
    "export": (lambda jobs, job: jobs.export(job), ConflictError, "has no result yet"),
    "export of an arm": (lambda jobs, job: jobs.export(job, arm="muon"), InputError, "has no arm 'muon'"),
    "logs of a trial": (lambda jobs, job: jobs.logs(job, "other"), NotFoundError, "has no trial 'other'"),
    "advice": (lambda jobs, job: jobs.advice("cnnn"), InputError, "did you mean 'cnn'"),
}


@pytest.mark.parametrize(("ask", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_a_request_that_cannot_be_met_is_refused(
    jobs: Jobs, ask: Callable[[Jobs, str], Any], error: type[AnonTuneError], says: str
):
    job = jobs.submit(SPEC).id
    with pytest.raises(error, match=says):
        ask(jobs, job)


def test_more_seeds_are_refused_where_they_have_no_effect(jobs: Jobs):
    job = jobs.submit({**SPEC, "seeds": "fixed"}).id
    with pytest.raises(ConflictError, match="states `seeds: fixed`, so more seeds would change nothing"):
        jobs.extend(job, seeds=30)


def test_a_job_that_has_ended_is_not_changed(jobs: Jobs):
    job = jobs.submit(SPEC).id
    jobs.cancel(job)
    for ask in (jobs.pause, jobs.resume, jobs.cancel, lambda job: jobs.extend(job, 9)):
        with pytest.raises(ConflictError):
            ask(job)


# Advice


def test_a_model_a_fingerprint_and_a_family_get_the_same_advice(jobs: Jobs):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    found = jobs.advice("cnn")
    assert found.jobs
    assert jobs.advice(model) == found
    assert jobs.advice(Fingerprint.model_validate(fingerprint(model))) == found
    measured = jobs.advice(model, log_mean_sigma=-8.0)
    assert measured.start is not None
    assert measured.model_copy(update={"start": None}) == found


# What notebooks and files show


def test_a_result_shows_itself_in_a_notebook(jobs: Jobs, done: str):
    result = jobs.result(done)
    shown = result._repr_html_()
    assert "ecommended gamma 0.40" in shown
    assert 'class="chart"' in shown
    figure = result.plot("response")
    assert any(0.4 in (trace.x if trace.x is not None else ()) for trace in figure.data)
    assert result.plot("curves").data
    with pytest.raises(InputError, match=r"unknown figure 'losses'.*response"):
        result.plot("losses")


def test_a_figure_has_a_name(jobs: Jobs, done: str):
    assert jobs.figure(done, "best").data
    with pytest.raises(NotFoundError):
        jobs.figure("nojob", "best")


def test_a_report_has_the_exported_configuration(jobs: Jobs, done: str):
    assert html.escape(jobs.export(done), quote=False) in jobs.report(done).replace("&#34;", '"').replace(
        "&#39;", "'"
    )
    with pytest.raises(NotFoundError):
        jobs.report("nojob")


class Shell:
    """A notebook's shell, in which cells are run."""

    def __init__(self) -> None:
        self.execution_count, self.user_ns, self.ids = 0, {"In": [""]}, {}

    def run(self, source: str, **metadata: str) -> list[bool]:
        """Whether each of two outputs of a cell takes plotly.js."""
        self.execution_count += 1
        self.user_ns["In"].append(source)
        self.ids = {"metadata": metadata}
        return [notebook.takes_plotly(), notebook.takes_plotly()]

    def get_parent(self) -> dict[str, Any]:
        return self.ids


def test_the_first_output_of_a_notebook_holds_plotly_also_when_it_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
):
    shell = Shell()
    monkeypatch.setattr(notebook, "_holder", None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert notebook.takes_plotly()
    assert notebook.takes_plotly(), "outside of a notebook"
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert shell.run("result") == [True, False]
    assert shell.run("other") == [False, False]
    assert shell.run("result") == [True, False]
    monkeypatch.setattr(notebook, "_holder", None)
    assert shell.run("result", cellId="a") == [True, False]
    assert shell.run("result", cellId="b") == [False, False]
    assert shell.run("result", cellId="a") == [True, False]
