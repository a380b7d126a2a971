"""One process's work on one job, between the search policy and the ledger."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from threadpoolctl import threadpool_limits

from anon_tune.ledger import Lease, Ledger
from anon_tune.records import HeartbeatResponse, NewTrial, Phase, Report, Trial, TrialState
from anon_tune.search.final import final_value
from anon_tune.search.history import History
from anon_tune.search.policy import (
    FAILURES_IN_A_ROW,
    Decision,
    Plan,
    draws,
    next_trial,
    repeated_failure,
    stopped,
)
from anon_tune.search.pruning import should_prune
from anon_tune.spec import Budget
from anon_tune.workers.driver.best_weights import best_weights_trial
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from anon_tune.workers.driver.shutdown_request import ShutdownRequest
from anon_tune.workers.trial.checkpoints import remove, step_of
from anon_tune.workers.trial.messages import Completed, Failed, Measurement, Outcome, StepResult
from anon_tune.workers.trial.watchdog import ask_to_end, overdue, withdraw

__all__ = ["JobRun"]

_MOST_DEATHS = 3

_log = logging.getLogger(__name__)

T = TypeVar("T")
D = TypeVar("D")


class _End(NamedTuple):
    """The end of a trial as the ledger has stored it."""

    value: float | None
    finished: datetime.datetime


class JobRun:
    """One process's work on one job: the ledger's trials, mirrored in memory, and the writes to them.

    An exception in here must not be swallowed by Tune: it is kept in `error`, no further trial is given out,
    and the driver raises it.

    What comes next is computed in a thread of its own, since a suggestion can take a second; but not one that is
    drawn at random. All else, the ledger included, stays in the thread that calls.

    Args:
        ledger: Where the job is.
        lease: The right to write about it.
        plan: What the job's decisions depend on besides its trials.
        patience: Seconds for which `next` waits for a suggestion that it has asked for; None: until it is there.
        renewal: Keeps the ledger's last response: what is asked of the job, and its budget.
        shutdown: Interrupts this process; a write to the ledger is finished first.
        folder: The job's, of checkpoints; those of trials that have ended are deleted. None: there are none.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        plan: Plan,
        patience: float | None = None,
        renewal: LeaseRenewal | None = None,
        shutdown: ShutdownRequest | None = None,
        folder: Path | None = None,
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._plan = plan
        self._patience = patience
        self._renewal = renewal or LeaseRenewal(ledger, lease)
        self._shutdown = shutdown or ShutdownRequest()
        self._applied: HeartbeatResponse | None = None
        self._thread = ThreadPoolExecutor(1, "suggestion", _use_one_core)
        self._asked: Future[NewTrial | Decision] | None = None
        self._trials = History(ledger.jobs.get(lease.job, trials=True).trials)
        # The last ones that ended in this process. Failures that paused the job before do not pause it again:
        # whoever resumes it has mended their cause.
        self._ended: deque[Trial] = deque(maxlen=FAILURES_IN_A_ROW)
        # In this process alone: an attempt that ended with its driver says nothing of the trial.
        self._deaths: Counter[str] = Counter()
        self._left: set[str] = set()
        self._overdue: dict[str, str] = {}  # why the process of a trial was asked to end
        self._phase: Phase | None = None
        self._folder = folder
        self.error: Exception | None = None
        self.paused: str | None = None
        if folder is not None:
            withdraw(folder)  # what a killed driver had asked
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
    def plan(self) -> Plan:
        """What the job's decisions depend on, with the budget that was heard last."""
        return self._plan

    @property
    def running(self) -> int:
        """How many trials have been given out and have not ended."""
        return sum(trial.state is TrialState.RUNNING for trial in self._trials.unfinished)

    @property
    def stopping(self) -> bool:
        """Whether no further trial is given out, though there may be more to do."""
        asked = self._shutdown.leaving or self._renewal.response.request is not None
        return asked or self.error is not None or self.paused is not None

    @property
    def budget(self) -> Mapping[str, Any]:
        """The budget that is worked under, as the ledger holds it."""
        return self._applied.budget if self._applied is not None else {}

    @property
    def cut_short(self) -> str | None:
        """Why the search has fewer trials than the budget, if time is why."""
        spec = self._plan.spec
        made = sum(
            t.phase is Phase.SEARCH and t.state is not TrialState.CANCELLED for t in self._trials.values()
        )
        if not self._plan.search_over:
            return None
        early = stopped(self._plan, self._trials)
        whole = len(spec.arms) * spec.search.repeats - len(early)
        planned = sum(early.values()) + whole * spec.budget.trials
        if made >= planned:
            return None
        return f"budget.time ({spec.budget.time:g} s) was spent after {made} of {planned} search trials"

    def check(self) -> None:
        """Raises as ShutdownRequest.check."""
        self._shutdown.check()

    def is_done(self) -> bool:
        """Whether there is nothing left to do, by what was heard last."""
        self._apply_budget()
        return next_trial(self._plan, self.trials) is Decision.DONE

    def guard(self, call: Callable[[], T], otherwise: D) -> T | D:
        """Return `call()`, or `otherwise` if it or an earlier call failed. Raises as `check`."""
        self._shutdown.check()
        if self.error is not None:
            return otherwise
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - raised again by the driver
            self.error = error
            return otherwise

    def next(self) -> Trial | Decision:
        """Return a trial that has been started, WAIT (also while a suggestion is being computed), or DONE."""
        if self.stopping:
            return Decision.DONE
        self._apply_budget()
        waiting = [trial for trial in self._trials.unfinished if trial.state is TrialState.WAITING]
        found: Trial | NewTrial | Decision = min(
            waiting, key=lambda t: (list(Phase).index(t.phase), t.number), default=None
        ) or self._suggested()  # fmt: skip
        if isinstance(found, Decision):
            return found
        # With a start that a power cut takes back nothing is lost: what comes next is found anew, and is the same.
        with self._ledger.transaction(durable=False) as transaction:
            trial = transaction.trials.add(self._lease, found) if isinstance(found, NewTrial) else found
            if trial.phase is not self._phase:
                transaction.jobs.update(self._lease, phase=trial.phase)
            attempt = transaction.attempts.start(self._lease, trial.id)
        if trial.phase is not self._phase:
            self._phase = trial.phase
            _log.info("job %s: %s", self._lease.job, trial.phase)
            if trial.phase is Phase.CONFIRM:
                self._tell_stopped()
        trial = self._keep(dataclasses.replace(trial, state=TrialState.RUNNING, attempts=attempt))
        # One that goes on after its last report does not report that step again, after which it may have been killed
        # before it heard that it is pruned.
        last = trial.reports[-1].step if trial.reports else 0
        if last in map(step_of, trial.checkpoints) and self._prune(trial, last):
            return self.next()
        return trial

    def _tell_stopped(self) -> None:
        for (arm, repeat), made in stopped(self._plan, self._trials).items():
            _log.info(
                "job %s: search %d of %s ended after %d of %d trials (search.stop: decided)",
                self._lease.job, repeat + 1, arm, made, self._plan.spec.budget.trials,
            )  # fmt: skip

    def report(self, trial_id: str, result: StepResult) -> bool:
        """Store a result; return whether the trial shall stop now.

        It shall where it is pruned, or where this process is to end and the trial can go on from here. An interrupt
        comes before or after.
        """
        with self._shutdown.undisturbed():
            trial = self._trials[trial_id]
            if trial.is_finished or trial.id in self._left:
                return True  # it has ended, and has no more to do
            _log_news(trial, result)
            measurement, outcome = result.measurement, self._explained(trial, result.outcome)
            report, end = self._store(trial, measurement, outcome)
            if measurement is not None:
                trial = self._keep_measured(trial, report, measurement.checkpoint)
            if outcome is not None:
                if end is None:
                    self._lose(trial, str(outcome.reason), outcome.log)
                else:
                    self._end(trial, outcome.state, end.value, outcome.reason, end.finished)
                return False
            return measurement is not None and self._is_to_stop(trial, measurement)

    def _explained(self, trial: Trial, outcome: Outcome | None) -> Outcome | None:
        """Give a failure its true reason: as a trial's processes are killed, it may come to an error of its own."""
        if isinstance(outcome, Failed):
            return dataclasses.replace(outcome, reason=self._overdue.get(trial.id, outcome.reason))
        return outcome

    def _store(
        self, trial: Trial, measurement: Measurement | None, outcome: Outcome | None
    ) -> tuple[Report | None, _End | None]:
        """Write a last report and the end of its trial together.

        A failure for the reason for which the job is paused is no end: the trial was given out before, and no budget
        is spent on it any more.
        """
        report = None
        with self._ledger.transaction() as transaction:
            if measurement is not None:
                report = transaction.trials.report(
                    self._lease,
                    trial.id,
                    trial.attempts,
                    measurement.step,
                    measurement.value,
                    measurement.metrics,
                    measurement.checkpoint,
                )
            if outcome is None or (isinstance(outcome, Failed) and outcome.reason == self.paused):
                return report, None
            value = self._final(trial, report, outcome.final) if isinstance(outcome, Completed) else None
            finished = transaction.trials.finish(
                self._lease, trial.id, outcome.state, value, outcome.reason, outcome.log
            )
            return report, _End(value, finished)

    def _keep_measured(self, trial: Trial, report: Report | None, checkpoint: str | None) -> Trial:
        """Keep a report and its checkpoint as the ledger has them: the first of each step, one of each attempt."""
        if checkpoint is not None:
            others = (c for c in trial.checkpoints if Path(c).parent != Path(checkpoint).parent)
            trial = self._keep(dataclasses.replace(trial, checkpoints=(checkpoint, *others)))
        if report is not None and all(known.step != report.step for known in trial.reports):
            took = trial.seconds + (report.metrics.get("epoch_seconds") or 0.0)
            trial = self._keep(dataclasses.replace(trial, reports=(*trial.reports, report), seconds=took))
        return trial

    def _is_to_stop(self, trial: Trial, measurement: Measurement) -> bool:
        """Whether a trial that would go on is pruned, or left to another process that goes on from here."""
        if self._prune(trial, measurement.step):
            return True
        if self._shutdown.leaving and measurement.checkpoint is not None:
            self._left.add(trial.id)
            return True
        return False

    def _final(self, trial: Trial, last: Report | None, value: float) -> float | None:
        """The value of a trial that completes with its last report, or had it before; `value` is its attempt's."""
        objective = self._plan.spec.objective
        if objective.of == "last":
            return value
        known = {report.step: report for report in (*trial.reports, *([last] if last is not None else []))}
        reports = [known[step] for step in sorted(known)]
        return final_value(objective, reports, tested=trial.phase is Phase.VERDICT)

    def lose(self, trial_id: str, reason: str, log: str | None = None, *, begun: bool = True) -> None:
        """A worker died: the trial gets another attempt, or is FAILED at the third death in this process.

        A trial that was asked to end is FAILED at once. An interrupt comes before or after.

        Args:
            trial_id: A trial that runs.
            reason: What happened.
            log: What the worker wrote last.
            begun: Whether the death counts. It does not where the worker had not begun with this trial.
        """
        trial = self._trials[trial_id]
        if trial.is_finished:
            return
        with self._shutdown.undisturbed():
            late = self._overdue.get(trial.id)
            if late is not None and late != self.paused:  # as in `_store`
                self._finish(trial, TrialState.FAILED, late, log)
                return
            self._deaths[trial.id] += begun
            if self._deaths[trial.id] < _MOST_DEATHS:
                self._lose(trial, late or reason, log)
            else:
                self._finish(trial, TrialState.FAILED, f"{reason} ({_MOST_DEATHS} times)", log)

    def end_if_overdue(self, trial_id: str, seconds: float) -> bool:
        """Ask the process of a trial to end once its attempt has run for too long; return whether that was asked.

        Args:
            trial_id: A trial that runs.
            seconds: For how long a process has been at work on it.
        """
        trial = self._trials[trial_id]
        if self._folder is None or trial.state is not TrialState.RUNNING or trial_id in self._left:
            return False
        if trial_id not in self._overdue:
            completed = (
                other.seconds
                for phase in Phase
                for repeat in range(self._plan.spec.search.repeats)
                for other in self._trials.select(phase, trial.arm, repeat)
                if other.state is TrialState.COMPLETE
            )
            reason = overdue(seconds, self._plan.spec.budget.trial_time, completed)
            if reason is None:
                return False
            self._overdue[trial_id] = reason
            _log.warning("trial %s: attempt %d %s", trial_id, trial.attempts, reason)
        ask_to_end(self._folder, trial_id, trial.attempts)  # at each call: it may have failed before
        return True

    def _apply_budget(self) -> None:
        """Work by the budget that was heard last."""
        response = self._renewal.response
        if response is self._applied or not response.budget:
            return
        self._applied = response
        spec, budget = self._plan.spec, Budget.model_validate(dict(response.budget))
        over = budget.time is not None and response.spent >= budget.time
        if budget != spec.budget or over != self._plan.search_over:
            spec = spec.model_copy(update={"budget": budget})
            self._plan = dataclasses.replace(self._plan, spec=spec, search_over=over)
            self._asked = None  # it was asked by the budget before; what becomes of it is nothing
        if over:
            for trial in self.trials:
                if trial.phase is Phase.SEARCH and trial.state is TrialState.WAITING:
                    self._finish(trial, TrialState.CANCELLED, "budget.time was spent")

    def _prune(self, trial: Trial, step: int) -> bool:
        """End a trial if its reports up to `step` are behind the others'; return whether it was."""
        if trial.phase is not Phase.SEARCH or self._plan.spec.search.pruner == "none":
            return False
        search = self._trials.select(Phase.SEARCH, trial.arm, trial.repeat)
        others = [t for t in search if t.id != trial.id]
        # An attempt that began again is at an earlier step than the reports of the one before.
        so_far = tuple(report for report in trial.reports if report.step <= step)
        now = dataclasses.replace(trial, reports=so_far)
        if not should_prune(
            self._plan.spaces[trial.arm], now, others, self._plan.spec.search, self._plan.spec.objective
        ):
            return False
        self._finish(trial, TrialState.PRUNED, f"pruned after epoch {step}")
        return True

    def _suggested(self) -> NewTrial | Decision:
        """What comes next, by the trials as they were when it was asked for.

        What has happened since changes nothing that matters: no trial is added in between, so a new one is new still,
        and DONE is said only when nothing runs. A WAIT may be out of date, and is asked for anew.
        """
        earlier = self._asked is not None
        if not earlier and draws(self._plan, self._trials):
            return next_trial(self._plan, self._trials)
        if self._asked is None:
            self._asked = self._thread.submit(next_trial, self._plan, self._trials.copy())
        # While nothing runs there is nothing else to do, and Tune sleeps for a second where it is told to wait.
        wait([self._asked], (0.0 if earlier else self._patience) if self.running else None)
        if not self._asked.done():
            return Decision.WAIT
        new, self._asked = self._asked.result(), None
        return self._suggested() if earlier and new is Decision.WAIT else new

    def _lose(self, trial: Trial, reason: str, log: str | None = None) -> None:
        self._ledger.attempts.lose(self._lease, trial.id, reason, log)
        self._forgive(trial)
        self._keep(dataclasses.replace(trial, state=TrialState.WAITING))

    def _finish(self, trial: Trial, state: TrialState, reason: str, log: str | None = None) -> None:
        finished = self._ledger.trials.finish(self._lease, trial.id, state, None, reason, log)
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
        self._forgive(trial)
        _log.info("trial %s: %s %s", trial.id, state, reason or value)
        self._clear(self._trials[trial.id])
        if self.paused is None:
            self.paused = repeated_failure(self._ended)

    def _forgive(self, trial: Trial) -> None:
        """Ask no more of an attempt that is over."""
        if self._overdue.pop(trial.id, None) is not None and self._folder is not None:
            withdraw(self._folder, trial.id, trial.attempts)

    def _clear(self, *ended: Trial) -> None:
        """Delete the checkpoints of trials that have ended, but for the weights that the job keeps."""
        if self._folder is None:
            return
        spec = self._plan.spec
        for trial in ended:
            if not spec.may_keep(trial.arm, trial.phase):
                remove(self._folder, trial.id)
        if any(spec.may_keep(trial.arm, trial.phase) for trial in ended):
            best = best_weights_trial(self.trials, spec)
            for trial in self.trials:
                if trial.is_finished and spec.may_keep(trial.arm, trial.phase) and trial != best:
                    remove(self._folder, trial.id)

    def _keep(self, trial: Trial) -> Trial:
        self._trials.keep(trial)
        return trial


def _log_news(trial: Trial, result: StepResult) -> None:
    if result.resumed is not None:
        _log.info("trial %s: attempt %d goes on after epoch %d", trial.id, trial.attempts, result.resumed)
    for warning in result.warnings:
        _log.warning("trial %s: %s", trial.id, warning)
    if isinstance(result.outcome, Failed):
        _log.error("trial %s failed\n%s", trial.id, result.outcome.traceback)


def _use_one_core() -> None:
    """Keep a GP's small matrices on one core: the others train, and waiting for them made it four times slower.

    Holds for torch in this thread, and for numpy and scipy in the whole process.
    """
    threadpool_limits(1)
