"""The driver: one job, from probe to verdict, on Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.exc import DBAPIError

from anon_tune.advice.summary import summarize
from anon_tune.code_archive import unpack
from anon_tune.errors import AnonTuneError, DependencyError, LeaseLostError
from anon_tune.ledger import Lease, Ledger
from anon_tune.records import ENDED, JobState, Phase, TrialState
from anon_tune.scratch import remove_abandoned
from anon_tune.search.coordinates import optimizer_arguments
from anon_tune.search.policy import Plan
from anon_tune.search.seeds import trial_seed
from anon_tune.search_spaces import Space
from anon_tune.settings import Settings
from anon_tune.spec import JobSpec, stored_spec
from anon_tune.user_code import ENTERED
from anon_tune.workers.driver import cluster
from anon_tune.workers.driver.watch import Watch

if TYPE_CHECKING:
    from anon_tune.workers.driver.run import Run

__all__ = ["drive"]

# Enough for random and TPE, which then answer at once; while a GP computes, Tune's loop goes on.
_PATIENCE_SECONDS = 0.02

_log = logging.getLogger(__name__)


class _Ending(NamedTuple):
    """Where a job is left; `budget` is the one by which there was nothing left to do."""

    state: JobState
    reason: str | None = None
    budget: Mapping[str, Any] | None = None


def drive(
    ledger: Ledger,
    lease: Lease,
    settings: Settings,
    watch: Watch | None = None,
    interrupted: JobState = JobState.PAUSED,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    on_hang: Callable[[], None] = lambda: None,
) -> JobState:
    """Work on a job until it ends or is asked to stop, and return the state it was left in.

    On an error the job is PAUSED with the reason; its running trials wait for another attempt. So it is where Ray
    ends, and where this thread hangs, in Ray or in a system call; but not a job that an interrupt would leave QUEUED:
    whoever queues it sees the process end, after the error or in `on_hang`, and counts.

    Args:
        ledger: Where the job is.
        lease: The right to work on it.
        settings: Where its files are.
        watch: What is heard meanwhile.
        interrupted: What an interrupt (SIGINT, SIGTERM) leaves the job in; its running trials wait.
        functions: The user's functions that are in no module, by the names that the job gives them.
        on_hang: Called by another thread where this one hangs.

    Raises:
        LeaseLostError: Another process took the job over.
        DependencyError: The ledger can no longer be written, or Ray has ended under a job that whoever started this
            queues again: the job is left as it was, to be resumed.
        KeyboardInterrupt: After an interrupt, once the job is left.
    """
    watch = watch or Watch()

    def leave() -> None:
        if interrupted is not JobState.QUEUED:
            with contextlib.suppress(LeaseLostError, DependencyError):
                _release(ledger, lease, settings, _Ending(interrupted, "its process hung; see its job.log"))
        on_hang()

    watch.on_hang = leave
    _log.info("job %s: taken by %s, token %d", lease.job, lease.holder, lease.token)
    try:
        with watch.heartbeats(ledger, lease), watch.signals():
            ending = _work(ledger, lease, settings, watch, functions or {})
    except BaseException as error:
        if watch.lost or isinstance(error, LeaseLostError):
            raise LeaseLostError(
                f"Job {lease.job} was taken over by another process; this one has stopped."
            ) from error
        if watch.failure is not None and interrupted is JobState.QUEUED:
            _log.error("job %s stopped: %s", lease.job, watch.failure)
            raise watch.failure from error
        cause = watch.unwritable or watch.failure or error
        if not isinstance(cause, Exception):
            state = _release(ledger, lease, settings, _Ending(interrupted, "interrupted"))
            _log.error("job %s stopped by %s: %s", lease.job, type(error).__name__, state)
            if state is JobState.CANCELLED:
                return state
            if isinstance(error, SystemExit):  # Ray's answer to SIGTERM while it starts
                raise KeyboardInterrupt from error
            raise
        _log.error("job %s stopped", lease.job, exc_info=True)
        ending = _Ending(JobState.PAUSED, _in_a_line(cause))
    state = _release(ledger, lease, settings, ending)
    _log.info("job %s: %s %s", lease.job, state, ending.reason or "")
    return state


def _release(ledger: Ledger, lease: Lease, settings: Settings, ending: _Ending) -> JobState:
    """End the lease, and delete the checkpoints of a job that has ended, and what killed drivers have left of Ray's.

    Returns the state that the job is in.

    Raises:
        DependencyError: The ledger cannot be told.
    """
    try:
        state = ledger.release(lease, *ending)
    except (DependencyError, DBAPIError) as error:
        raise _left(lease, error) from error
    if state in ENDED:
        shutil.rmtree(settings.checkpoints(lease.job), ignore_errors=True)
        remove_abandoned(settings)
    return state


def _left(lease: Lease, error: Exception) -> DependencyError:
    """What is said of a job that is left as it was, since the ledger cannot be written."""
    why = _in_a_line(error).rstrip(".")
    return DependencyError(
        f"Job {lease.job} stopped: {why}. Then go on with: anon-tune run --resume {lease.job}"
    )


def _ended() -> DependencyError:
    """What is said where Ray's own processes are gone."""
    return DependencyError(
        "Ray has ended: its raylet or its server was killed, by the system where memory ran out (dmesg says so)"
    )


def _in_a_line(error: Exception) -> str:
    """An error for people; the log has the rest. Tune's holds a whole traceback, whose last line is the error."""
    if isinstance(error, AnonTuneError):
        return str(error)
    lines = str(error).strip().splitlines()
    if not lines:
        return f"{type(error).__name__}: see job.log"
    return f"{type(error).__name__}: {lines[-1] if lines[0].startswith('Traceback') else lines[0]}"


def _work(
    ledger: Ledger,
    lease: Lease,
    settings: Settings,
    watch: Watch,
    functions: Mapping[str, Callable[..., Any]],
) -> _Ending:
    cluster.prepare_environment(settings)
    # Imported here: Ray reads its environment when it is imported, and a refused lease need not wait for it.
    import ray

    job = ledger.job(lease.job)
    plain_spec = dict(job.spec)
    if job.code is not None:
        code = unpack(ledger.code(job.code), settings.job_folder(job.id) / "code")
        plain_spec["folder"] = str(code)
    spec = stored_spec(plain_spec)
    if spec.task.startswith(f"{ENTERED}:") and spec.task not in functions:
        name = spec.task.partition(":")[2]
        return _Ending(
            JobState.PAUSED,
            f"its function {name} was entered in a notebook or script; go on there: anon_tune.tune({name}, "
            f"resume={job.id!r})",
        )
    spaces = {arm: Space.model_validate(space) for arm, space in ledger.spaces(job.id).items()}
    # Once more: Ray, when it starts, puts a handler of its own in place of ours.
    with cluster.connected(settings) as runs, watch.depending_on(runs, _ended()), watch.signals():
        lacking = _lacking(spec, settings)
        if lacking is not None:
            return _Ending(JobState.PAUSED, lacking)
        measured = job.probe
        # The probe's process loads what it needs while this one does.
        asked = _start_probe(spec, plain_spec, spaces, functions) if measured is None else None
        cluster.load()
        from anon_tune.workers.driver.best_weights import write_best
        from anon_tune.workers.driver.run import Run
        from anon_tune.workers.trial.checkpoints import ask

        if measured is None:
            cluster.load_statistics()
            measured = dict(ray.get(asked))
            if "reason" in measured:
                _log.error("the probe failed\n%s", measured["traceback"])
                what = "the model" if spec.model is not None else spec.task
                return _Ending(JobState.FAILED, f"{what} cannot be trained: {measured['reason']}")
            architecture = measured.pop("architecture")
            ledger.update_job(lease, probe=measured, architecture=architecture)
        _log.info("probe: %s", measured)
        if spec.resources.gpu and measured.get("device") == "cpu":
            _log.warning("resources.gpu is %g, and torch finds no CUDA device there", spec.resources.gpu)
        plan = Plan(spec, spaces, float(measured["log_mean_sigma"]))
        checkpoints = settings.checkpoints(job.id)
        checkpoints.mkdir(parents=True, exist_ok=True)
        ask(checkpoints, wanted=False)
        with Run(ledger, lease, plan, _PATIENCE_SECONDS, watch, checkpoints) as run:
            # Once more where the budget was raised after Tune had been told that there is nothing left.
            while not run.stopping:
                with watch.notice(lambda: ask(checkpoints)):
                    _tune(run, spec, plain_spec, functions, settings.job_folder(job.id), checkpoints)
                watch.check()
                watch.orders = ledger.heartbeat(lease)
                if not run.stopping and run.is_done():
                    break
    cut_off = _cut_off(run, watch)
    if cut_off is not None:
        return cut_off
    ledger.update_job(lease, result=summarize(run.plan, run.trials, measured).model_dump(mode="json"))
    if not any(trial.state is TrialState.COMPLETE for trial in run.trials):
        reasons = ("no arm has a COMPLETE trial", run.cut_short)
        return _Ending(JobState.FAILED, "; ".join(filter(None, reasons)), run.budget)
    if spec.keep == "best":
        write_best(run.trials, spec, checkpoints, settings.job_folder(job.id) / "best.pt")
    return _Ending(JobState.SUCCEEDED, run.cut_short, run.budget)


def _start_probe(
    spec: JobSpec,
    plain_spec: dict[str, Any],
    spaces: Mapping[str, Space],
    functions: Mapping[str, Callable[..., Any]],
) -> Any:
    """Have Ray run the probe, and return its future.

    Its process ends with it: Ray gives no trial one that has run something, and it would keep its memory.
    """
    import ray

    from anon_tune.workers.trial.probe_task import run_probe

    resources = spec.resources
    task = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_calls=1)(run_probe)
    seed = trial_seed(spec.search.seed, Phase.PROBE, 0)
    floor = spaces["anon"].constant("floor")
    return task.remote(functions, plain_spec, seed, floor, _points_to_try(spaces))


def _points_to_try(spaces: Mapping[str, Space]) -> dict[str, list[dict[str, Any]]]:
    """Hyperparameters for the dry run of the arms that the user's factories make."""
    return {
        arm: [optimizer_arguments(space, point, 0.0) for point in space.middles()]
        for arm, space in spaces.items()
        if space.of_factory
    }


def _cut_off(run: Run, watch: Watch) -> _Ending | None:
    """Where a run leaves its job that has not come to its end; None if it has. Raises the error that stopped it."""
    if run.error is not None:
        raise run.error
    if run.paused is not None:
        return _Ending(JobState.PAUSED, f"three trials in a row failed: {run.paused}")
    if watch.orders.request is not None:  # a cancel may be heard before its interrupt; `release` answers it
        return _Ending(JobState.PAUSED, f"{watch.orders.request} requested")
    return None


def _slots(spec: JobSpec) -> int:
    """How many trials Ray can run at once now."""
    import ray

    has = ray.cluster_resources()
    fits = [has.get("CPU", 0) / spec.resources.cpu]
    if spec.resources.gpu:
        fits.append(has.get("GPU", 0) / spec.resources.gpu)
    return max(1, int(min(fits)))


def _lacking(spec: JobSpec, settings: Settings) -> str | None:
    """What one trial takes and this machine has not: Ray would wait for it for ever. A cluster may grow."""
    import ray

    if settings.ray_address:
        return None
    has = ray.cluster_resources()
    for name, wanted in (("cpu", spec.resources.cpu), ("gpu", spec.resources.gpu)):
        there = has.get(name.upper(), 0)
        if wanted > there:
            return (
                f"resources.{name}: a trial takes {wanted:g}, and this machine has {there:g}. "
                "Resume the job where there is more, or run it anew with less."
            )
    return None


def _tune(
    run: Any,
    spec: JobSpec,
    plain_spec: dict[str, Any],
    functions: Mapping[str, Callable[..., Any]],
    folder: Path,
    checkpoints: Path,
) -> None:
    from ray import tune

    from anon_tune.workers.driver.tune_adapters import Drained, JobScheduler, JobSearcher
    from anon_tune.workers.trial.trainable import TrialTrainable

    # Tune's own record of the run, which nobody reads: that it cannot be written is no news.
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    slots = _slots(spec)
    # So many may wait: one for each process that is being started, and one for the first that is free (see
    # `JobScheduler.choose_trial_to_run`).
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
    resources = {"cpu": spec.resources.cpu, "gpu": spec.resources.gpu}
    # Not in each trial's config, of which Tune makes several copies and keeps them for as long as the job runs.
    trainable = tune.with_parameters(TrialTrainable, spec=plain_spec, functions=functions)
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
            # In a notebook Tune's own would clear what is drawn of the job.
            progress_reporter=tune.CLIReporter(),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        with contextlib.suppress(Drained):
            tuner.fit()
    finally:
        # Tune's own record of the run, and what trials wrote; the ledger is the one that counts.
        shutil.rmtree(folder / "tune", ignore_errors=True)
        shutil.rmtree(folder / "output", ignore_errors=True)
