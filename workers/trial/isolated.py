"""Attempts at trials of user code, each in its own process. Needs neither torch nor Ray nor user modules."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import sys
import time
from pathlib import Path

from anon_tune.records import Phase
from anon_tune.spec import JobSpec
from anon_tune.workers.isolation.channel import FOLDER, WORK
from anon_tune.workers.isolation.messages import Ended, Order, describe, is_killed
from anon_tune.workers.isolation.process import IsolatedProcess, Keeper
from anon_tune.workers.trial import output
from anon_tune.workers.trial.check_ups import compared, following
from anon_tune.workers.trial.lines import from_line, to_reply
from anon_tune.workers.trial.messages import (
    Assignment,
    CheckUpRun,
    Completed,
    Failed,
    Lost,
    Measurement,
    Outcome,
    ProbeAssignment,
    ProbeResult,
    Reply,
    Result,
    StepResult,
    TrialAssignment,
)
from anon_tune.workers.trial.watchdog import Watchdog
from anon_tune.workers.trial.work import NO_REPORT, Work

__all__ = ["MODULES", "CheckUp", "IsolatedAttempt", "UserCode", "begin", "keeper_for"]

_CLOSE_SECONDS = 10.0
"""Time for stopped user code to clean up."""

_STACKS_SECONDS = 3.0
"""Time in which the process of a trial that runs for too long may write its stacks."""

_CHILD = "anon_tune.workers.trial.child"

MODULES = ("torch._dynamo", _CHILD)
"""Modules for the keeper. torch imports the first one for the first optimizer of a process."""


@dataclasses.dataclass(frozen=True)
class UserCode:
    """The user's code of a job, and how to start it.

    Attributes:
        keeper: Starts the processes.
        spec: The job.
        functions: User functions that no module defines, as in `Work`.
    """

    keeper: Keeper
    spec: JobSpec
    functions: bytes

    def start(self, assignment: Assignment, files: Path, log: Path, run: int = 0) -> IsolatedProcess:
        """Start a process for an assignment.

        Args:
            assignment: Its work.
            files: Folder for its files.
            log: File for its output.
            run: As in `Work`.

        Raises:
            OSError: It cannot be started.
        """
        files.mkdir(parents=True, exist_ok=True)
        work = log.with_suffix(".work")
        Work(assignment, self.spec, files, self.functions, run).write(work)
        environment = {
            WORK: str(work),
            FOLDER: str(files),
            # `python` and `torchrun` are those of this environment, whether it is activated or not.
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        }
        order = Order(self.spec.folder or str(files), str(log), environment=environment)
        if self.spec.command is None:
            return self.keeper.start(dataclasses.replace(order, module=_CHILD))
        command = _filled(self.spec, assignment, files, run)
        return self.keeper.start(dataclasses.replace(order, command=command))


def keeper_for(spec: JobSpec) -> Keeper:
    """Return a keeper that loads what the processes of a job need; a command loads its own modules."""
    return Keeper(MODULES if spec.command is None else ())


def begin(assignment: Assignment, code: UserCode) -> IsolatedAttempt | CheckUp:
    """Return the work on an assignment of a job with user code."""
    if isinstance(assignment, ProbeAssignment):
        return CheckUp(assignment, code)
    return IsolatedAttempt(assignment, code)


class IsolatedAttempt:
    """One attempt at a trial, in a process of its own, from report to report.

    Args:
        assignment: The trial, and its folders.
        code: The user's code.
    """

    def __init__(self, assignment: TrialAssignment, code: UserCode) -> None:
        self._code = code
        self._trial = assignment.trial
        self._log = output.own(assignment.output)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.touch()
        self._files = self._log.with_suffix(".files")
        self._last: Measurement | None = None
        self._completed: Completed | None = None
        self._waits = False
        self._process: IsolatedProcess | None = None
        self._assignment = assignment
        self._watchdog = Watchdog(
            assignment.folder, self._trial.id, self._trial.attempts, end=self._end_overdue
        )

    def step(self) -> StepResult:
        """Wait for the next report, or for the end."""
        output.trim(self._log)
        if self._process is None:
            # Not before the first step: Tune may prepare an attempt in two actors, and drop one.
            try:
                self._process = self._code.start(self._assignment, self._files, self._log)
            except OSError as error:
                reason = f"no process can be started: {error}"
                return StepResult(outcome=Failed(reason, reason))
        while True:
            if self._waits:
                self._process.reply(to_reply(Reply(goes_on=True)))
            news = self._process.receive()
            self._waits = isinstance(news, bytes)
            if isinstance(news, Ended):
                return StepResult(outcome=self._ended(news))
            found = _parsed(news)
            if isinstance(found, Failed):
                return StepResult(outcome=self._logged(found))
            if not isinstance(found, StepResult):
                return StepResult(outcome=_unexpected(news))
            if found.measurement is not None:
                self._last = found.measurement
            if isinstance(found.outcome, Completed):
                # A program has come to its end when it has ended; it may still fail.
                self._completed = found.outcome
                if self._code.spec.command is not None and found.measurement is None:
                    continue
            if found.outcome is not None:
                return dataclasses.replace(found, outcome=self._logged(found.outcome))
            return found

    def close(self) -> None:
        """End the process and delete the files of the attempt."""
        self._watchdog.close()
        process, self._process = self._process, None
        if process is not None:
            if self._waits:
                process.reply(to_reply(Reply(goes_on=False)))
            process.finish(_CLOSE_SECONDS)
        self._log.unlink(missing_ok=True)
        self._log.with_suffix(".work").unlink(missing_ok=True)
        shutil.rmtree(self._files, ignore_errors=True)

    def _logged(self, outcome: Outcome) -> Outcome:
        log = output.tail(self._log)
        return dataclasses.replace(
            outcome, log=log or (outcome.traceback if isinstance(outcome, Failed) else None)
        )

    def _ended(self, end: Ended) -> Outcome:
        """Return the outcome of an attempt whose process has ended without saying more."""
        log = output.tail(self._log)
        if is_killed(end.status):
            return Lost(_killed(), log)
        if end.status == 0 and self._code.spec.command is not None:
            if self._completed is not None:
                return dataclasses.replace(self._completed, log=log)
            if self._last is not None:
                return Completed(self._objective(self._last), log)
            return Failed(NO_REPORT, NO_REPORT, log)
        reason = _how(end, log)
        return Failed(reason, log or reason, log)

    def _objective(self, last: Measurement) -> float:
        tested = f"test_{self._code.spec.objective.metric}"
        tests = self._trial.phase is Phase.VERDICT
        return last.metrics.get(tested, last.value) if tests else last.value

    def _end_overdue(self) -> None:
        """End a process that runs for too long and does not end itself."""
        time.sleep(_STACKS_SECONDS)
        if self._process is not None:
            self._process.ask_to_stop(0.0)


class CheckUp:
    """The check-up of user code: two runs, each in a process of its own.

    Args:
        assignment: What to measure.
        code: The user's code.
    """

    def __init__(self, assignment: ProbeAssignment, code: UserCode) -> None:
        self._assignment = assignment
        self._code = code
        self._log = output.own(assignment.output)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.touch()

    def step(self) -> ProbeResult | Failed:
        """Run the check-up."""
        first = self._run(0, self._assignment)
        if isinstance(first, Failed):
            return first
        second = self._run(1, following(self._assignment, first))
        if isinstance(second, Failed):
            return second
        return compared(first, second, self._code.spec)

    def close(self) -> None:
        """Delete the files."""
        self._log.unlink(missing_ok=True)
        self._log.with_suffix(".work").unlink(missing_ok=True)
        shutil.rmtree(self._log.with_suffix(".files"), ignore_errors=True)

    def _run(self, number: int, assignment: ProbeAssignment) -> CheckUpRun | Failed:
        try:
            process = self._code.start(assignment, self._log.with_suffix(".files"), self._log, number)
        except OSError as error:
            reason = f"no process can be started: {error}"
            return Failed(reason, reason)
        news = process.receive()
        if isinstance(news, Ended):
            log = output.tail(self._log)
            reason = (
                NO_REPORT if news.status == 0 else _killed() if is_killed(news.status) else _how(news, log)
            )
            return Failed(reason, log or reason, log)
        process.reply(to_reply(Reply(goes_on=False)))
        process.finish(_CLOSE_SECONDS)
        found = _parsed(news)
        return found if isinstance(found, CheckUpRun | Failed) else _unexpected(news)


def _filled(spec: JobSpec, assignment: Assignment, files: Path, run: int) -> list[str]:
    """Return the job's command, with values in place of {epochs} or {steps}, {seed} and {folder}."""
    if isinstance(assignment, TrialAssignment):
        seed = assignment.trial.seed
    else:
        seed = (assignment.seed, assignment.other_seed)[run]
    values = {spec.budget.key: str(spec.budget.length), "seed": str(seed), "folder": str(files)}
    found = []
    for argument in shlex.split(spec.command or ""):
        for name, value in values.items():
            argument = argument.replace(f"{{{name}}}", value)
        found.append(argument)
    return found


def _how(end: Ended, log: str | None) -> str:
    """Return how a process ended, with what it said about that."""
    words = output.last_words(log or "")
    return f"its process ended with {describe(end.status)}" + (f": {words}" if words else "")


def _killed() -> str:
    return "its process was killed (SIGKILL); if memory ran out, the system did so (see dmesg)"


def _parsed(line: bytes) -> Result | CheckUpRun | Failed:
    try:
        return from_line(line)
    except ValueError:
        return _unexpected(line)


def _unexpected(line: bytes) -> Failed:
    reason = f"its process sent an unexpected line: {line[:80]!r}"
    return Failed(reason, reason)
