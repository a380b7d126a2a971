"""One process's work on one job, between the search policy and the ledger."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from threadpoolctl import threadpool_limits

from anon_tune.ledger import Lease, Ledger
from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.policy import Plan, Signal, next_trial, repeated_failure
from anon_tune.search.pruning import should_prune
from anon_tune.workers.checkpoints import remove, step_of
from anon_tune.workers.kept import kept_trial

__all__ = ["Run"]

_MOST_DEATHS = 3

_log = logging.getLogger(__name__)

T = TypeVar("T")
D = TypeVar("D")


class Run:
    """One process's work on one job: the ledger's trials, mirrored in memory, and the writes to them.

    An exception in here must not be swallowed by Tune: it is kept in `error`, no further trial is given out,
    and the driver raises it.

    What comes next is computed in a thread of its own, since a suggestion can take a second. All else, the ledger
    included, stays in the thread that calls.

    Args:
        ledger: Where the job is.
        lease: The right to write about it.
        plan: What the job's decisions depend on besides its trials.
        patience: Seconds for which `next` waits for a suggestion that it has asked for; None: until it is there.
        interrupted: Set once the process was told to stop.
        folder: The job's, of checkpoints; those of trials that have ended are deleted. None: there are none.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        plan: Plan,
        patience: float | None = None,
        interrupted: threading.Event | None = None,
        folder: Path | None = None,
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._plan = plan
        self._patience = patience
        self._interrupted = interrupted or threading.Event()
        self._thread = ThreadPoolExecutor(1, "suggestion", _use_one_core)
        self._asked: Future[NewTrial | Signal] | None = None
        self._trials = {trial.id: trial for trial in ledger.job(lease.job, trials=True).trials}
        # Failures that paused the job before do not pause it again: whoever resumes it has mended their cause.
        self._ended_before = {trial.id for trial in self._trials.values() if trial.is_finished}
        # In this process alone: an attempt that ended with its driver says nothing of the trial.
        self._deaths: Counter[str] = Counter()
        self._phase: Phase | None = None
        self._folder = folder
        self.error: Exception | None = None
        self.paused: str | None = None
        self._clear(*(trial for trial in self._trials.values() if trial.is_finished))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ask for nothing more. What is being computed is not waited for, and nothing becomes of it."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def trials(self) -> list[Trial]:
        """All trials of the job, as of the last write."""
        return list(self._trials.values())

    @property
    def running(self) -> int:
        """How many trials have been given out and have not ended."""
        return sum(trial.state is TrialState.RUNNING for trial in self._trials.values())

    def guard(self, call: Callable[[], T], otherwise: D) -> T | D:
        """Return `call()`, or `otherwise` if it or an earlier call failed. Raises as check_interrupt."""
        self.check_interrupt()
        if self.error is not None:
            return otherwise
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - raised again by the driver
            self.error = error
            return otherwise

    def check_interrupt(self) -> None:
        """Raise KeyboardInterrupt if the process was told to stop: the first may have been raised unheard."""
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def next(self) -> Trial | Signal:
        """Return a trial that has been started, WAIT (also while a suggestion is being computed), or DONE."""
        if self.paused is not None:
            return Signal.DONE
        waiting = [trial for trial in self._trials.values() if trial.state is TrialState.WAITING]
        trial: Trial | None = min(waiting, key=lambda t: (list(Phase).index(t.phase), t.number), default=None)
        if trial is None:
            new = self._suggested()
            if isinstance(new, Signal):
                return new
            trial = self._ledger.add_trial(self._lease, new)
        if trial.phase is not self._phase:
            self._phase = trial.phase
            self._ledger.update_job(self._lease, phase=trial.phase)
            _log.info("job %s: %s", self._lease.job, trial.phase)
        attempt = self._ledger.start_attempt(self._lease, trial.id)
        trial = self._keep(dataclasses.replace(trial, state=TrialState.RUNNING, attempts=attempt))
        # One that goes on after its last report does not report that step again, after which it may have been killed
        # before it heard that it is pruned.
        last = trial.reports[-1].step if trial.reports else 0
        if last in map(step_of, trial.checkpoints) and self._prune(trial, last):
            return self.next()
        return trial

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Store a result; return whether the trial shall stop now because it is pruned."""
        trial = self._trials[trial_id]
        if trial.is_finished:
            return False  # Tune repeats the last result of a trial that it was told to stop
        if "resumed" in result:
            _log.info(
                "trial %s: attempt %d goes on after epoch %d", trial.id, trial.attempts, result["resumed"]
            )
        for warning in result.get("warnings", ()):
            _log.warning("trial %s: %s", trial.id, warning)
        if "step" in result:
            # Tune flattens nested results.
            metrics = {
                key.removeprefix("metrics/"): v for key, v in result.items() if key.startswith("metrics/")
            }
            checkpoint = result.get("checkpoint")
            report = self._ledger.report(
                self._lease, trial.id, trial.attempts, result["step"], result["value"], metrics, checkpoint
            )
            if checkpoint is not None:
                # As the ledger has it: one of each attempt.
                others = (c for c in trial.checkpoints if Path(c).parent != Path(checkpoint).parent)
                trial = self._keep(dataclasses.replace(trial, checkpoints=(checkpoint, *others)))
            if all(known.step != report.step for known in trial.reports):
                trial = self._keep(dataclasses.replace(trial, reports=(*trial.reports, report)))
        if "traceback" in result:
            _log.error("trial %s failed\n%s", trial.id, result["traceback"])
        if "outcome" in result:
            if result["outcome"] == TrialState.FAILED and result["reason"] == self.paused:
                # It was given out before the job was paused for this reason: no budget is spent on it any more.
                self._lose(trial, result["reason"])
                return False
            self._finish(trial, TrialState(result["outcome"]), result.get("final"), result.get("reason"))
            return False
        return self._prune(trial, result["step"])

    def lose(self, trial_id: str, reason: str) -> None:
        """A worker died: the trial gets another attempt, or is FAILED at the third death in this process."""
        trial = self._trials[trial_id]
        if trial.is_finished:
            return
        self._deaths[trial.id] += 1
        if self._deaths[trial.id] < _MOST_DEATHS:
            self._lose(trial, reason)
        else:
            self._finish(trial, TrialState.FAILED, None, f"{reason} ({_MOST_DEATHS} times)")

    def _prune(self, trial: Trial, step: int) -> bool:
        """End a trial if its reports up to `step` are behind the others'; return whether it was."""
        if trial.phase is not Phase.SEARCH:
            return False
        others = [
            t for t in self.trials if t.phase is Phase.SEARCH and t.arm == trial.arm and t.id != trial.id
        ]
        # An attempt that began again is at an earlier step than the reports of the one before.
        so_far = tuple(report for report in trial.reports if report.step <= step)
        now = dataclasses.replace(trial, reports=so_far)
        if not should_prune(
            self._plan.spaces[trial.arm], now, others, self._plan.spec.search, self._plan.spec.objective.mode
        ):
            return False
        self._finish(trial, TrialState.PRUNED, None, f"pruned after epoch {step}")
        return True

    def _suggested(self) -> NewTrial | Signal:
        """What comes next, by the trials as they were when it was asked for.

        What has happened since changes nothing that matters: no trial is added in between, so a new one is new still,
        and DONE is said only when nothing runs. A WAIT may be out of date, and is asked for anew.
        """
        earlier = self._asked is not None
        if self._asked is None:
            self._asked = self._thread.submit(next_trial, self._plan, self.trials)
        # While nothing runs there is nothing else to do, and Tune sleeps for a second where it is told to wait.
        wait([self._asked], (0.0 if earlier else self._patience) if self.running else None)
        if not self._asked.done():
            return Signal.WAIT
        new, self._asked = self._asked.result(), None
        return self._suggested() if earlier and new is Signal.WAIT else new

    def _lose(self, trial: Trial, reason: str) -> None:
        self._ledger.lose_attempt(self._lease, trial.id, reason)
        self._keep(dataclasses.replace(trial, state=TrialState.WAITING))

    def _finish(self, trial: Trial, state: TrialState, value: float | None, reason: str | None) -> None:
        finished = self._ledger.finish_trial(self._lease, trial.id, state, value, reason)
        self._keep(dataclasses.replace(trial, state=state, value=value, reason=reason, finished=finished))
        _log.info("trial %s: %s %s", trial.id, state, reason or value)
        self._clear(self._trials[trial.id])
        if self.paused is None:
            self.paused = repeated_failure([t for t in self.trials if t.id not in self._ended_before])

    def _clear(self, *ended: Trial) -> None:
        """Delete the checkpoints of trials that have ended, but for the weights that the job keeps."""
        if self._folder is None:
            return
        spec = self._plan.spec
        for trial in ended:
            if not spec.may_keep(trial.arm, trial.phase):
                remove(self._folder, trial.id)
        if any(spec.may_keep(trial.arm, trial.phase) for trial in ended):
            best = kept_trial(self.trials, spec)
            for trial in self.trials:
                if trial.is_finished and spec.may_keep(trial.arm, trial.phase) and trial != best:
                    remove(self._folder, trial.id)

    def _keep(self, trial: Trial) -> Trial:
        self._trials[trial.id] = trial
        return trial


def _use_one_core() -> None:
    """Keep a GP's small matrices on one core: the others train, and waiting for them made it four times slower.

    Holds for torch in this thread, and for numpy and scipy in the whole process.
    """
    threadpool_limits(1)
