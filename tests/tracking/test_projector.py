"""The projection, from a real ledger to a real MLflow store."""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from anon_tune.errors import DependencyError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import JobRecord, JobState, NewTrial, Overview, Phase, TrialState
from anon_tune.tracking import EXPERIMENT, Projector, check_experiment, check_uri
from anon_tune.tracking import projector as projector_module
from anon_tune.tracking import store as store_module
from tests import builders


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that the tests share: to make one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


def files(job: JobRecord) -> Mapping[str, str]:
    return {"summary.txt": f"{len(job.trials)} trials, run {job.mlflow_run}"}


def describe(overview: Overview) -> str:
    return f"The job is {overview.job.state}."


def projector(ledger: Ledger, uri: str, folder: Path) -> Projector:
    return Projector(ledger, uri, folder / "artifacts", files, describe)


@pytest.mark.parametrize("refused", ["file:./x", "file:///x", "./x", "/x", "foo://x", "sqlite:x", "http:/x"])
def test_a_uri_that_mlflow_refuses_is_named_with_what_is_allowed(
    ledger: Ledger, tmp_path: Path, refused: str
):
    with pytest.raises(DependencyError, match=rf"MLFLOW_TRACKING_URI='{re.escape(refused)}'.*sqlite:////"):
        projector(ledger, refused, tmp_path)


@pytest.mark.parametrize(
    "allowed",
    ["http://[::1]:5000", "https://host/path", "sqlite:////x.db", "postgresql+psycopg://u@h/x", "databricks"],
)
def test_a_uri_that_mlflow_may_take_is_left_to_it(allowed: str):
    check_uri(allowed)


def test_the_scheme_of_a_plugin_is_left_to_it(monkeypatch: pytest.MonkeyPatch):
    plugin = EntryPoint("arn", "x:y", "mlflow.tracking_store")
    monkeypatch.setattr(store_module, "entry_points", lambda group: EntryPoints([plugin]).select(group=group))
    check_uri("arn:aws:sagemaker:x")
    with pytest.raises(DependencyError):
        check_uri("arm:aws")


def test_a_store_that_cannot_be_opened_is_one_message_and_tried_again(ledger: Ledger, tmp_path: Path):
    (tmp_path / "file").touch()
    job = begin(ledger).job
    nowhere = projector(ledger, f"sqlite:///{tmp_path / 'file' / 'x.db'}", tmp_path)
    for _ in range(2):
        with pytest.raises(DependencyError, match="MLFLOW_TRACKING_URI"):
            nowhere.sync(job)


_KILLED = """
import itertools, os, signal, sys
from sqlalchemy import Engine, event
from mlflow import MlflowClient
from anon_tune.tracking.store import Store

tables = itertools.count(1)


@event.listens_for(Engine, "before_cursor_execute")
def kill(connection, cursor, statement, parameters, context, executemany):
    if "CREATE TABLE" in statement and next(tables) == 20:
        os.kill(os.getpid(), signal.SIGKILL)


Store(sys.argv[1], None).client
"""


def test_a_kill_while_the_store_is_made_leaves_none_that_mlflow_refuses(ledger: Ledger, tmp_path: Path):
    store = tmp_path / "mlflow.db"
    uri = f"sqlite:///{store}"
    killed = subprocess.run([sys.executable, "-c", _KILLED, uri], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not store.exists()
    job = begin(ledger).job
    projector(ledger, uri, tmp_path).sync(job)
    assert children(uri, job) == Counter()
    with contextlib.closing(sqlite3.connect(store)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def begin(ledger: Ledger) -> Lease:
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {})
    return ledger.leases.acquire(job.id, "tests", 60.0)


def complete(ledger: Ledger, lease: Lease, number: int) -> None:
    new = NewTrial("anon", Phase.SEARCH, number, number, {"gamma": number / 10}, {"gamma": number / 10})
    trial = ledger.trials.add(lease, new)
    ledger.attempts.start(lease, trial.id)
    ledger.trials.report(lease, trial.id, 1, 1, 0.5, {"val_loss": 0.5})
    ledger.trials.finish(lease, trial.id, TrialState.COMPLETE, 0.5)


def children(uri: str, job_id: str) -> Counter[str]:
    """Return the number of runs of each trial of a job."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`anon_tune.job_id` = '{job_id}'")
    runs: list[Any] = client.search_runs(
        [experiment], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", max_results=1000
    )
    return Counter(run.data.tags["anon_tune.trial_id"] for run in runs)


def summary(uri: str, run: str | None) -> str:
    return Path(MlflowClient(uri).download_artifacts(run, "summary.txt")).read_text()


def test_a_job_that_goes_on_after_a_pause_brings_its_files_up_to_date(
    ledger: Ledger, uri: str, tmp_path: Path
):
    lease = begin(ledger)
    for number in range(2):
        complete(ledger, lease, number)
        ledger.leases.release(lease, JobState.PAUSED)
        assert projector(ledger, uri, tmp_path).sync(lease.job) == 1
        run = ledger.jobs.get(lease.job).mlflow_run
        assert summary(uri, run) == f"{number + 1} trials, run {run}"
        lease = ledger.leases.acquire(lease.job, "tests", 60.0)


def test_the_run_of_a_job_that_is_extended_runs_again(ledger: Ledger, uri: str, tmp_path: Path):
    lease = begin(ledger)
    complete(ledger, lease, 0)

    def status() -> str:
        projector(ledger, uri, tmp_path).sync(lease.job)
        run = MlflowClient(uri).get_run(ledger.jobs.get(lease.job).mlflow_run)
        assert run.data.tags["anon_tune.state"] == ledger.jobs.get(lease.job).state
        assert run.data.tags["mlflow.note.content"] == f"The job is {ledger.jobs.get(lease.job).state}."
        return str(run.info.status)

    assert status() == "RUNNING"
    ledger.leases.release(lease, JobState.SUCCEEDED)
    assert status() == "FINISHED"
    ledger.jobs.extend(lease.job, trials=ledger.jobs.get(lease.job).spec["budget"]["trials"] + 1)
    assert status() == "SCHEDULED"
    lease = ledger.leases.acquire(lease.job, "tests", 60.0)
    assert status() == "RUNNING"
    ledger.leases.release(lease, JobState.SUCCEEDED)
    assert status() == "FINISHED"


@pytest.mark.parametrize("where", ["another store", "the same, after its runs were deleted"])
def test_a_missing_run_is_written_again(ledger: Ledger, uri: str, tmp_path: Path, where: str):
    lease = begin(ledger)
    complete(ledger, lease, 0)
    complete(ledger, lease, 1)
    ledger.leases.release(lease, JobState.SUCCEEDED)
    first = projector(ledger, uri, tmp_path)
    assert first.sync(lease.job) == 2
    assert first.sync(lease.job) == 0
    if where == "another store":
        uri = f"sqlite:///{tmp_path / 'other.db'}"
    else:
        job = ledger.jobs.get(lease.job, trials=True)
        for run in (job.mlflow_run, *(trial.mlflow_run for trial in job.trials)):
            MlflowClient(uri).delete_run(run)
    again = projector(ledger, uri, tmp_path)
    assert again.sync(lease.job) == 2
    assert again.sync(lease.job) == 0
    job = ledger.jobs.get(lease.job, trials=True)
    assert children(uri, lease.job) == {trial.id: 1 for trial in job.trials}
    assert {trial.mlflow_run for trial in job.trials} <= {
        run.info.run_id for run in MlflowClient(uri).search_runs(["1"], max_results=1000)
    }


def test_a_projector_that_died_after_it_made_a_run_leaves_one(
    ledger: Ledger, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lease = begin(ledger)
    for number in range(3):
        complete(ledger, lease, number)

    def killed(job_id: str, subject: str, *_: Any) -> None:
        if subject != job_id:
            raise KeyboardInterrupt

    dying = projector(ledger, uri, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(ledger.projections, "set", killed)
        with pytest.raises(KeyboardInterrupt):
            dying.sync(lease.job)
    assert len(children(uri, lease.job)) == 1  # which no cursor names
    assert projector(ledger, uri, tmp_path).sync(lease.job) == 3
    trials = ledger.jobs.get(lease.job, trials=True).trials
    assert children(uri, lease.job) == {trial.id: 1 for trial in trials}


def test_more_trials_and_metrics_than_go_into_one_batch(
    ledger: Ledger, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(projector_module, "_TRIALS_AT_ONCE", 2)
    lease = begin(ledger)
    for number in range(5):
        complete(ledger, lease, number)
    many = {f"metric {n}": float(n) for n in range(2100)}
    new = NewTrial("anon", Phase.SEARCH, 9, 9, {"gamma": 9.0}, {"gamma": 9.0})
    trial = ledger.trials.add(lease, new)
    ledger.attempts.start(lease, trial.id)
    ledger.trials.report(lease, trial.id, 1, 1, 0.5, many)
    ledger.trials.finish(lease, trial.id, TrialState.DIVERGED, None, "diverged")
    assert projector(ledger, uri, tmp_path).sync(lease.job) == 6
    trials = ledger.jobs.get(lease.job, trials=True).trials
    assert children(uri, lease.job) == {trial.id: 1 for trial in trials}
    run = MlflowClient(uri).get_run(trials[-1].mlflow_run)
    own = {"gamma": 9.0, "objective/validation": 0.5, "objective/best": 0.5}
    assert run.data.metrics == {**many, **own}
    assert run.data.params == {"gamma": "9", "arm": "anon", "phase": "search", "seed": "9"}
    assert run.data.tags["anon_tune.reason"] == "diverged"
    assert run.info.status == "FAILED"


def test_names_that_mlflow_refuses_are_mapped_and_stay_distinct(ledger: Ledger, uri: str, tmp_path: Path):
    spec = builders.spec(task="mine:train", data=None, model=None, arguments={"top@k": 5}, folder="/mine")
    job = ledger.jobs.create("x", spec.model_dump(mode="json"), {})
    lease = ledger.leases.acquire(job.id, "tests", 60.0)
    trial = ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, 0, 0, {}, {}))
    ledger.attempts.start(lease, trial.id)
    values = {"acc@1": 0.1, "val loss": 0.2, "mAP[0.5]": 0.3, "a//b": 0.4, "../x": 0.5, "m" * 300: 0.6}
    ledger.trials.report(lease, trial.id, 1, 1, 0.5, values)
    ledger.trials.report(lease, trial.id, 1, 2, 0.5, {"acc@1": 0.7, "acc_1": 0.8, "": 0.9})
    assert projector(ledger, uri, tmp_path).sync(lease.job) == 1
    stored = ledger.jobs.get(lease.job, trials=True)
    run = MlflowClient(uri).get_run(stored.trials[0].mlflow_run)
    assert run.data.metrics == {
        "acc_1_2": 0.7, "acc_1": 0.8, "val loss": 0.2, "mAP_0.5_": 0.3, "a/_/b": 0.4, "_/x": 0.5, "m" * 240: 0.6,
        "_": 0.9, "objective/validation": 0.5,
    }  # fmt: skip
    assert MlflowClient(uri).get_run(stored.mlflow_run).data.params["arguments.top_k"] == "5"


@pytest.mark.parametrize("when", ["before", "between two syncs", "while it is written"])
def test_an_experiment_that_was_deleted_is_named_with_what_to_do(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    lease = begin(ledger)
    complete(ledger, lease, 0)
    writing = projector(ledger, uri, tmp_path)
    check_experiment(uri)  # before the experiment is made
    writing.sync(lease.job)
    check_experiment(uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    complete(ledger, lease, 1)
    if when == "while it is written":
        find = Projector._cursor

        def find_and_delete(self: Projector, job_id: str) -> Any:
            found = find(self, job_id)
            client.delete_experiment(experiment)
            return found

        monkeypatch.setattr(Projector, "_cursor", find_and_delete)
    else:
        client.delete_experiment(experiment)
        writing = projector(ledger, uri, tmp_path) if when == "before" else writing
    said = rf"'{EXPERIMENT}' was deleted in MLflow .*mlflow experiments restore --experiment-id {experiment}"
    with pytest.raises(DependencyError, match=said):
        writing.sync(lease.job)
    monkeypatch.undo()
    with pytest.raises(DependencyError, match=said):
        check_experiment(uri)
    client.restore_experiment(experiment)
    assert projector(ledger, uri, tmp_path).sync(lease.job) in {1, 2}
    assert set(children(uri, lease.job).values()) == {1}


def test_a_sync_with_no_time_left_begins_nothing_and_the_next_one_ends_it(
    ledger: Ledger, uri: str, tmp_path: Path
):
    lease = begin(ledger)
    for number in range(3):
        complete(ledger, lease, number)
    one = projector(ledger, uri, tmp_path)
    assert one.sync(lease.job, seconds=-1.0) == 0
    assert one.sync(lease.job) == 3


def test_a_sync_ends_though_the_job_goes_on(
    ledger: Ledger, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lease = begin(ledger)
    complete(ledger, lease, 0)
    project, made = Projector._project_trial, iter(range(1, 200))

    def beside_a_driver(*arguments: Any) -> None:
        project(*arguments)
        complete(ledger, lease, next(made))

    monkeypatch.setattr(Projector, "_project_trial", beside_a_driver)
    syncing = projector(ledger, uri, tmp_path)
    assert [syncing.sync(lease.job) for _ in range(3)] == [1, 1, 1]


def test_projectors_of_one_job_take_turns(ledger: Ledger, uri: str, tmp_path: Path):
    lease = begin(ledger)
    for number in range(4):
        complete(ledger, lease, number)
    ledger.leases.release(lease, JobState.SUCCEEDED)
    several = [projector(ledger, uri, tmp_path) for _ in range(3)]
    with ThreadPoolExecutor(len(several)) as pool:
        written = list(pool.map(lambda one: one.sync(lease.job), several))
    assert sorted(written) == [0, 0, 4]
    assert set(children(uri, lease.job).values()) == {1}


def test_a_projector_that_died_is_waited_for_and_replaced(ledger: Ledger):
    job = begin(ledger).job
    assert ledger.projections.take_turn(job, "first", 60.0)
    assert ledger.projections.take_turn(job, "first", -1.0)  # as it looks a minute after its death
    assert ledger.projections.take_turn(job, "second", 60.0)
    assert not ledger.projections.take_turn(job, "first", 60.0)
    ledger.projections.end_turn(job, "first")
    assert not ledger.projections.take_turn(job, "first", 60.0)
    ledger.projections.end_turn(job, "second")
    assert ledger.projections.take_turn(job, "first", 60.0)


def test_mlflow_is_left_alone_until_a_trial_has_reported(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The driver and its Ray are starting, and MLflow takes seconds of a core to load."""
    monkeypatch.setattr(projector_module, "_WORK_SECONDS", math.inf)
    lease = begin(ledger)
    complete(ledger, lease, 0)  # by a driver that was killed: nobody has projected it
    store = tmp_path / "mlflow.db"
    made: list[bool] = []

    def until() -> bool:
        made.append(store.exists())
        if len(made) == 2:
            complete(ledger, lease, 1)
        return made[-1]

    projector(ledger, f"sqlite:///{store}", tmp_path).follow(lease.job, lease.token, until)
    assert made[:2] == [False, False]
    assert len(children(f"sqlite:///{store}", lease.job)) == 2


def test_a_projector_that_rests_hears_that_its_driver_has_died(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However long it rests, as after a store that took its time."""
    monkeypatch.setattr(projector_module, "_REST", 1e9)
    monkeypatch.setattr(projector_module, "_WORK_SECONDS", math.inf)
    lease = begin(ledger)
    store = tmp_path / "mlflow.db"
    asked = 0

    def until() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            complete(ledger, lease, 0)
        assert asked < 1000, "nothing was written"
        return len(ledger.projections.behind(lease.job, 9)) == 0

    projector(ledger, f"sqlite:///{store}", tmp_path).follow(lease.job, lease.token, until)
    assert len(children(f"sqlite:///{store}", lease.job)) == 1


def test_a_projector_ends_when_another_process_has_the_job(
    ledger: Ledger, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Though its own driver lives: it has given the job back, and waits for it. The other's projector writes."""
    lease = begin(ledger)
    complete(ledger, lease, 0)
    ledger.leases.release(lease, JobState.QUEUED)
    ledger.leases.acquire(lease.job, "another", 60.0)
    projecting = projector(ledger, uri, tmp_path)
    monkeypatch.setattr(Projector, "_write", lambda *_: pytest.fail("it wrote"))
    projecting.follow(lease.job, lease.token, until=lambda: False)
    assert ledger.projections.cursor(lease.job) is None


@pytest.mark.parametrize(
    ("left", "driver_lives", "written"),
    [(JobState.QUEUED, False, 0), (JobState.QUEUED, True, 3), (JobState.PAUSED, False, 3)],
)
def test_what_a_killed_driver_has_left_behind_is_left_to_who_goes_on_with_the_job(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left: JobState,
    driver_lives: bool,
    written: int,
):
    """Its projector would else write for minutes beside the next driver, which starts."""
    monkeypatch.setattr(projector_module, "_BEGIN_SECONDS", 0.0)
    monkeypatch.setattr(projector_module, "_WORK_SECONDS", 0.0)
    lease = begin(ledger)
    for number in range(3):
        complete(ledger, lease, number)
    write, store = Projector._write, tmp_path / "mlflow.db"

    def write_and_leave(*arguments: Any) -> Any:
        found = write(*arguments)
        if ledger.jobs.get(lease.job).state is JobState.RUNNING:
            ledger.leases.release(lease, left)
        return found

    def is_gone() -> bool:
        return not driver_lives and ledger.jobs.get(lease.job).state is left

    monkeypatch.setattr(Projector, "_write", write_and_leave)
    projector(ledger, f"sqlite:///{store}", tmp_path).follow(lease.job, lease.token, is_gone)
    assert len(children(f"sqlite:///{store}", lease.job)) == written


def test_runs_of_an_earlier_version_keep_their_parameters_and_are_written_on(ledger: Ledger, tmp_path: Path):
    """MLflow refuses to change a parameter; an earlier version wrote some with other names and digits."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    lease = begin(ledger)
    complete(ledger, lease, 3)
    trial = ledger.jobs.get(lease.job, trials=True).trials[0]
    client = MlflowClient(uri)
    experiment = client.create_experiment(EXPERIMENT, (tmp_path / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"anon_tune.job_id": lease.job}).info.run_id
    client.log_param(parent, "budget.trials", "1e1")
    tags = {"anon_tune.trial_id": trial.id, "mlflow.parentRunId": parent}
    run = client.create_run(experiment, tags=tags).info.run_id
    client.log_param(run, "gamma", "0.30000000000000004")
    client.log_param(run, "betas", "[0.9, 0.999, 0.5]")
    assert projector(ledger, uri, tmp_path).sync(lease.job) == 1
    assert projector(ledger, uri, tmp_path).sync(lease.job) == 0
    assert children(uri, lease.job) == {trial.id: 1}
    written = client.get_run(run).data
    assert (written.params["gamma"], written.params["arm"]) == ("0.30000000000000004", "anon")
    assert written.metrics["objective"] == 0.5
    job = client.get_run(parent).data
    assert (job.params["budget.trials"], job.params["budget.epochs"]) == ("1e1", "9")
    assert job.metrics["trials_done"] == 1


def test_a_run_begins_when_its_job_began_to_run(ledger: Ledger, uri: str, tmp_path: Path):
    waiting = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    assert projector(ledger, uri, tmp_path).sync(waiting) == 0
    assert ledger.projections.cursor(waiting) is None  # MLflow would take its waiting for a part of the run
    lease = ledger.leases.acquire(waiting, "tests", 60.0)
    projector(ledger, uri, tmp_path).sync(lease.job)
    job = ledger.jobs.get(lease.job)
    assert job.started is not None
    run = MlflowClient(uri).get_run(job.mlflow_run)
    assert run.info.start_time == round(job.started.timestamp() * 1000)


def test_a_job_that_was_cancelled_before_it_began_has_a_run_without_duration(
    ledger: Ledger, uri: str, tmp_path: Path
):
    job = ledger.jobs.create("x", builders.spec().model_dump(mode="json"), {}).id
    ledger.jobs.cancel(job)
    projector(ledger, uri, tmp_path).sync(job)
    run = MlflowClient(uri).get_run(ledger.jobs.get(job).mlflow_run)
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("KILLED", 0)


def test_the_description_and_metrics_follow_a_job_that_runs(ledger: Ledger, uri: str, tmp_path: Path):
    lease = begin(ledger)
    done = []
    following = Projector(ledger, uri, tmp_path, files, lambda overview: f"{overview.arms['anon'].search}")
    for number in range(2):
        complete(ledger, lease, number)
        following.sync(lease.job)
        data = MlflowClient(uri).get_run(ledger.jobs.get(lease.job).mlflow_run).data
        done.append(
            (data.metrics["trials_done"], data.metrics["best/anon"], data.tags["mlflow.note.content"])
        )
    state = TrialState.COMPLETE
    assert done == [(1, 0.5, f"{ {state: 1} }"), (2, 0.5, f"{ {state: 2} }")]


def test_the_experiment_has_a_view_with_loss_and_gamma(ledger: Ledger, uri: str, tmp_path: Path):
    projector(ledger, uri, tmp_path).sync(begin(ledger).job)
    tags = MlflowClient(uri).get_experiment_by_name(EXPERIMENT).tags
    view = json.loads(tags["mlflow.sharedViewState.anon_tune"])
    assert {"metrics.`objective`", "metrics.`gamma`"} <= set(json.loads(view["state"])["selectedColumns"])


def test_the_best_weights_are_a_model_with_a_signature_and_logged_once(
    ledger: Ledger, uri: str, tmp_path: Path
):
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"first")
    lease = begin(ledger)
    inputs, outputs = ([{"type": "float32", "shape": shape}] for shape in ([-1, 1, 8, 8], [-1, 10]))
    ledger.jobs.update(lease, probe={"signature": {"inputs": inputs, "outputs": outputs}})
    complete(ledger, lease, 0)
    ledger.leases.release(lease, JobState.SUCCEEDED)

    def models() -> list[Any]:
        Projector(ledger, uri, tmp_path / "artifacts", files, describe, lambda job: weights).sync(lease.job)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        found: list[Any] = client.search_logged_models(
            [experiment], f"tags.`anon_tune.job_id` = '{lease.job}'"
        )
        return found

    (model,) = models()
    ledger.projections.forget(lease.job)
    assert [again.model_id for again in models()] == [model.model_id]
    local = Path(model.artifact_location.removeprefix("file://"))
    assert (local / "state_dict.pth").read_bytes() == b"first"
    signature = Model.load(str(local / "MLmodel")).signature
    assert [one.shape for one in (*signature.inputs.inputs, *signature.outputs.inputs)] == [
        (-1, 1, 8, 8),
        (-1, 10),
    ]
    run = MlflowClient(uri).get_run(ledger.jobs.get(lease.job).mlflow_run)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    weights.write_bytes(b"of the extended job")
    ledger.projections.forget(lease.job)
    assert len(models()) == 2
