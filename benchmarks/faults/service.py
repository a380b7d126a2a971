"""A service in a separate home: daemons on a ledger, whose processes can be found, killed and watched."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil
import psycopg
import sqlalchemy as sa

from anon_tune.ledger import Ledger, open_database
from anon_tune.ledger.tables import ATTEMPTS, JOBS, REPORTS, TRIALS
from anon_tune.records import JobRecord, JobState
from benchmarks.faults import failpoints, history
from benchmarks.faults.checker import Violation, check
from benchmarks.faults.postgres import Postgres
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.recorder import HISTORY
from benchmarks.jobs import users_environment

__all__ = ["Service", "alive", "until"]

SPEC = """
name: faults
task: image_classification
data: digits
model: {{name: cnn, width: 16}}
space: default
budget: {{trials: 8, epochs: 10}}
search: {{sampler: random, pruner: none, seed: {seed}}}
confirm: {{finalists: 2, seeds: 2, verdict_seeds: 3, race: false}}
training: {{checkpoint_seconds: 0}}
"""

_RECORDED = {history.Acquired, history.Renewed, history.Started, history.Reported, history.Ended}
_PATIENCE = 240.0
_POLL_SECONDS = 0.05


def until(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    """Wait for something; SystemExit after minutes, which says what was waited for."""
    limit = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise SystemExit(
                f"waited {_PATIENCE:.0f} s in vain for {what if isinstance(what, str) else what()}"
            )
        time.sleep(_POLL_SECONDS)


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


class Service:
    """Daemons in a home of their own. Leaving it stops them, and deletes the home unless something went wrong.

    Args:
        seed: Seed of its jobs.
        postgres: Whether its ledger is in a PostgreSQL server of its own, which each daemon reaches by a proxy.
    """

    def __init__(self, seed: int, *, postgres: bool = False) -> None:
        self._seed = seed
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._proxies: dict[int, Proxy] = {}
        self._stack = contextlib.ExitStack()
        self.database = Postgres() if postgres else None
        self.killed_at = 0.0

    def __enter__(self) -> Self:
        # Short: Ray keeps sockets below it, whose paths are limited.
        self.home = Path(tempfile.mkdtemp(prefix="at"))
        self._points = self.home / "failpoints"
        self._points.mkdir()
        hook = self.home / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(
            "from benchmarks.faults import failpoints, recorder\nfailpoints.install()\nrecorder.install()\n"
        )
        self._history = self.home / "history.jsonl"
        (self.home / "job.yaml").write_text(SPEC.format(seed=self._seed))
        path = os.pathsep.join(filter(None, [str(hook), str(Path.cwd()), os.environ.get("PYTHONPATH")]))
        self._environment = {
            **users_environment(),
            "ANON_TUNE_HOME": str(self.home),
            "PYTHONPATH": path,
            failpoints.FOLDER: str(self._points),
            HISTORY: str(self._history),
        }
        url = f"sqlite:///{self.home / 'ledger.db'}"
        if self.database is not None:
            url = self._stack.enter_context(self.database).url
            self._environment["ANON_TUNE_DATABASE_URL"] = url
        self._engine = open_database(url)
        self._ledger = Ledger(self._engine)
        self._stack.callback(self._ledger.close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies.values():
            proxy.heal()
        for daemon in self._daemons:
            if daemon.poll() is None:
                daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(60)
        self._stack.close()
        if kind is None:
            shutil.rmtree(self.home, ignore_errors=True)

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anon_tune", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"anon-tune {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start `anon-tune worker`."""
        environment, proxy = dict(self._environment), None
        if self.database is not None:
            proxy = self._stack.enter_context(Proxy(self.database.socket))
            environment["ANON_TUNE_DATABASE_URL"] = (
                f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/postgres"
            )
        with (self.home / "worker.log").open("ab") as log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "anon_tune", "worker"], env=environment, stdout=log, stderr=log
            )
        self._daemons.append(daemon)
        if proxy is not None:
            self._proxies[daemon.pid] = proxy
        return daemon

    def proxy(self, daemon: int) -> Proxy:
        """Return the proxy by which a daemon, given by its process id, and its drivers reach the database."""
        return self._proxies[daemon]

    def submit(self, *settings: str) -> str:
        """Submit the job, with keys set to other values, and return its id once it trains."""
        overrides = [word for setting in settings for word in ("--set", setting)]
        job = self._call("submit", str(self.home / "job.yaml"), *overrides).strip()
        spec = self._ledger.jobs.get(job).spec
        self._note(history.Submitted(job, tuple(spec["arms"]), history.trials_of(spec)))
        until(lambda: self.got_on(job, 0.0), "the first report")
        return job

    def extend(self, job: str) -> None:
        """Give each arm of a job one more search trial."""
        trials = self._ledger.jobs.get(job).spec["budget"]["trials"] + 1
        self._ledger.jobs.extend(job, trials)
        self._note(history.Extended(job, trials))

    def ask(self, job: str, request: Literal["resume", "cancel"]) -> None:
        """Resume or cancel a job."""
        getattr(self._ledger.jobs, request)(job)
        self._note(history.Requested(job, request, datetime.datetime.now(datetime.UTC)))

    def _note(self, event: history.Event) -> None:
        history.append(self._history, event)

    def violations(self) -> list[Violation]:
        """Compare what all processes were told with the ledger."""
        events = history.read_history(self._history)
        missing = _RECORDED - {type(event) for event in events}
        if missing:  # a check of nothing finds nothing
            raise SystemExit(f"the history has no {', '.join(sorted(kind.__name__ for kind in missing))}")
        return check(events, history.read_rows(self._engine))

    def takes_writes(self, job: str) -> bool:
        """Whether nobody holds a lock for long that a write about a job needs."""
        if self.database is None:
            with contextlib.closing(sqlite3.connect(self.home / "ledger.db", timeout=2.0)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    return False
            return True
        with psycopg.connect(host=str(self.database.folder), user="postgres") as session:
            try:
                session.execute("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE NOWAIT", [job])
            except psycopg.errors.LockNotAvailable:
                return False
        return True

    def job(self, job: str) -> JobRecord:
        """Return the job with its trials."""
        return self._ledger.jobs.get(job, trials=True)

    def has_ended(self, job: str) -> bool:
        """Whether nothing more will happen to the job."""
        return self._ledger.jobs.get(job).state not in {JobState.RUNNING, JobState.QUEUED}

    def wait_for_end(self, job: str) -> JobRecord:
        """Wait for the job's end and for MLflow to have it."""
        until(lambda: self.has_ended(job), "the job's end")
        self._call("mlflow", "sync", job)
        return self.job(job)

    def token(self, job: str) -> int:
        """Return the token of the job's lease."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(JOBS.c.lease_token).where(JOBS.c.id == job)).scalar_one())

    def lease_expires(self, job: str) -> datetime.datetime | None:
        """Return when the job's lease expires; None without a holder."""
        lease = self._ledger.jobs.get(job).lease
        return None if lease is None else lease.expires

    def got_on(self, job: str, since: float) -> bool:
        """Whether there was a report after `since`."""
        last = self._ledger.projections.last_report(job)
        return last is not None and last.timestamp() > since

    def ray_start(self, job: str, since: float) -> float | None:
        """Return the seconds of Ray's last start after `since`, from the job's log; None without one."""
        found = None
        for line in (self.home / "jobs" / job / "job.log").read_text().splitlines():
            started = re.match(r"(\S+ \S+),\d+ INFO .* Ray started in ([\d.]+) s", line)
            if started and datetime.datetime.fromisoformat(started[1]).timestamp() >= since:
                found = float(started[2])
        return found

    def back_at(self, job: str, since: float, *, lost: bool = False) -> float | None:
        """When the first report of an attempt that began after `since` was stored.

        With `lost`, only trials count that lost an attempt since: others go on beside the one that was killed.
        """
        with self._engine.connect() as connection:
            attempts = connection.execute(
                sa.select(
                    ATTEMPTS.c.trial_id,
                    ATTEMPTS.c.number,
                    ATTEMPTS.c.started,
                    ATTEMPTS.c.finished,
                    ATTEMPTS.c.outcome,
                )
                .join(TRIALS)
                .where(TRIALS.c.job_id == job)
            ).all()
            reports = connection.execute(
                sa.select(REPORTS.c.trial_id, REPORTS.c.attempt, REPORTS.c.time)
                .join(TRIALS)
                .where(TRIALS.c.job_id == job)
            ).all()
        counts = {
            each.trial_id
            for each in attempts
            if not lost or (each.outcome == "LOST" and each.finished.timestamp() > since)
        }
        new = {
            (each.trial_id, each.number)
            for each in attempts
            if each.trial_id in counts and each.started.timestamp() > since
        }
        return min(
            (each.time.timestamp() for each in reports if (each.trial_id, each.attempt) in new), default=None
        )

    # Processes

    def die_at(self, point: str, job: str) -> bool:
        """Make a process die at a point; return False if the job was over first."""
        failpoints.arm(self._points, point)
        until(lambda: failpoints.fired(self._points) is not None or self.has_ended(job), point)
        when = failpoints.fired(self._points)
        if when is None:
            (self._points / point).unlink(missing_ok=True)
            return False
        self.killed_at = when
        return True

    def tree(self, job: str) -> list[psutil.Process]:
        """Return the process that holds the job's lease, and what it has started; nothing while nobody holds it.

        It is the one that has started a projector of this job.
        """
        projector = re.compile(rf" sync {job}\b")
        for daemon in self._daemons:
            if daemon.poll() is None:
                for child in psutil.Process(daemon.pid).children():
                    started = _children(child)
                    if any(projector.search(_command(each)) for each in started):
                        return [child, *started]
        return []

    def workers(self, job: str) -> list[psutil.Process]:
        """Return the processes that train, each with a trial."""
        return [child for child in self.tree(job)[1:] if "TrialTrainable" in _command(child)]

    def raylets(self, job: str) -> list[psutil.Process]:
        """Return the job's raylet."""
        return [child for child in self.tree(job)[1:] if "raylet/raylet" in _command(child)]

    def mlflow_runs(self) -> list[tuple[str, str, int]]:
        """Return the trial id, state and number of reported steps of every trial's run in MLflow."""
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}")
        (experiment,) = client.search_experiments(filter_string="name = 'anon_tune'")
        runs = client.search_runs(
            [experiment.experiment_id], "tags.`anon_tune.trial_id` LIKE '%'", max_results=5000
        )
        return [
            (
                run.data.tags["anon_tune.trial_id"],
                run.data.tags["anon_tune.state"],
                len(client.get_metric_history(run.info.run_id, "val_loss")),
            )
            for run in runs
        ]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
