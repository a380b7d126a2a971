"""The projector: writes a job's runs, and continues where it or another one stopped.

It runs in a process of its own, lags behind the ledger, and may stop and restart at any point. The ledger stores how
far each run has been written, a run is found again by its tag, and metrics carry the ledger's times. So writing one
twice changes nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from anon_tune.errors import DatabaseUnavailableError, DependencyError
from anon_tune.ledger import Cursor, Ledger, retried
from anon_tune.reachable import bypass_proxies
from anon_tune.records import ENDED, JobRecord, JobState, Overview, Trial
from anon_tune.tracking import runs
from anon_tune.tracking.models import log_best_weights
from anon_tune.tracking.names import JOB_TAG, TRIAL_TAG, accepted, readable
from anon_tune.tracking.runs import Point
from anon_tune.tracking.store import Store, check_uri

__all__ = ["Projector"]

_ITEMS_PER_BATCH = 1000  # MLflow's limit
_PARAMS_PER_BATCH = 100  # MLflow's limit
_TRIALS_AT_ONCE = 100
_POLL_SECONDS = 1.0
_WORK_SECONDS = 1.0
_REST = 4.0  # so that at most a fifth of the time goes into the projection while a job runs
_TURN_SECONDS = 60.0  # longer than MLflow takes for one trial, its retries included
_TURN_POLL_SECONDS = 0.2
_BEGIN_SECONDS = 30.0

_log = logging.getLogger(__name__)


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
        weights: Returns the file with a job's best weights; None if it keeps none.

    Raises:
        DependencyError: As `check_uri`.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        artifacts: Path,
        files: Callable[[JobRecord], Mapping[str, str]],
        describe: Callable[[Overview], str],
        weights: Callable[[JobRecord], Path | None] = lambda job: None,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # A server that is away is asked again by `follow`; MLflow's own retries would take minutes each.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        check_uri(uri)
        bypass_proxies()
        self._ledger = ledger
        self._store = Store(uri, artifacts)
        self._files = files
        self._describe = describe
        self._weights = weights
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
        if job.started is None and job.state not in ENDED:
            return _Written(0, 0.0)  # MLflow takes the start of a run when it is created, and never again
        try:
            cursor = self._cursor(job.id) or self._begin(job)
            began = time.monotonic()
            written = self._write_trials(job, cursor.run, began + seconds)
            if written or cursor.state != job.state:
                self._project_job(job, cursor.run)
        except self._store.errors as error:
            self._store.forget_experiment()
            self._found.clear()
            self._store.check()
            raise DependencyError(
                f"Writing job {job.id} to MLflow at {self._store.shown} failed ({self._store.clean(str(error))}). "
                f"Nothing is lost: `anon-tune mlflow sync {job.id}` continues from here."
            ) from error
        return _Written(written, time.monotonic() - began)

    def _write_trials(self, job: JobRecord, parent: str, limit: float) -> int:
        """Write trials that are behind until all are written, or until `limit`; return their number."""
        written: set[str] = set()
        left = self._ledger.projections.count_behind(job.id)
        while left > 0 and time.monotonic() < limit:
            found = self._ledger.projections.behind(job.id, min(left, _TRIALS_AT_ONCE))
            left -= _TRIALS_AT_ONCE
            self._ledger.projections.announce(job.id, [trial.id for trial, known in found if known is None])
            for trial, known in found:
                self._keep_turn(job.id)
                self._project_trial(job, parent, trial, known)
                written.add(trial.id)
                if time.monotonic() > limit:
                    break
        return len(written)

    def follow(self, job_id: str, token: int, until: Callable[[], bool]) -> None:
        """Sync repeatedly until the job is at rest or `until()` is true. MLflow and the ledger may be away at times.

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
            DependencyError: The last sync failed. If the ledger is away, it is tried again until the driver is gone.
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

        before = retried(lambda _: self._ledger.projections.last_report(job_id), until)

        def has_reported() -> bool:
            try:
                return self._ledger.projections.last_report(job_id) != before
            except DatabaseUnavailableError:
                return False

        wait(_BEGIN_SECONDS, lambda: is_over() or has_reported())
        begun = False
        while True:
            last = is_over()
            goes_on = last and retried(lambda _: self._ledger.jobs.get(job_id), until).state in {
                JobState.RUNNING,
                JobState.QUEUED,
            }
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
                if last and (until() or not isinstance(error, DatabaseUnavailableError)):
                    raise
                last = False
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
                f"MLflow at {self._store.shown} took too long; another process writes job {job_id} now."
            )

    def _cursor(self, job_id: str) -> Cursor | None:
        """Return the cursor of the job's own run; None if this MLflow has no such run."""
        cursor = self._ledger.projections.cursor(job_id)
        if cursor is not None and job_id not in self._found:
            if not self._store.is_active(cursor.run):
                self._ledger.projections.forget(job_id)
                return None
            self._found.add(job_id)
        return cursor

    def _begin(self, job: JobRecord) -> Cursor:
        """Find or create the job's own run."""
        found = self._store.find_run(JOB_TAG, job.id)
        if found is None:
            began = job.started or job.finished or job.created
            run = self._create_run(began, runs.new_job_tags(job))
        else:  # the cursor is lost: the child runs may exist too
            run = str(found.info.run_id)
            self._ledger.projections.announce(job.id)
        params = _params(runs.job_params(job), {} if found is None else found.data.params)
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self._store.client.log_batch(run, params=params[start : start + _PARAMS_PER_BATCH])
        self._log_data(run, job)
        self._ledger.projections.set(job.id, job.id, run)
        return Cursor(run, 0, None)

    def _create_run(self, start: datetime.datetime | None, tags: Mapping[str, str]) -> str:
        time = None if start is None else runs.milliseconds(start)
        created = self._store.client.create_run(self._store.experiment, start_time=time, tags=dict(tags))
        return str(created.info.run_id)

    def _log_data(self, run: str, job: JobRecord) -> None:
        from mlflow.entities import Dataset, DatasetInput

        data = runs.data_set(job)
        if data is not None:
            entity = Dataset(data.name, data.digest, source_type="anon_tune", source=data.name)
            self._store.client.log_inputs(run, [DatasetInput(entity, [])])

    def _project_trial(self, job: JobRecord, parent: str, trial: Trial, known: Cursor | None) -> None:
        run, steps = (known.run, known.steps) if known is not None else ("", 0)
        params: list[Any] = []
        points: list[Point] = []
        if not run:
            found = self._store.find_run(TRIAL_TAG, trial.id) if known is not None else None
            run = (
                self._create_run(trial.started, runs.new_trial_tags(trial, parent))
                if found is None
                else str(found.info.run_id)
            )
            params = _params(runs.trial_params(trial), {} if found is None else found.data.params)
            points = [*runs.trial_settings(trial, job.started or job.created)]
        points = [*runs.trial_points(trial, steps, job.spec["objective"]["mode"]), *points]
        self._log(run, params, _metrics(points, trial), runs.trial_tags(trial))
        if trial.is_finished:
            ended = runs.milliseconds(trial.finished) if trial.finished else None
            self._store.client.set_terminated(run, runs.TRIAL_STATUS[trial.state], ended)
        self._ledger.projections.set(job.id, trial.id, run, len(trial.reports), trial.state)

    def _log(self, run: str, params: list[Any], metrics: list[Any], tags: Mapping[str, str]) -> None:
        """Write everything to a run, in as few requests as MLflow allows."""
        from mlflow.entities import RunTag

        room = _ITEMS_PER_BATCH - len(params) - len(tags)
        entities = [RunTag(name, value) for name, value in tags.items()]
        self._store.client.log_batch(run, metrics=metrics[:room], params=params, tags=entities)
        for start in range(room, len(metrics), _ITEMS_PER_BATCH):
            self._store.client.log_batch(run, metrics=metrics[start : start + _ITEMS_PER_BATCH])

    def _project_job(self, job: JobRecord, run: str) -> None:
        """Write the state of a job, its metrics and its description; at rest also its files and best weights."""
        client = self._store.client
        overview = dataclasses.replace(self._ledger.overviews.job(job.id), job=job)
        if job.state is not JobState.RUNNING:
            for name, text in self._files(self._ledger.jobs.get(job.id, trials=True)).items():
                client.log_text(run, text, name)
            weights = self._weights(job)
            if weights is not None and weights.exists():
                log_best_weights(client, self._store.experiment, run, job, weights)
        last = self._ledger.projections.last_report(job.id)
        moment = job.finished or last or job.started or job.created
        points = runs.job_points(overview, moment)
        self._log(run, [], _metrics(points), runs.job_tags(job, self._describe(overview)))
        status = runs.JOB_STATUS[job.state]
        if job.state in ENDED:
            client.set_terminated(run, status, runs.milliseconds(job.finished) if job.finished else None)
        else:
            client.update_run(run, status=status)  # it may have ended before it was extended
        self._ledger.projections.set(job.id, job.id, run, 0, job.state)


def _params(values: Mapping[str, Any], there: Mapping[str, str]) -> list[Any]:
    """Return the parameters that a run does not have yet; MLflow refuses to change one.

    A run that an earlier version wrote keeps its parameters as they are.
    """
    from mlflow.entities import Param

    names = accepted(values)
    return [Param(names[key], str(value)) for key, value in values.items() if names[key] not in there]


def _metrics(points: Iterable[Point], trial: Trial | None = None) -> list[Any]:
    """Return MLflow's metrics; names that it refuses are replaced, in the same way for all reports of a trial."""
    from mlflow.entities import Metric

    points = list(points)
    reported: dict[str, None] = {}
    for report in () if trial is None else trial.reports:
        reported |= dict.fromkeys(report.metrics)
    names = accepted([*map(readable, reported), *(point.name for point in points)])
    return [Metric(names[name], value, time, step) for name, value, time, step in points]
