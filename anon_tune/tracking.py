"""Projection of the ledger to MLflow: one parent run per job, one child run per trial.

It runs in a process of its own, lags behind the ledger, and may stop and restart at any point. The ledger stores how
far each run has been written, a run is found again by its tag, and metrics carry the ledger's times. So writing one
twice changes nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import os
import re
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from anon_tune.errors import DependencyError
from anon_tune.ledger import Cursor, Ledger, database_errors, sqlite_file, with_sqlite_file
from anon_tune.reachable import bypass_proxies, without_password
from anon_tune.records import JobRecord, JobState, Trial, TrialState

__all__ = ["EXPERIMENT", "Projector", "check_experiment", "check_uri"]

EXPERIMENT = "anon_tune"

_JOB_TAG, _TRIAL_TAG = "anon_tune.job_id", "anon_tune.trial_id"
_PARENT_TAG, _NAME_TAG = "mlflow.parentRunId", "mlflow.runName"
_DESCRIPTION_TAG = "mlflow.note.content"  # MLflow's own name for it
_LONGEST_TAG = 8000  # MLflow's limit
_SCHEMES = {"http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"}
_ITEMS_PER_BATCH = 1000  # MLflow's limit
_REFUSED = re.compile(r"[^/\w.\- :]|(?<![^/])(?=/|$)|^\.\.|(?<![^/])\.{1,2}(?=/|$)")
"""Parts of a name that MLflow refuses: other characters, and empty and relative parts of a path."""
_LONGEST_NAME = 240  # MLflow's limit is 250
_TRIALS_AT_ONCE = 100
_POLL_SECONDS = 1.0
_WORK_SECONDS = 1.0
_REST = 4.0  # so that at most a fifth of the time goes into the projection while a job runs
_TURN_SECONDS = 60.0  # longer than MLflow takes for one trial, its retries included
_TURN_POLL_SECONDS = 0.2
_BEGIN_SECONDS = 30.0

_TRIAL_STATUS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.CANCELLED: "KILLED",
    TrialState.DIVERGED: "FAILED",
    TrialState.FAILED: "FAILED",
}
_JOB_STATUS = {JobState.SUCCEEDED: "FINISHED", JobState.CANCELLED: "KILLED", JobState.FAILED: "FAILED"}

_log = logging.getLogger(__name__)


def check_uri(uri: str) -> None:
    """Check the scheme of a tracking URI as MLflow does, without importing MLflow, which takes seconds.

    Raises:
        DependencyError: MLflow has no store for this URI.
    """
    scheme, separator, _ = uri.partition("://")
    if uri == "databricks" or (separator and scheme.partition("+")[0] in _SCHEMES):
        return
    if uri.partition(":")[0] in entry_points(group="mlflow.tracking_store").names:
        return  # a plugin's
    raise DependencyError(
        f"MLflow does not support MLFLOW_TRACKING_URI={uri!r}. Give a server (http://host:5000) or a "
        "database (sqlite:////folder/mlflow.db, postgresql://user@host/name), or unset it: the default is sqlite in "
        "ANON_TUNE_HOME."
    )


def check_experiment(uri: str) -> None:
    """Check that the experiment of the jobs was not deleted in MLflow. This loads MLflow, which takes seconds.

    Raises:
        DependencyError: It was deleted, or MLflow cannot use its store; the message says what to do.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    bypass_proxies()
    store = sqlite_file(uri)
    if store is not None and not store.exists():
        return  # the first job makes it
    try:
        with database_errors(partial(_no_store, uri)):
            deleted = _deleted(MlflowClient(uri), uri)
    except (MlflowException, OSError, ImportError) as error:
        raise _no_store(uri, _first_line(error)) from error
    if deleted is not None:
        raise deleted


def _deleted(client: Any, uri: str) -> DependencyError | None:
    """Return the error for an experiment that was deleted in MLflow; None if it can be written or does not exist."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None or found.lifecycle_stage != "deleted":
        return None
    return DependencyError(
        f"The experiment {EXPERIMENT!r} was deleted in MLflow at {without_password(uri)}, so no job can be written "
        f"there. Restore it: MLFLOW_TRACKING_URI={without_password(uri)} mlflow experiments restore "
        f"--experiment-id {found.experiment_id}; then write each job again: anon-tune mlflow sync JOB"
    )


def _no_store(uri: str, reason: str) -> DependencyError:
    return DependencyError(
        f"MLflow cannot use its store at {without_password(uri)} ({reason}). Check MLFLOW_TRACKING_URI."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Written(NamedTuple):
    """Summary of one write to MLflow.

    Attributes:
        trials: Number of trials that were written.
        seconds: Duration, without the seconds that loading MLflow and creating a store take once.
    """

    trials: int
    seconds: float


class Projector:
    """Writes jobs to one MLflow server or store.

    Args:
        ledger: The ledger to project; it also stores the cursors.
        uri: MLflow tracking URI.
        artifacts: Folder for artifacts, if the store at `uri` has none of its own.
        files: Returns the text files that a job's parent run carries, by name.
        describe: Returns the description of a job's parent run, in Markdown.

    Raises:
        DependencyError: As `check_uri`.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        artifacts: Path,
        files: Callable[[JobRecord], Mapping[str, str]],
        describe: Callable[[JobRecord], str],
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # A server that is away is asked again by `follow`; MLflow's own retries would take minutes each.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        check_uri(uri)
        bypass_proxies()
        self._ledger = ledger
        self._uri = uri
        self._artifacts = artifacts
        self._files = files
        self._describe = describe
        self._experiment_id: str | None = None
        self._found: set[str] = set()
        self._name = uuid.uuid4().hex

    def sync(self, job_id: str, seconds: float = math.inf) -> int:
        """Write everything that is missing in MLflow; return the number of trials that were written.

        A job whose run is missing, because it was deleted or this is another MLflow, is written again from the start.
        Projectors of one job take turns: two that look for a run at once would both create it. New reports that come
        in meanwhile are left for the next call, so that a call ends while another driver works on the job.

        Args:
            job_id: The job.
            seconds: Time after which no further trial is begun.

        Raises:
            DependencyError: MLflow failed; the ledger knows how far it got.
        """
        with self._turn(job_id):
            return self._write(self._ledger.jobs.get(job_id), seconds).trials

    def _write(self, job: JobRecord, seconds: float) -> _Written:
        try:
            cursor = self._cursor(job.id) or self._begin(job)
            began = time.monotonic()
            limit = began + seconds
            if job.state is JobState.RUNNING and cursor.state != job.state:
                self._project_state(job, cursor.run)
            written: set[str] = set()
            left = self._ledger.projections.count_behind(job.id)
            while left > 0 and time.monotonic() < limit:
                found = self._ledger.projections.behind(job.id, min(left, _TRIALS_AT_ONCE))
                left -= _TRIALS_AT_ONCE
                self._ledger.projections.announce(
                    job.id, [trial.id for trial, known in found if known is None]
                )
                for trial, known in found:
                    self._keep_turn(job.id)
                    self._project_trial(job, cursor.run, trial, known)
                    written.add(trial.id)
                    if time.monotonic() > limit:
                        break
            if (written or cursor.state != job.state) and job.state is not JobState.RUNNING:
                whole = self._ledger.jobs.get(job.id, trials=True)
                self._project_state(whole, cursor.run)
        except self._errors as error:
            self._experiment_id = None  # it may have been deleted meanwhile
            self._found.clear()
            with contextlib.suppress(*self._errors):
                deleted = _deleted(self._client, self._uri)
                if deleted is not None:
                    raise deleted from error
            raise DependencyError(
                f"Writing job {job.id} to MLflow at {without_password(self._uri)} failed ({error}). Nothing is lost: "
                f"`anon-tune mlflow sync {job.id}` continues from here."
            ) from error
        return _Written(len(written), time.monotonic() - began)

    def follow(self, job_id: str, token: int, until: Callable[[], bool]) -> None:
        """Sync repeatedly until the job is at rest or `until()` is true. MLflow may be unavailable at times.

        The job also counts as at rest once another process works on it: that process has a projector of its own, and
        this one's driver waits for it to end. If this driver is gone and the job continues, a longer write is left to
        the next projector, which may be starting already.

        While the job runs, this pauses most of the time, since it takes CPU and disk from the training; the rest is
        written at the end. It does not load MLflow before a trial has reported or half a minute has passed: the
        driver and its Ray are starting.

        Args:
            job_id: The job.
            token: Fencing token of the lease under which the driver works.
            until: Returns whether the driver is gone.

        Raises:
            DependencyError: The last sync failed.
        """

        def is_over() -> bool:
            try:
                job = self._ledger.jobs.get(job_id)
            except DependencyError:  # for a moment
                return until()
            running = job.state is JobState.RUNNING and job.lease is not None and job.lease.token == token
            return until() or not running

        def wait(seconds: float, over: Callable[[], bool]) -> None:
            limit = time.monotonic() + seconds
            while time.monotonic() < limit and not over():
                time.sleep(max(0.0, min(_POLL_SECONDS, limit - time.monotonic())))

        before = self._ledger.projections.last_report(job_id)
        wait(_BEGIN_SECONDS, lambda: is_over() or self._ledger.projections.last_report(job_id) != before)
        begun = False
        while True:
            last = is_over()
            goes_on = last and self._ledger.jobs.get(job_id).state in {JobState.RUNNING, JobState.QUEUED}
            if goes_on and not begun:
                return
            begun = True
            seconds = _WORK_SECONDS if not last or (goes_on and until()) else math.inf
            rest = _POLL_SECONDS
            try:
                with self._turn(job_id):
                    written = self._write(self._ledger.jobs.get(job_id), seconds)
                rest = max(rest, _REST * written.seconds)
            except DependencyError as error:
                if last:
                    raise
                _log.warning("%s", error)
            if last:
                return
            wait(rest, is_over)

    @contextmanager
    def _turn(self, job_id: str) -> Iterator[None]:
        """Wait until no other process projects the job, and keep others out during the block."""
        while not self._ledger.projections.take_turn(job_id, self._name, _TURN_SECONDS):
            time.sleep(_TURN_POLL_SECONDS)
        try:
            yield
        finally:
            self._ledger.projections.end_turn(job_id, self._name)

    def _keep_turn(self, job_id: str) -> None:
        if not self._ledger.projections.take_turn(job_id, self._name, _TURN_SECONDS):
            raise DependencyError(
                f"MLflow at {without_password(self._uri)} took too long; another process writes job {job_id} now."
            )

    @cached_property
    def _errors(self) -> tuple[type[Exception], type[Exception]]:
        """Errors of MLflow. Imported here, since MLflow takes seconds to load."""
        from mlflow.exceptions import MlflowException

        return (MlflowException, OSError)

    @cached_property
    def _client(self) -> Any:
        """MLflow's client, created on first use, since this connects to a database; a failure is tried again."""
        from mlflow import MlflowClient

        try:
            with database_errors(partial(_no_store, self._uri)):
                self._make_store()
                return MlflowClient(self._uri)
        except (*self._errors, ImportError) as error:
            raise _no_store(self._uri, _first_line(error)) from error

    def _make_store(self) -> None:
        """Create a missing sqlite store, completely or not at all, with a write-ahead log.

        MLflow never accepts a store whose creation was interrupted between two tables, so it is created under
        another name. The write-ahead log saves two of three syncs to disk.
        """
        from mlflow import MlflowClient

        store = sqlite_file(self._uri)
        if store is None or store.exists():
            return
        with tempfile.TemporaryDirectory(prefix=f"{store.name}-", dir=store.parent) as folder:
            made, whole = Path(folder, "made.db"), Path(folder, "whole.db")
            MlflowClient(with_sqlite_file(self._uri, made)).search_experiments(max_results=1)
            with (
                contextlib.closing(sqlite3.connect(made)) as source,
                contextlib.closing(sqlite3.connect(whole)) as target,
            ):
                source.backup(target)
                target.execute("PRAGMA journal_mode = WAL")
            try:
                store.hardlink_to(whole)
            except FileExistsError:
                pass  # another process was faster
            except OSError:  # a file system without links
                whole.replace(store)

    def _cursor(self, job_id: str) -> Cursor | None:
        """Return the cursor of the job's own run; None if this MLflow has no such run."""
        cursor = self._ledger.projections.cursor(job_id)
        if cursor is not None and job_id not in self._found:
            if not self._is_there(cursor.run):
                self._ledger.projections.forget(job_id)
                return None
            self._found.add(job_id)
        return cursor

    def _is_there(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _experiment(self) -> str:
        """Return the experiment's id; the first call finds or creates it. Raises DependencyError if deleted."""
        if self._experiment_id is None:
            deleted = _deleted(self._client, self._uri)
            if deleted is not None:
                raise deleted
            found = self._client.get_experiment_by_name(EXPERIMENT)
            # MLflow's default place for artifacts is the working directory; a server knows its own.
            place = self._artifacts.as_uri() if self._uri.startswith("sqlite:") else None
            self._experiment_id = str(
                self._client.create_experiment(EXPERIMENT, place) if found is None else found.experiment_id
            )
        return self._experiment_id

    def _begin(self, job: JobRecord) -> Cursor:
        """Find or create the job's own run."""
        run = self._find_run(_JOB_TAG, job.id)
        if run is None:
            tags = {_JOB_TAG: job.id, _NAME_TAG: f"{job.name} {job.id}"}
            run = self._client.create_run(
                self._experiment(), start_time=_milliseconds(job.created), tags=tags
            ).info.run_id
        else:  # the cursor is lost: the child runs may exist too
            self._ledger.projections.announce(job.id)
        self._client.log_batch(run, params=_params(_flat(job.spec)))
        self._ledger.projections.set(job.id, job.id, run)
        return Cursor(run, 0, None)

    def _project_trial(self, job: JobRecord, parent: str, trial: Trial, known: Cursor | None) -> None:
        from mlflow.entities import Metric, RunTag

        run, steps = (known.run, known.steps) if known is not None else ("", 0)
        params = []
        if not run:
            earlier = self._find_run(_TRIAL_TAG, trial.id) if known is not None else None
            run = earlier or self._new_trial_run(parent, trial)
            params = _params(_trial_params(trial))
        names = _names(name for report in trial.reports for name in report.metrics)
        metrics = [
            Metric(names[name], value, _milliseconds(report.time), report.step)
            for report in trial.reports[steps:]
            for name, value in report.metrics.items()
        ]
        if trial.value is not None and trial.finished is not None:
            metrics.append(
                Metric("objective", trial.value, _milliseconds(trial.finished), len(trial.reports))
            )
        tags = []
        if trial.is_finished:
            tags.append(RunTag("anon_tune.state", trial.state.value))
            if trial.reason:
                tags.append(RunTag("anon_tune.reason", trial.reason[:5000]))
        room = _ITEMS_PER_BATCH - len(params) - len(tags)
        first, later = metrics[:room], metrics[room:]
        if first or params or tags:
            self._client.log_batch(run, metrics=first, params=params, tags=tags)
        for start in range(0, len(later), _ITEMS_PER_BATCH):
            self._client.log_batch(run, metrics=later[start : start + _ITEMS_PER_BATCH])
        if trial.is_finished:
            ended = _milliseconds(trial.finished) if trial.finished else None
            self._client.set_terminated(run, _TRIAL_STATUS[trial.state], ended)
        self._ledger.projections.set(job.id, trial.id, run, len(trial.reports), trial.state)

    def _new_trial_run(self, parent: str, trial: Trial) -> str:
        tags = {
            _TRIAL_TAG: trial.id,
            _PARENT_TAG: parent,
            _NAME_TAG: trial.id.removeprefix(f"{trial.job}-"),  # its parent's name has the job
            "anon_tune.arm": trial.arm,
            "anon_tune.phase": trial.phase.value,
            "anon_tune.repeat": str(trial.repeat),
        }
        started = _milliseconds(trial.started) if trial.started else None
        return str(self._client.create_run(self._experiment(), start_time=started, tags=tags).info.run_id)

    def _project_state(self, job: JobRecord, parent: str) -> None:
        if job.state is not JobState.RUNNING:
            for name, text in self._files(job).items():
                self._client.log_text(parent, text, name)
        self._client.set_tag(parent, _DESCRIPTION_TAG, self._describe(job)[:_LONGEST_TAG])
        self._client.set_tag(parent, "anon_tune.state", job.state.value)
        if job.state in _JOB_STATUS:
            ended = _milliseconds(job.finished) if job.finished else None
            self._client.set_terminated(parent, _JOB_STATUS[job.state], ended)
        else:
            self._client.update_run(parent, status="RUNNING")  # it may have ended before it was extended
        self._ledger.projections.set(job.id, job.id, parent, 0, job.state)

    def _find_run(self, tag: str, value: str) -> str | None:
        found = self._client.search_runs([self._experiment()], f"tags.`{tag}` = '{value}'", max_results=1)
        return str(found[0].info.run_id) if found else None


def _params(values: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    names = _names(values)
    return [Param(names[key], str(value)) for key, value in values.items()]


def _names(given: Iterable[str]) -> dict[str, str]:
    """Return the name in MLflow of each metric or parameter: the same if MLflow takes it, else with "_" in it.

    Names stay distinct: of two that would become the same, the later one gets a number.
    """
    plain = {name: _REFUSED.sub("_", name)[:_LONGEST_NAME] for name in given}
    found = {name: name for name in plain if plain[name] == name}
    for name, new in plain.items():
        taken, number = set(found.values()), 2
        while name not in found:
            if new not in taken:
                found[name] = new
            new, number = f"{plain[name]}_{number}", number + 1
    return found


def _trial_params(trial: Trial) -> dict[str, Any]:
    """Return the optimizer's arguments, the search coordinates, and the trial's arm, phase and seed."""
    return {
        **trial.params,
        **trial.hyperparameters,
        "arm": trial.arm,
        "phase": trial.phase.value,
        "seed": trial.seed,
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def _milliseconds(moment: datetime.datetime) -> int:
    return round(moment.timestamp() * 1000)
