"""One process's work on one job, between the search policy and the ledger."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Self, TypeVar

from threadpoolctl import threadpool_limits

from anon_tune.ledger import Lease, Ledger
from anon_tune.records import NewTrial, Phase, Trial, TrialState
from anon_tune.search.history import History
from anon_tune.search.policy import FAILURES_IN_A_ROW, Plan, Signal, next_trial, repeated_failure
from anon_tune.search.pruning import should_prune

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
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        plan: Plan,
        patience: float | None = None,
        interrupted: threading.Event | None = None,
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._plan = plan
        self._patience = patience
        self._interrupted = interrupted or threading.Event()
        self._thread = ThreadPoolExecutor(1, "suggestion", _use_one_core)
        self._asked: Future[NewTrial | Signal] | None = None
        self._trials = History(ledger.job(lease.job, trials=True).trials)
        # The last ones that ended in this process. Failures that paused the job before do not pause it again:
        # whoever resumes it has mended their cause.
        self._ended: deque[Trial] = deque(maxlen=FAILURES_IN_A_ROW)
        # In this process alone: an attempt that ended with its driver says nothing of the trial.
        self._deaths: Counter[str] = Counter()
        self._phase: Phase | None = None
        self.error: Exception | None = None
        self.paused: str | None = None

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
        return sum(trial.state is TrialState.RUNNING for trial in self._trials.unfinished)

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
        waiting = [trial for trial in self._trials.unfinished if trial.state is TrialState.WAITING]
        found: Trial | NewTrial | Signal = min(
            waiting, key=lambda t: (list(Phase).index(t.phase), t.number), default=None
        ) or self._suggested()  # fmt: skip
        if isinstance(found, Signal):
            return found
        # With a start that a power cut takes back nothing is lost: what comes next is found anew, and is the same.
        with self._ledger.transaction(durable=False):
            trial = self._ledger.add_trial(self._lease, found) if isinstance(found, NewTrial) else found
            if trial.phase is not self._phase:
                self._ledger.update_job(self._lease, phase=trial.phase)
            attempt = self._ledger.start_attempt(self._lease, trial.id)
        if trial.phase is not self._phase:
            self._phase = trial.phase
            _log.info("job %s: %s", self._lease.job, trial.phase)
        return self._keep(dataclasses.replace(trial, state=TrialState.RUNNING, attempts=attempt))

    def report(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Store a result; return whether the trial shall stop now because it is pruned."""
        trial = self._trials[trial_id]
        if trial.is_finished:
            return False  # Tune repeats the last result of a trial that it was told to stop
        outcome = TrialState(result["outcome"]) if "outcome" in result else None
        # It was given out before the job was paused for this reason: no budget is spent on it any more.
        spared = outcome is TrialState.FAILED and result["reason"] == self.paused
        report = finished = None
        with self._ledger.transaction():  # a last report and the end of its trial are stored together
            if "step" in result:
                # Tune flattens nested results.
                metrics = {
                    key.removeprefix("metrics/"): v for key, v in result.items() if key.startswith("metrics/")
                }
                report = self._ledger.report(
                    self._lease, trial.id, trial.attempts, result["step"], result["value"], metrics
                )
            if outcome is not None and not spared:
                finished = self._ledger.finish_trial(
                    self._lease, trial.id, outcome, result.get("final"), result.get("reason")
                )
        if report is not None and all(known.step != report.step for known in trial.reports):
            trial = self._keep(dataclasses.replace(trial, reports=(*trial.reports, report)))
        if "traceback" in result:
            _log.error("trial %s failed\n%s", trial.id, result["traceback"])
        if spared:
            self._lose(trial, result["reason"])
        if outcome is not None and finished is not None:
            self._end(trial, outcome, result.get("final"), result.get("reason"), finished)
        if outcome is not None:
            return False
        if trial.phase is not Phase.SEARCH:
            return False
        others = [t for t in self._trials.select(Phase.SEARCH, trial.arm) if t.id != trial.id]
        # An attempt that began again is at an earlier step than the reports of the one before.
        so_far = tuple(report for report in trial.reports if report.step <= result["step"])
        now = dataclasses.replace(trial, reports=so_far)
        if not should_prune(
            self._plan.spaces[trial.arm], now, others, self._plan.spec.search, self._plan.spec.objective.mode
        ):
            return False
        self._finish(trial, TrialState.PRUNED, f"pruned after epoch {result['step']}")
        return True

    def lose(self, trial_id: str, reason: str) -> None:
        """A worker died: the trial gets another attempt, or is FAILED at the third death in this process."""
        trial = self._trials[trial_id]
        if trial.is_finished:
            return
        self._deaths[trial.id] += 1
        if self._deaths[trial.id] < _MOST_DEATHS:
            self._lose(trial, reason)
        else:
            self._finish(trial, TrialState.FAILED, f"{reason} ({_MOST_DEATHS} times)")

    def _suggested(self) -> NewTrial | Signal:
        """What comes next, by the trials as they were when it was asked for.

        What has happened since changes nothing that matters: no trial is added in between, so a new one is new still,
        and DONE is said only when nothing runs. A WAIT may be out of date, and is asked for anew.
        """
        earlier = self._asked is not None
        if self._asked is None:
            self._asked = self._thread.submit(next_trial, self._plan, self._trials.copy())
        # While nothing runs there is nothing else to do, and Tune sleeps for a second where it is told to wait.
        wait([self._asked], (0.0 if earlier else self._patience) if self.running else None)
        if not self._asked.done():
            return Signal.WAIT
        new, self._asked = self._asked.result(), None
        return self._suggested() if earlier and new is Signal.WAIT else new

    def _lose(self, trial: Trial, reason: str) -> None:
        self._ledger.lose_attempt(self._lease, trial.id, reason)
        self._keep(dataclasses.replace(trial, state=TrialState.WAITING))

    def _finish(self, trial: Trial, state: TrialState, reason: str) -> None:
        finished = self._ledger.finish_trial(self._lease, trial.id, state, None, reason)
        self._end(trial, state, None, reason, finished)

    def _end(
        self,
        trial: Trial,
        state: TrialState,
        value: float | None,
        reason: str | None,
        finished: datetime.datetime,
    ) -> None:
        """Keep what the ledger has stored of a trial's end."""
        ended = dataclasses.replace(trial, state=state, value=value, reason=reason, finished=finished)
        self._ended.append(self._keep(ended))
        _log.info("trial %s: %s %s", trial.id, state, reason or value)
        if self.paused is None:
            self.paused = repeated_failure(self._ended)

    def _keep(self, trial: Trial) -> Trial:
        self._trials.keep(trial)
        return trial


def _use_one_core() -> None:
    """Keep a GP's small matrices on one core: the others train, and waiting for them made it four times slower.

    Holds for torch in this thread, and for numpy and scipy in the whole process.
    """
    threadpool_limits(1)
