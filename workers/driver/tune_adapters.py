"""Adapters between Ray Tune and the ledger: they start trials and store their results.

Tune gets trials from `JobSearcher`, its searcher, and passes every result to `JobScheduler`, its scheduler. Both only
translate: `JobRun` holds the state, and the ledger is the source of truth. Tune pickles both into files that nothing
reads (a Tuner is never restored), so they leave the run out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from anon_tune.records import WORKER_DIED, Trial
from anon_tune.search.policy import Decision
from anon_tune.workers.driver.job_run import JobRun
from anon_tune.workers.trial.messages import (
    ProbeAssignment,
    Result,
    StepResult,
    TrialAssignment,
    from_config,
    from_tune,
    to_config,
    trial_of,
)
from anon_tune.workers.trial.output import newest, tail

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

__all__ = ["Drained", "JobScheduler", "JobSearcher"]

_LOOK_SECONDS = 1.0
_LONGEST_TURN = (
    10.0  # of Tune's loop: a driver that was suspended for longer does not know its trials' states
)
_START_SECONDS = 60.0  # a trial that has waited for longer gets no process of its own
_GRACE_SECONDS = 120.0  # on a network file system a file may appear a minute late


class Drained(BaseException):
    """Raised when a stopping run has no more running trials; leaves Tune as an interrupt does.

    Trials that Tune has started since then wait for another attempt.
    """


class _WithoutRun:
    """Pickles all attributes but the run, which holds a database connection."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_run"}


class JobSearcher(_WithoutRun, Searcher):
    """Gives Tune the next trial of the ledger, up to `ahead` trials that have not ended.

    One more than can run at once keeps all workers busy. `folder` is the job's folder of checkpoints. The output of a
    trial's process goes to a file in the folder `output`.
    """

    def __init__(self, run: JobRun, ahead: int, folder: Path, output: Path) -> None:
        super().__init__(metric="value", mode="min")
        self._run = run
        self._ahead = ahead
        self._folder = folder
        self._output = output
        self.is_finished = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return a trial's config, None to be asked again, or FINISHED."""
        if self._run.running >= self._ahead:
            return None
        found = self._run.guard(self._run.next, Decision.DONE)
        if isinstance(found, ProbeAssignment):
            return to_config(found)
        if isinstance(found, Trial):
            output = self._output / f"{found.id}.{found.attempts}.log"
            return to_config(TrialAssignment(found, self._folder, output))
        self.is_finished = found is Decision.DONE
        return Searcher.FINISHED if self.is_finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the scheduler handles it."""

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger stores everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: it is never called, since a Tuner is never restored."""


class JobScheduler(_WithoutRun, FIFOScheduler):
    """Stores every result, and reuses the process of a trial that has ended for the next one.

    Tune ends the process of an ended trial unless another one waits, and starting one takes seconds. So an ended
    trial stays RUNNING for Tune, idle, until another trial needs its process or no more trials come.

    Args:
        run: Stores the results.
        searcher: Gives Tune the trials.
        slots: Number of trials that can run at once.
        clock: Returns seconds since an arbitrary moment.
    """

    def __init__(
        self, run: JobRun, searcher: JobSearcher, slots: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._clock = clock
        self._looked = clock()
        self._ran: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._run = run
        self._searcher = searcher
        self._slots = slots
        self._unfinished: list[TuneTrial] = []
        self._added: dict[str, float] = {}
        self._idle: list[TuneTrial] = []
        self._given: list[TuneTrial] = []
        self._draining: list[TuneTrial] | None = None

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Note a new trial from the searcher."""
        self._unfinished.append(trial)
        self._added[trial.trial_id] = self._clock()

    def choose_trial_to_run(self, tune_controller: TuneController) -> TuneTrial | None:
        """Return the next waiting trial, and free the process of an idle one for it.

        Tune calls this in each turn of its loop, and gives the trial a free process at once. FIFOScheduler would scan
        all trials of the job twice per turn, which takes longer with each trial. No trial is ever PAUSED.

        Raises:
            Drained: The run is stopping, and all running trials have ended.
            KeyboardInterrupt: As `JobRun.check`.
        """
        self._run.check()
        self._unfinished = [trial for trial in self._unfinished if not trial.is_finished()]
        self._idle = [trial for trial in self._idle if trial.status == TuneTrial.RUNNING]
        alive = {trial.trial_id for trial in self._unfinished}
        self._added = {number: since for number, since in self._added.items() if number in alive}
        self._end_overdue()
        if self._run.stopping:
            self._drain(tune_controller)
            return None
        waiting = [trial for trial in self._unfinished if trial.status == TuneTrial.PENDING]
        self._given = [trial for trial in self._given if trial.status == TuneTrial.PENDING]
        chosen = self._first_without_process([trial for trial in waiting if trial not in self._given])
        if chosen is not None and self._idle:
            self._given.append(chosen)
            tune_controller.stop_trial(self._idle.pop(0))
        elif not waiting and self._searcher.is_finished:
            while self._idle:
                tune_controller.stop_trial(self._idle.pop())
        return chosen

    def _first_without_process(self, waiting: list[TuneTrial]) -> TuneTrial | None:
        """Return the first trial for which no process is being started; if there is none, the first.

        Tune starts processes for the trials that have waited longest, while there are free slots. If such a trial got
        another's process, Tune would drop its own. With trials shorter than the start of a process, no new process
        would ever come up. On a shared cluster others may hold the slots: a trial that has waited for longer than a
        process takes to start is first.
        """
        running = sum(trial.status == TuneTrial.RUNNING for trial in self._unfinished)
        starting = max(0, self._slots - running - len(self._given))
        late = [t for t in waiting[:starting] if self._clock() - self._added[t.trial_id] > _START_SECONDS]
        return next(iter([*late, *waiting[starting:], *waiting]), None)

    def _drain(self, tune_controller: TuneController) -> None:
        """End idle processes, and raise Drained once all trials have ended that ran when the run began to stop."""
        if self._draining is None:
            self._draining = [trial for trial in self._unfinished if trial.status == TuneTrial.RUNNING]
        if all(trial.is_finished() or trial in self._idle for trial in self._draining):
            raise Drained
        while self._idle:
            tune_controller.stop_trial(self._idle.pop())

    def _end_overdue(self) -> None:
        """Ask the processes of trials that run for too long to end; see `JobRun.end_if_overdue`.

        A process cannot end itself while C code holds Python's lock, or if it does not share the folder of
        checkpoints. Ray kills it after a while.
        """
        passed = self._clock() - self._looked
        if passed < _LOOK_SECONDS:
            return
        self._looked += passed
        before, self._ran = self._ran, {}
        trials = (t for t in self._unfinished if isinstance(from_config(t.config), TrialAssignment))
        for trial in filter(_has_begun, trials):
            ran = before[trial.trial_id] + min(passed, _LONGEST_TURN) if trial.trial_id in before else 0.0
            self._ran[trial.trial_id] = ran
            ask = partial(self._run.end_if_overdue, trial_of(trial.config).id, ran)
            if self._run.guard(ask, otherwise=False):
                asked = self._asked.setdefault(trial.trial_id, ran)
                actor = trial.temporary_state.ray_actor
                if ran - asked > _GRACE_SECONDS and actor is not None:
                    ray.kill(actor)

    def on_trial_result(
        self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Store a result; the trial continues unless it has ended or must stop."""
        # After an error the run stores nothing more, and every trial stops.
        if self._run.guard(lambda: self._store(trial, from_tune(result)), otherwise=True):
            self._idle.append(trial)
        decision: str = TrialScheduler.NOOP if trial in self._idle else TrialScheduler.CONTINUE
        return decision

    def _store(self, trial: TuneTrial, result: Result) -> bool:
        """Store a result; return whether its process has no more to do."""
        if not isinstance(result, StepResult):
            self._run.store_probe(result)
            return True
        stops = self._run.report(trial_of(trial.config).id, result)
        return stops or result.outcome is not None

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Handle a worker that died or could not begin."""
        assignment = from_config(trial.config)
        written = newest(assignment.output)
        log = None if written is None else tail(written)
        if isinstance(assignment, ProbeAssignment):
            self._run.guard(partial(self._run.lose_probe, log), otherwise=None)
            return
        # The process that it was given may have died before, while it was idle.
        begun = written is not None or trial not in self._given
        lose = partial(self._run.lose, assignment.trial.id, WORKER_DIED, log, begun=begun)
        self._run.guard(lose, otherwise=None)


def _has_begun(trial: TuneTrial) -> bool:
    """Return whether a process works on a trial; for Tune it is not RUNNING before its model and data are loaded."""
    return trial.status == TuneTrial.RUNNING or (
        trial.status == TuneTrial.PENDING and newest(from_config(trial.config).output) is not None
    )
