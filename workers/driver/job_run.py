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

from anon_tune.errors import DependencyError
from anon_tune.ledger import Lease, Ledger, Operations, retried
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
from anon_tune.spec import Budget, Unit
from anon_tune.workers.driver.best_weights import best_weights_trial
from anon_tune.workers.driver.lease_renewal import LeaseRenewal
from anon_tune.workers.driver.shutdown_request import ShutdownRequest
from anon_tune.workers.trial.checkpoints import remove, step_of
from anon_tune.workers.trial.messages import (
    Completed,
    Diverged,
    Failed,
    Lost,
    Measurement,
    Outcome,
    ProbeAssignment,
    ProbeResult,
    StepResult,
)
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

    Tune would swallow exceptions, so they are stored in `error`: no further trial starts, and the driver raises the
    exception.

    Suggestions are computed in another thread, since one can take a second; points that are drawn at random are not.
    Everything else, including the ledger, stays in the calling thread.

    Args:
        ledger: Ledger that stores the job.
        lease: Lease on the job.
        plan: Everything besides the trials that decides which trial comes next.
        patience: Seconds for which `next` waits for a suggestion; None waits without limit.
        renewal: Holds the ledger's last response: the pending request and the budget.
        shutdown: Interrupts this process; a write to the ledger is finished first.
        folder: The job's folder of checkpoints; those of ended trials are deleted. None if there is none.
        probe: Comes before all trials; None if the job has been measured.
        only_probe: Whether to stop after the probe.

    Attributes:
        error: Error that stops the run; None so far.
        paused: Reason why the run pauses the job; None so far.
        unfit: Failure of the probe: the job cannot be trained; None so far.
        measured: Measurements of the probe of this run, as the ledger stores them; empty without one.
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
        probe: ProbeAssignment | None = None,
        *,
        only_probe: bool = False,
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
        job = retried(lambda _: ledger.jobs.get(lease.job, trials=True), self._gives_up)
        self._trials = History(job.trials)
        # The last ones that ended in this process. Failures that paused the job before do not pause it again: their
        # cause is fixed when the job is resumed.
        self._ended: deque[Trial] = deque(maxlen=FAILURES_IN_A_ROW)
        # Deaths in this process only: an attempt that ended with its driver says nothing about the trial.
        self._deaths: Counter[str] = Counter()
        self._left: set[str] = set()
        self._overdue: dict[str, str] = {}  # reason for which the process of a trial was asked to end
        self._phase: Phase | None = None
        self._folder = folder
        self._probe = probe
        self._only_probe = only_probe
        self._is_probing = False
        self.error: Exception | None = None
        self.paused: str | None = None
        self.unfit: Failed | None = None
        self.measured: Mapping[str, Any] = {}
        if folder is not None:
            withdraw(folder)  # requests of a killed driver
        self._clear(*(trial for trial in self._trials.values() if trial.is_finished))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop computing suggestions; one that is under way is discarded."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def trials(self) -> list[Trial]:
        """All trials of the job, as of the last write."""
        return list(self._trials.values())

    @property
    def plan(self) -> Plan:
        """The plan, with the budget of the last heartbeat response."""
        return self._plan

    @property
    def running(self) -> int:
        """Number of trials that have started and not ended."""
        return sum(trial.state is TrialState.RUNNING for trial in self._trials.unfinished)

    @property
    def stopping(self) -> bool:
        """Whether no further trial starts, though the job may not be done."""
        asked = self._shutdown.leaving or self._renewal.response.request is not None
        measured = self._only_probe and bool(self.measured)
        return asked or measured or any(each is not None for each in (self.error, self.paused, self.unfit))

    @property
    def budget(self) -> Mapping[str, Any]:
        """The budget that the job works under, as the ledger stores it."""
        return self._applied.budget if self._applied is not None else {}

    @property
    def cut_short(self) -> str | None:
        """Reason why the search ended before its budget of trials, if the time was used up; else None."""
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
        """Raise KeyboardInterrupt if the process must stop, as `ShutdownRequest.check`."""
        self._shutdown.check()

    def is_done(self) -> bool:
        """Return whether the job is done, under the budget of the last heartbeat response."""
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

    def store_probe(self, found: ProbeResult | Failed) -> None:
        """Store the measurements of the probe, or keep the reason why there is nothing to search."""
        self._is_probing = False
        if isinstance(found, Failed):
            _log.error("the probe failed\n%s", found.traceback)
            self.unfit = found
            return
        self.measured = found.as_stored()
        self._persist(
            lambda ledger: ledger.jobs.update(
                self._lease, probe=self.measured, architecture=found.architecture
            )
        )
        self._plan = dataclasses.replace(self._plan, log_mean_sigma=found.log_mean_sigma)
        _log.info("probe: %s", self.measured)
        for note in found.notes:
            _log.warning("check-up: %s", note)
        if self._plan.spec.resources.gpu and self.measured.get("device") == "cpu":
            _log.warning("resources.gpu is %g, but torch found no CUDA device", self._plan.spec.resources.gpu)

    def lose_probe(self, log: str | None) -> None:
        """Stop the job, as the process of the probe died.

        Raises:
            DependencyError: Always; what the process wrote last is part of it.
        """
        wrote = f"The last lines of its output:\n{log}" if log else "It wrote nothing."
        _log.error("the process of the probe died. %s", wrote)
        raise DependencyError(
            "the process that tried the model before the first trial died. See job.log for its output; if memory ran "
            "out, the system did so (see dmesg)"
        )

    def next(self) -> Trial | ProbeAssignment | Decision:
        """Start the next trial and return it; the probe comes first. WAIT while nothing can start yet, or DONE."""
        if self.stopping:
            return Decision.DONE
        if self._probe is not None:
            (probe, self._probe), self._is_probing = (self._probe, None), True
            return probe
        if self._is_probing:
            return Decision.WAIT
        self._apply_budget()
        waiting = [trial for trial in self._trials.unfinished if trial.state is TrialState.WAITING]
        found: Trial | NewTrial | Decision = min(
            waiting, key=lambda t: (list(Phase).index(t.phase), t.number), default=None
        ) or self._suggested()  # fmt: skip
        if isinstance(found, Decision):
            return found
        trial, attempt = self._start(found)
        if trial.phase is not self._phase:
            self._phase = trial.phase
            _log.info("job %s: %s", self._lease.job, trial.phase)
            if trial.phase is Phase.CONFIRM:
                self._tell_stopped()
        trial = self._keep(dataclasses.replace(trial, state=TrialState.RUNNING, attempts=attempt))
        # A trial that continues after its last report does not repeat it. It may have been killed after that report,
        # before the driver pruned it.
        last = trial.reports[-1].step if trial.reports else 0
        if last in map(step_of, trial.checkpoints) and self._prune(trial, last):
            return self.next()
        return trial

    def _start(self, found: Trial | NewTrial) -> tuple[Trial, int]:
        """Store the next attempt at a trial, and the trial if it is new; return it and the attempt's number."""

        def start(ledger: Operations) -> tuple[Trial, int]:
            trial = ledger.trials.add(self._lease, found) if isinstance(found, NewTrial) else found
            if trial.phase is not self._phase:
                ledger.jobs.update(self._lease, phase=trial.phase)
            return trial, ledger.attempts.start(self._lease, trial.id)

        # Losing a start in a power cut is harmless: the next trial is computed again, and is the same.
        return self._persist(start, durable=False)

    def _tell_stopped(self) -> None:
        for (arm, repeat), made in stopped(self._plan, self._trials).items():
            _log.info(
                "job %s: search %d of %s ended after %d of %d trials (search.stop: decided)",
                self._lease.job, repeat + 1, arm, made, self._plan.spec.budget.trials,
            )  # fmt: skip

    def report(self, trial_id: str, result: StepResult) -> bool:
        """Store a result; return whether the trial must stop now.

        It must if it is pruned, or if this process is to end and the trial has a checkpoint to continue from. An
        interrupt comes before or after.
        """
        with self._shutdown.undisturbed():
            trial = self._trials[trial_id]
            if trial.is_finished or trial.id in self._left:
                return True  # it has ended, and has no more to do
            _log_news(trial, result, self._plan.spec.budget.unit)
            measurement, outcome = result.measurement, self._explained(trial, result.outcome)
            if isinstance(outcome, Lost):
                self.lose(trial_id, outcome.reason, outcome.log)
                return False
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
        """Replace the reason of a failure that followed the end of the trial's processes."""
        if isinstance(outcome, Failed):
            return dataclasses.replace(outcome, reason=self._overdue.get(trial.id, outcome.reason))
        return outcome

    def _store(
        self, trial: Trial, measurement: Measurement | None, outcome: Completed | Diverged | Failed | None
    ) -> tuple[Report | None, _End | None]:
        """Write the last report and the end of a trial in one transaction.

        A failure for the reason that paused the job does not end its trial: the trial started before the pause, and
        runs again when the job is resumed.
        """

        def store(ledger: Operations) -> tuple[Report | None, _End | None]:
            report = None
            if measurement is not None:
                report = ledger.trials.report(
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
            finished = ledger.trials.finish(
                self._lease, trial.id, outcome.state, value, outcome.reason, outcome.log
            )
            return report, _End(value, finished)

        return self._persist(store)

    def _persist(self, work: Callable[[Operations], T], *, durable: bool = True) -> T:
        """Do one transaction; while the database is unavailable, repeat it as long as the lease lasts."""
        return self._ledger.persist(work, self._gives_up, durable=durable)

    def _gives_up(self) -> bool:
        return self._renewal.is_over or self._shutdown.stopping

    def _keep_measured(self, trial: Trial, report: Report | None, checkpoint: str | None) -> Trial:
        """Mirror a report and its checkpoint as in the ledger: the first of each step, one per attempt."""
        if checkpoint is not None:
            others = (c for c in trial.checkpoints if Path(c).parent != Path(checkpoint).parent)
            trial = self._keep(dataclasses.replace(trial, checkpoints=(checkpoint, *others)))
        if report is not None and all(known.step != report.step for known in trial.reports):
            took = trial.seconds + (report.metrics.get("epoch_seconds") or 0.0)
            # Another attempt may report at other steps than the one before.
            reports = tuple(sorted((*trial.reports, report), key=lambda each: each.step))
            trial = self._keep(dataclasses.replace(trial, reports=reports, seconds=took))
        return trial

    def _is_to_stop(self, trial: Trial, measurement: Measurement) -> bool:
        """Return whether a running trial is pruned, or left to another process that continues it from here."""
        if self._prune(trial, measurement.step):
            return True
        if self._shutdown.leaving and measurement.checkpoint is not None:
            self._left.add(trial.id)
            return True
        return False

    def _final(self, trial: Trial, last: Report | None, value: float) -> float | None:
        """Return the final value of a trial that completes; `value` is that of its attempt, `last` its new report."""
        objective = self._plan.spec.objective
        if objective.of == "last":
            return value
        known = {report.step: report for report in (*trial.reports, *([last] if last is not None else []))}
        reports = [known[step] for step in sorted(known)]
        return final_value(objective, reports, tested=trial.phase is Phase.VERDICT)

    def lose(self, trial_id: str, reason: str, log: str | None = None, *, begun: bool = True) -> None:
        """Handle the death of a worker: the trial gets another attempt.

        It is FAILED at the third death in this process, or at once if it was asked to end. An interrupt comes before
        or after.

        Args:
            trial_id: A running trial.
            reason: Cause, for people.
            log: The last lines of the worker's output.
            begun: Whether the death counts: the worker had begun with this trial.
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
        """Ask the process of a trial to end if its attempt has run for too long; return whether it was asked.

        Args:
            trial_id: A running trial.
            seconds: Time for which a process has worked on it.
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
        """Apply the budget of the last heartbeat response."""
        response = self._renewal.response
        if response is self._applied or not response.budget:
            return
        self._applied = response
        spec, budget = self._plan.spec, Budget.model_validate(dict(response.budget))
        over = budget.time is not None and response.spent >= budget.time
        if budget != spec.budget or over != self._plan.search_over:
            spec = spec.model_copy(update={"budget": budget})
            self._plan = dataclasses.replace(self._plan, spec=spec, search_over=over)
            self._asked = None  # the suggestion was computed for the old budget: discard it
        if over:
            for trial in self.trials:
                if trial.phase is Phase.SEARCH and trial.state is TrialState.WAITING:
                    self._finish(trial, TrialState.CANCELLED, "budget.time was spent")

    def _prune(self, trial: Trial, step: int) -> bool:
        """Prune a trial if its reports up to `step` are behind the others'; return whether it was pruned."""
        if trial.phase is not Phase.SEARCH or self._plan.spec.search.pruner == "none":
            return False
        search = self._trials.select(Phase.SEARCH, trial.arm, trial.repeat)
        others = [t for t in search if t.id != trial.id]
        # A new attempt may be at an earlier step than the reports of the one before.
        so_far = tuple(report for report in trial.reports if report.step <= step)
        now = dataclasses.replace(trial, reports=so_far)
        if not should_prune(
            self._plan.spaces[trial.arm], now, others, self._plan.spec.search, self._plan.spec.objective
        ):
            return False
        self._finish(trial, TrialState.PRUNED, f"pruned after {self._plan.spec.budget.unit} {step}")
        return True

    def _suggested(self) -> NewTrial | Decision:
        """Return the next trial or decision, computed from the trials at the time of the request.

        Results since then do not invalidate it: no trial was added, so a new one is still new, and DONE only comes
        when nothing runs. A WAIT may be out of date, so it is computed again.
        """
        earlier = self._asked is not None
        if not earlier and draws(self._plan, self._trials):
            return next_trial(self._plan, self._trials)
        if self._asked is None:
            self._asked = self._thread.submit(next_trial, self._plan, self._trials.copy())
        # While nothing runs, wait here: after a WAIT Tune would sleep for a second.
        wait([self._asked], (0.0 if earlier else self._patience) if self.running else None)
        if not self._asked.done():
            return Decision.WAIT
        new, self._asked = self._asked.result(), None
        return self._suggested() if earlier and new is Decision.WAIT else new

    def _lose(self, trial: Trial, reason: str, log: str | None = None) -> None:
        self._persist(lambda ledger: ledger.attempts.lose(self._lease, trial.id, reason, log))
        self._forgive(trial)
        self._keep(dataclasses.replace(trial, state=TrialState.WAITING))

    def _finish(self, trial: Trial, state: TrialState, reason: str, log: str | None = None) -> None:
        finished = self._persist(
            lambda ledger: ledger.trials.finish(self._lease, trial.id, state, None, reason, log)
        )
        self._end(trial, state, None, reason, finished)

    def _end(
        self,
        trial: Trial,
        state: TrialState,
        value: float | None,
        reason: str | None,
        finished: datetime.datetime,
    ) -> None:
        """Mirror the end of a trial, which the ledger has stored."""
        ended = dataclasses.replace(trial, state=state, value=value, reason=reason, finished=finished)
        self._ended.append(self._keep(ended))
        self._forgive(trial)
        _log.info("trial %s: %s %s", trial.id, state, reason or value)
        self._clear(self._trials[trial.id])
        if self.paused is None:
            self.paused = repeated_failure(self._ended)

    def _forgive(self, trial: Trial) -> None:
        """Withdraw the request to end an attempt, which is over."""
        if self._overdue.pop(trial.id, None) is not None and self._folder is not None:
            withdraw(self._folder, trial.id, trial.attempts)

    def _clear(self, *ended: Trial) -> None:
        """Delete the checkpoints of trials that have ended, except the best weights."""
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


def _log_news(trial: Trial, result: StepResult, unit: Unit) -> None:
    if result.resumed is not None:
        _log.info(
            "trial %s: attempt %d continues after %s %d", trial.id, trial.attempts, unit, result.resumed
        )
    for warning in result.warnings:
        _log.warning("trial %s: %s", trial.id, warning)
    if isinstance(result.outcome, Failed):
        _log.error("trial %s failed\n%s", trial.id, result.outcome.traceback)


def _use_one_core() -> None:
    """Limit a GP's small matrices to one core: the other cores train, and waiting for them is four times slower.

    The limit holds for torch in this thread, and for numpy and scipy in the whole process.
    """
    threadpool_limits(1)
