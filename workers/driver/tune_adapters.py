"""Between Ray Tune and the ledger: where trials come from, and where their results go.

Tune's searcher asks `JobSearcher` for trials; its scheduler hands every result to `JobScheduler`. Both only
translate: `JobRun` holds the state, and the ledger the truth. Tune pickles both into files of its own, which nothing
reads (a Tuner is never restored), so they leave the run behind.
"""

from __future__ import annotations

import contextlib
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
from anon_tune.workers.trial.messages import StepResult, TrialAssignment
from anon_tune.workers.trial.output import newest, tail
from anon_tune.workers.trial.trainable import HELD

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController

__all__ = ["Drained", "JobScheduler", "JobSearcher"]

_LOOK_SECONDS = 1.0
_LONGEST_TURN = 10.0  # of Tune's loop: a driver that was stopped for longer knows nothing of its trials
_START_SECONDS = 60.0  # a trial that has waited for longer has no process coming
_GRACE_SECONDS = 120.0  # a file may be seen a minute late where nodes share a folder by a network


class Drained(BaseException):
    """A run that gives out no more trials has none left that ran when it stopped; leaves Tune as an interrupt does.

    What Tune has started since, which was given out ahead, waits for another attempt.
    """


class _WithoutRun:
    """Pickles everything but the run, which holds a database connection."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_run"}


class JobSearcher(_WithoutRun, Searcher):
    """Gives Tune the next trial of the ledger, up to `ahead` that have not ended.

    One more than can run is enough for no worker to wait.
    `folder` is the job's, of checkpoints. What a trial's process writes goes to a file in the folder `output`.
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
        if isinstance(found, Trial):
            output = self._output / f"{found.id}.{found.attempts}.log"
            return TrialAssignment(found, self._folder, output).to_config()
        self.is_finished = found is Decision.DONE
        return Searcher.FINISHED if self.is_finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The scheduler sees the same."""

    def save(self, checkpoint_path: str) -> None:
        """The ledger holds it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a fresh Tuner is made instead."""


class JobScheduler(_WithoutRun, FIFOScheduler):
    """Stores every result, and gives the process of a trial that has ended to the next one.

    Tune ends the processes of trials that have ended unless others wait, and starting one takes seconds. So an ended
    trial stays RUNNING for Tune, idle, until another trial needs its process or no more trials come.

    Args:
        run: Where results go.
        searcher: Gives out the trials.
        slots: How many trials can run at once.
        clock: Seconds from any moment on.
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
        """Note a trial that the searcher has given out."""
        self._unfinished.append(trial)
        self._added[trial.trial_id] = self._clock()

    def choose_trial_to_run(self, tune_controller: TuneController) -> TuneTrial | None:
        """Return the next trial that waits, and free the process of an idle one for it.

        Tune asks in each turn of its loop, and gives the trial a process that is free at once. FIFOScheduler would
        look at all trials that ever were, twice a turn, and take longer with each of them. None is ever PAUSED.

        Raises:
            Drained: The run is stopping, and all that ran then has ended.
            KeyboardInterrupt: As `JobRun.check`.
        """
        self._run.check()
        self._unfinished = [trial for trial in self._unfinished if not trial.is_finished()]
        self._idle = [trial for trial in self._idle if trial.status == TuneTrial.RUNNING]
        alive = {trial.trial_id for trial in self._unfinished}
        self._added = {number: since for number, since in self._added.items() if number in alive}
        self._end_overdue()
        if self._run.stopping:
            self._drain()
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

        Tune starts processes for the trials that have waited longest, as long as there are free slots. If such a
        trial were given another's process, Tune would drop its own: where trials are shorter than a process takes to
        start, it would never come up. Others may hold the slots of a shared cluster: a trial that has waited for
        longer than a process takes to start is first.
        """
        running = sum(trial.status == TuneTrial.RUNNING for trial in self._unfinished)
        starting = max(0, self._slots - running - len(self._given))
        late = [t for t in waiting[:starting] if self._clock() - self._added[t.trial_id] > _START_SECONDS]
        return next(iter([*late, *waiting[starting:], *waiting]), None)

    def _drain(self) -> None:
        """Raise Drained once the trials that ran when the run began to stop have ended."""
        if self._draining is None:
            self._draining = [trial for trial in self._unfinished if trial.status == TuneTrial.RUNNING]
        if all(trial.is_finished() or trial in self._idle for trial in self._draining):
            raise Drained

    def _end_overdue(self) -> None:
        """Ask the processes of trials that run for too long to end; see `JobRun.end_if_overdue`.

        A process cannot end itself while C code in it keeps Python's lock, or where it does not share the folder of
        checkpoints: after a while Ray kills it.
        """
        passed = self._clock() - self._looked
        if passed < _LOOK_SECONDS:
            return
        self._looked += passed
        before, self._ran = self._ran, {}
        for trial in filter(_has_begun, self._unfinished):
            ran = before[trial.trial_id] + min(passed, _LONGEST_TURN) if trial.trial_id in before else 0.0
            self._ran[trial.trial_id] = ran
            ask = partial(self._run.end_if_overdue, _assignment(trial).trial.id, ran)
            if self._run.guard(ask, otherwise=False):
                asked = self._asked.setdefault(trial.trial_id, ran)
                actor = trial.temporary_state.ray_actor
                if ran - asked > _GRACE_SECONDS and actor is not None:
                    ray.kill(actor)

    def on_trial_result(
        self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Store a result; the trial goes on unless it has ended or shall stop."""
        # After an error the run stores nothing more, and every trial stops.
        message = StepResult.from_tune(result)
        trial_id = _assignment(trial).trial.id
        stop = self._run.guard(lambda: self._run.report(trial_id, message), otherwise=True)
        if stop or message.outcome is not None:
            self._idle.append(trial)
        decision: str = TrialScheduler.NOOP if trial in self._idle else TrialScheduler.CONTINUE
        return decision

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """The worker died, or could not begin."""
        assignment = _assignment(trial)
        written = newest(assignment.output)
        log = None if written is None else tail(written)
        held = _is_held(trial)
        # The process that it was given may have died before, while it was idle.
        begun = not held and (written is not None or trial not in self._given)
        reason = HELD if held else WORKER_DIED
        lose = partial(self._run.lose, assignment.trial.id, reason, log, begun=begun)
        self._run.guard(lose, otherwise=None)


def _assignment(trial: TuneTrial) -> TrialAssignment:
    return TrialAssignment.from_config(trial.config)


def _has_begun(trial: TuneTrial) -> bool:
    """Whether a process is at work on a trial; for Tune it is not RUNNING before its model and data are there."""
    return trial.status == TuneTrial.RUNNING or (
        trial.status == TuneTrial.PENDING and newest(_assignment(trial).output) is not None
    )


def _is_held(trial: TuneTrial) -> bool:
    """Whether a trial failed since the one before did not leave its process; Tune has the error in a file."""
    with contextlib.suppress(OSError):
        return trial.error_file is not None and HELD in Path(trial.error_file).read_text()
    return False
