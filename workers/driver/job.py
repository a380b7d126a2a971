"""The driver: one job, from probe to verdict, on Ray."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from anon_tune.advice.summary import summarize
from anon_tune.code_archive import unpack
from anon_tune.errors import AnonTuneError, DatabaseUnavailableError, DependencyError, LeaseLostError
from anon_tune.estimate import about_estimate, seconds_per_unit
from anon_tune.ledger import Lease, Ledger, after, retried
from anon_tune.ray_temp import remove_abandoned
from anon_tune.records import ENDED, ControlSignal, JobRecord, JobState, TrialState
from anon_tune.search.policy import Plan
from anon_tune.search_spaces import Space
from anon_tune.settings import Settings
from anon_tune.spec import JobSpec, stored_spec
from anon_tune.spec.sections import Resources
from anon_tune.user_code import ENTERED
from anon_tune.workers.driver import cluster, nodes
from anon_tune.workers.driver.hang_watchdog import HangWatchdog
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from anon_tune.workers.driver.packing import packed
from anon_tune.workers.driver.probe import probe_of
from anon_tune.workers.driver.shipping import Shipment, shipment
from anon_tune.workers.driver.shutdown_request import ShutdownRequest
from anon_tune.workers.trial.messages import ProbeAssignment

if TYPE_CHECKING:
    from anon_tune.workers.driver.job_run import JobRun

__all__ = ["JobDriver", "drive"]

# Enough for random and TPE; while a GP computes, Tune's loop continues.
_PATIENCE_SECONDS = 0.02
_ROUNDING = 1e-9

_LOOKS_PER_LEASE = 30  # checks that need no database
_NODES_SECONDS = 60.0  # nodes of a cluster that has just started come one after another
_POLL_SECONDS = 1.0

_log = logging.getLogger(__name__)

T = TypeVar("T")


class _Ending(NamedTuple):
    """State in which to leave a job; `budget` is the one under which nothing was left to do."""

    state: JobState
    reason: str | None = None
    budget: Mapping[str, Any] | None = None


def drive(
    ledger: Ledger,
    lease: Lease,
    settings: Settings,
    is_wanted: Callable[[], bool] = lambda: True,
    interrupted: JobState = JobState.PAUSED,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    on_hang: Callable[[], None] = lambda: None,
    estimate: bool = False,
) -> JobState:
    """Work on a job until it ends or is asked to stop, and return the state it was left in.

    On an error the job is PAUSED with the reason, and its running trials wait for another attempt. The same happens
    if Ray stops, or if this thread hangs in Ray or in a system call. A job that an interrupt leaves QUEUED is not
    PAUSED then: its daemon sees this process end, after the error or in `on_hang`, and counts the deaths.

    While the database is unavailable, transactions are repeated as long as the lease lasts. Then the job is left as
    after an interrupt.

    Args:
        ledger: Ledger that stores the job.
        lease: Lease on the job.
        settings: Settings, which name its folders.
        is_wanted: Returns whether the process that started this one is alive; its end is an interrupt.
        interrupted: State of the job after an interrupt (SIGINT, SIGTERM); its running trials wait.
        functions: User functions that no module defines, by the names that the job gives them.
        on_hang: Called by another thread if this one hangs.
        estimate: Leave the job PAUSED after the probe, with the trials and the expected time as the reason.

    Raises:
        LeaseLostError: Another process took the job over.
        DatabaseUnavailableError: The database is still unavailable. The job is left as it was, to be resumed.
        DependencyError: The ledger can no longer be written, or Ray has stopped under a job that an interrupt leaves
            QUEUED. The job is left as it was, to be resumed.
        KeyboardInterrupt: After an interrupt, once the lease is released.
    """
    renewal = LeaseRenewal(ledger, lease)
    shutdown = _shutdown_request(renewal, is_wanted)

    def release(ending: _Ending) -> JobState:
        is_late = after(lease.seconds)
        return _release(ledger, lease, settings, ending, lambda: renewal.is_over or is_late())

    def leave() -> None:
        renewal.stop()
        if interrupted is not JobState.QUEUED:
            with contextlib.suppress(LeaseLostError, DependencyError):
                release(_Ending(interrupted, "its process hung; see job.log"))
        on_hang()

    look = lease.seconds / _LOOKS_PER_LEASE
    watchdog = HangWatchdog(lease.job, shutdown, leave)
    driver = JobDriver(ledger, lease, settings, renewal, shutdown, functions or {}, estimate)
    _log.info("job %s: taken by %s, token %d", lease.job, lease.holder, lease.token)
    try:
        with renewal.running(), shutdown.watching(look), watchdog.watching(look), shutdown.signals():
            ending = driver.work()
    except BaseException as error:
        if renewal.lost or isinstance(error, LeaseLostError):
            raise LeaseLostError(
                f"Job {lease.job} was taken over by another process; this one has stopped."
            ) from error
        if shutdown.failure is not None and interrupted is JobState.QUEUED:
            _log.error("job %s stopped: %s", lease.job, shutdown.failure)
            raise shutdown.failure from error
        cause = renewal.expired or shutdown.failure or error
        if not isinstance(cause, Exception):
            state = release(_Ending(interrupted, "interrupted"))
            _log.error("job %s stopped by %s: %s", lease.job, type(error).__name__, state)
            if state is JobState.CANCELLED:
                return state
            if isinstance(error, SystemExit):  # Ray raises it at SIGTERM while it starts
                raise KeyboardInterrupt from error
            raise
        _log.error("job %s stopped: %s", lease.job, _in_a_line(cause), exc_info=error)
        is_away = isinstance(cause, DatabaseUnavailableError)
        ending = _Ending(interrupted if is_away else JobState.PAUSED, _in_a_line(cause))
    state = release(ending)
    _log.info("job %s: %s %s", lease.job, state, ending.reason or "")
    return state


def _shutdown_request(renewal: LeaseRenewal, is_wanted: Callable[[], bool]) -> ShutdownRequest:
    """Return a request that stops the process at once if the lease is lost, the job cancelled or the parent gone."""
    return ShutdownRequest(
        lambda: renewal.is_over or renewal.response.request is ControlSignal.CANCEL or not is_wanted()
    )


def _release(
    ledger: Ledger, lease: Lease, settings: Settings, ending: _Ending, is_over: Callable[[], bool]
) -> JobState:
    """End the lease and return the job's state.

    If the job has ended, delete its checkpoints and the Ray temp directories of killed drivers.

    Raises:
        DependencyError: The ledger cannot be written. DatabaseUnavailableError only once `is_over()` is true.
    """
    try:
        state = ledger.persist(lambda operations: operations.leases.release(lease, *ending), is_over)
    except DependencyError as error:
        raise _left(lease, error) from error
    if state in ENDED:
        shutil.rmtree(settings.checkpoints(lease.job), ignore_errors=True)
        remove_abandoned(settings)
    return state


def _left(lease: Lease, error: Exception) -> DependencyError:
    """Return the error for a job that is left as it was, since the ledger cannot be written."""
    why = _in_a_line(error).rstrip(".")
    kind = DatabaseUnavailableError if isinstance(error, DatabaseUnavailableError) else DependencyError
    return kind(f"Job {lease.job} stopped: {why}. Then continue with: anon-tune run --resume {lease.job}")


def _ended() -> DependencyError:
    """Return the error for the end of Ray's processes."""
    return DependencyError(
        "Ray has ended: its raylet or its server was killed. If memory ran out, the system did so (see dmesg)"
    )


def _in_a_line(error: Exception) -> str:
    """Return an error in one line; the log has the rest. The last line of a traceback is the error."""
    if isinstance(error, AnonTuneError):
        return str(error)
    lines = str(error).strip().splitlines()
    if not lines:
        return f"{type(error).__name__}: see job.log"
    return f"{type(error).__name__}: {lines[-1] if lines[0].startswith('Traceback') else lines[0]}"


@dataclass(frozen=True)
class JobDriver:
    """Runs one job from the probe to the verdict.

    Attributes:
        ledger: Ledger that stores the job.
        lease: Lease on the job.
        settings: Settings, which name its folders.
        renewal: Renews the lease.
        shutdown: Interrupts the work.
        functions: User functions that no module defines, by the names that the job gives them.
        estimate: Whether to stop after the probe.
    """

    ledger: Ledger
    lease: Lease
    settings: Settings
    renewal: LeaseRenewal
    shutdown: ShutdownRequest
    functions: Mapping[str, Callable[..., Any]]
    estimate: bool = False

    def work(self) -> _Ending:
        """Work until the job ends or must stop, and return how to leave it."""
        cluster.prepare_environment(self.settings)
        job = self._read(lambda: self.ledger.jobs.get(self.lease.job))
        spec = self._spec(job)
        lacking = self._lacking_function(spec)
        if lacking is not None:
            return _Ending(JobState.PAUSED, lacking)
        stored = self._read(lambda: self.ledger.jobs.spaces(job.id))
        spaces = {arm: Space.model_validate(space) for arm, space in stored.items()}
        shipped = shipment(spec, self._folders[0], job.id) if self.settings.ray_address else None
        # Set our signal handlers again: Ray replaces them when it starts.
        with (
            cluster.connected(self.settings, shipped.root if shipped is not None else None) as runs,
            self.shutdown.depending_on(runs, _ended()),
            self.shutdown.signals(),
        ):
            self._note_largest_node()
            if shipped is not None:
                shipped.clear()
            lacking = (
                self._lacking_on_cluster(spec, shipped) if self.settings.ray_address else _lacking_here(spec)
            )
            if lacking is not None:
                return _Ending(JobState.PAUSED, lacking)
            cluster.load()
            at_once = _slots(spec)
            if job.probe is not None and self.estimate:
                return _estimated(spec, job.probe, at_once)
            if job.probe is not None:
                _log.info("probe: %s", job.probe)
                run = self._run_trials(Plan(spec, spaces, float(job.probe["log_mean_sigma"])), shipped)
            else:
                probe = probe_of(spec, spaces, self._folders[0] / "output" / "probe.log")
                run = self._run_trials(Plan(spec, spaces, math.nan), shipped, probe)
        if run.unfit is not None:
            what = "the model" if spec.model is not None else spec.command or spec.task
            return _Ending(JobState.FAILED, f"{what} cannot be trained: {run.unfit.reason}")
        cut_off = _cut_off(run, self.renewal)
        if cut_off is not None:
            return cut_off
        if self.estimate:
            return _estimated(spec, run.measured, at_once)
        return self._conclude(run, job.probe or run.measured)

    def _spec(self, job: JobRecord) -> JobSpec:
        """Validate the job, once in this process, and unpack its code if it has any."""
        digest = job.code
        if digest is None:
            return stored_spec(job.spec)
        archive = self._read(lambda: self.ledger.archives.get(digest))
        code = unpack(archive, self.settings.job_folder(job.id) / "code")
        return stored_spec({**job.spec, "folder": str(code)})

    def _lacking_function(self, spec: JobSpec) -> str | None:
        """Return a reason if the training function was defined in another process; None if it is available."""
        if not spec.task.startswith(f"{ENTERED}:") or spec.task in self.functions:
            return None
        name = spec.task.partition(":")[2]
        return (
            f"its function {name} was defined in a notebook or script; resume it there: anon_tune.tune({name}, "
            f"resume={self.lease.job!r})"
        )

    def _lacking_on_cluster(self, spec: JobSpec, shipped: Shipment | None) -> str | None:
        """Return a reason if the nodes of the cluster cannot run the job; None if they can."""
        limit = time.monotonic() + _NODES_SECONDS
        while not (found := [node for node in nodes.nodes() if node.trains]) and time.monotonic() < limit:
            self.shutdown.check()
            time.sleep(_POLL_SECONDS)
        fitting = [node for node in found if _fits(spec.resources, node.resources)]
        if not fitting:
            return _too_small(spec.resources, found)
        storage = self._folders[1]
        code = (
            Path(spec.folder) if shipped is None and spec.folder is not None and spec.has_own_code else None
        )
        seen = nodes.look_at(fitting, storage, code)
        for each in seen:
            if each.error is not None:
                _log.warning("node %s: %s", each.node.address, each.error)
        if all(each.error is not None for each in seen):
            return f"no node of the cluster can run a task: {seen[0].node.address}: {seen[0].error}"
        return (
            nodes.version_problem(seen, nodes.versions_here())
            or nodes.storage_problem(seen, storage)
            or nodes.code_problem(seen, code)
        )

    def _run_trials(
        self, plan: Plan, shipped: Shipment | None = None, probe: ProbeAssignment | None = None
    ) -> JobRun:
        """Run trials until none are left or the job must stop."""
        from anon_tune.workers.driver.job_run import JobRun
        from anon_tune.workers.trial.checkpoints import ask

        folder, checkpoints = self._folders
        functions = packed(self.functions)
        code = shipped.name if shipped is not None else None
        checkpoints.mkdir(parents=True, exist_ok=True)
        ask(checkpoints, wanted=False)
        with JobRun(
            self.ledger,
            self.lease,
            plan,
            _PATIENCE_SECONDS,
            self.renewal,
            self.shutdown,
            checkpoints,
            probe,
            only_probe=self.estimate,
        ) as run:
            # Repeat if the budget was raised after the last trial that Tune got.
            while not run.stopping:
                with self.shutdown.notice(lambda: ask(checkpoints)):
                    _tune(run, plan.spec, functions, folder, checkpoints, code)
                self.shutdown.check()
                self._read(self.renewal.renew)
                if not run.stopping and run.is_done():
                    break
        return run

    def _conclude(self, run: JobRun, measured: Mapping[str, Any]) -> _Ending:
        """Store the answer of a job that is done, and its best weights if it keeps them."""
        from anon_tune.workers.driver.best_weights import write_best

        answer = summarize(run.plan, run.trials, measured)
        result = answer.model_dump(mode="json")
        self.ledger.persist(
            lambda operations: operations.jobs.update(self.lease, result=result), self._gives_up
        )
        if not any(trial.state is TrialState.COMPLETE for trial in run.trials):
            reasons = ("no arm has a COMPLETE trial", run.cut_short)
            return _Ending(JobState.FAILED, "; ".join(filter(None, reasons)), run.budget)
        if run.plan.spec.keep == "best":
            folder, checkpoints = self._folders
            write_best(run.trials, run.plan.spec, checkpoints, folder / "best.pt")
        return _Ending(JobState.SUCCEEDED, run.cut_short, run.budget)

    def _note_largest_node(self) -> None:
        """Store how large the nodes are that trials can run on, for people who wonder why a job waits."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = (max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU"))
        with contextlib.suppress(DependencyError):
            self.ledger.workers.set_largest_node(self.lease.holder, cpus, gpus)

    def _read(self, call: Callable[[], T]) -> T:
        """Return `call()`, which changes nothing when it is repeated, once the database is available."""
        return retried(lambda _: call(), self._gives_up)

    def _gives_up(self) -> bool:
        return self.renewal.is_over or self.shutdown.stopping

    @property
    def _folders(self) -> tuple[Path, Path]:
        """The job's folder, and its folder of checkpoints."""
        return self.settings.job_folder(self.lease.job), self.settings.checkpoints(self.lease.job)


def _estimated(spec: JobSpec, measured: Mapping[str, Any], at_once: int) -> _Ending:
    """Return how to leave a job that was only to be measured."""
    return _Ending(JobState.PAUSED, about_estimate(spec, seconds_per_unit(spec, measured), at_once))


def _cut_off(run: JobRun, renewal: LeaseRenewal) -> _Ending | None:
    """Return how to leave a job that was stopped; None if it is done. Raises the error that stopped it."""
    if run.error is not None:
        raise run.error
    if run.paused is not None:
        return _Ending(JobState.PAUSED, f"three trials in a row failed: {run.paused}")
    if renewal.response.request is not None:  # a cancel may arrive before its interrupt; `release` handles it
        return _Ending(JobState.PAUSED, f"{renewal.response.request} requested")
    return None


def _slots(spec: JobSpec) -> int:
    """Return the number of trials that Ray can run at once now; a trial needs all its resources on one node."""
    import ray

    return max(1, sum(_fits(spec.resources, node["Resources"]) for node in ray.nodes() if node["Alive"]))


def _fits(needs: Resources, has: Mapping[str, float]) -> int:
    """Return how many trials fit on a node; a fraction of a GPU lies on one GPU."""
    by_cpu = int(has.get("CPU", 0) / needs.cpu)
    if not needs.gpu:
        return by_cpu
    gpus = has.get("GPU", 0)
    by_gpu = int(gpus) * int(1 / needs.gpu + _ROUNDING) if needs.gpu < 1 else int(gpus / needs.gpu)
    return min(by_cpu, by_gpu)


def _lacking_here(spec: JobSpec) -> str | None:
    """Return a reason if this machine cannot run a trial, since Ray would wait for ever; None if it can."""
    import ray

    has = ray.cluster_resources()
    for name, wanted in (("cpu", spec.resources.cpu), ("gpu", spec.resources.gpu)):
        there = has.get(name.upper(), 0)
        if wanted > there:
            return (
                f"resources.{name}: a trial needs {wanted:g}, and this machine has {there:g}. "
                "Resume the job on a larger machine, or run it again with less."
            )
    return None


def _too_small(needs: Resources, found: Sequence[nodes.Node]) -> str:
    """Return the reason for which no node of a cluster can run a trial, since Ray would wait for ever."""
    if not found:
        return (
            "the cluster has no node with CPUs. Start one (ray start --address=HOST:PORT on another machine), then "
            "resume the job."
        )
    has = max((node.resources for node in found), key=lambda each: (each.get("GPU", 0), each.get("CPU", 0)))
    return (
        f"resources: a trial needs {needs.cpu} CPUs and {needs.gpu:g} GPUs on one node, and the largest of "
        f"{len(found)} nodes has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs. Add a larger node and "
        "resume the job, or run it again with less."
    )


def _tune(
    run: JobRun,
    spec: JobSpec,
    functions: bytes,
    folder: Path,
    checkpoints: Path,
    code: str | None = None,
) -> None:
    """Run trials with Tune until `run` starts no more and the running ones have ended.

    Args:
        run: Starts trials and stores their results.
        spec: The job.
        functions: User functions that no module defines, as `packing.packed` returns them: the actors of user code
            must not load it.
        folder: The job's folder, for Tune's files and the trials' output; both are deleted at the end.
        checkpoints: The job's folder of checkpoints.
        code: Name of the folder of the user's code that Ray takes to the nodes; None if they use the job's.
    """
    from ray import tune

    from anon_tune.workers.driver.tune_adapters import Drained, JobScheduler, JobSearcher
    from anon_tune.workers.trial.trainable import TrialTrainable

    # Tune's own record of the run is not used, so errors about it do not matter.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    slots = _slots(spec)
    # Number of trials that may wait: see `JobScheduler.choose_trial_to_run`.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    resources = {"cpu": spec.resources.cpu, "gpu": spec.resources.gpu}
    # Not in each trial's config: Tune keeps several copies of that while the job runs.
    trainable = tune.with_parameters(TrialTrainable, spec=spec, functions=functions, code=code)
    searcher = JobSearcher(run, slots + 1, checkpoints, folder / "output")
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=JobScheduler(run, searcher, slots),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            # Tune's default would clear our live table in a notebook.
            progress_reporter=tune.CLIReporter(),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        with contextlib.suppress(Drained):
            tuner.fit()
    finally:
        # Tune's own record of the run, and the trials' output; the ledger has the results.
        shutil.rmtree(folder / "tune", ignore_errors=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
