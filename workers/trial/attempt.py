"""An attempt at a trial, in the process that trains it, and the probe before the first trial. Needs no Ray."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from anon_tune.documents import is_function
from anon_tune.errors import AnonTuneError, InputError
from anon_tune.optim import Anon, make_optimizer, monitor
from anon_tune.records import Phase, storable_text
from anon_tune.spec import JobSpec
from anon_tune.user_code import load_function
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial import checkpoints, output
from anon_tune.workers.trial.context import Context, Progress
from anon_tune.workers.trial.device import choose_device
from anon_tune.workers.trial.dry_run import FactoryArm
from anon_tune.workers.trial.messages import (
    Assignment,
    Completed,
    Diverged,
    Failed,
    Measurement,
    Outcome,
    ProbeAssignment,
    ProbeResult,
    StepResult,
    TrialAssignment,
)
from anon_tune.workers.trial.probe import PROBE_BATCHES, probe
from anon_tune.workers.trial.training import Training
from anon_tune.workers.trial.user_function import NO_REPORT, Ended, FunctionRun, Train, probe_function
from anon_tune.workers.trial.watchdog import Watchdog

__all__ = ["Attempt", "ProbeAttempt", "begin", "run_probe"]

_PROBE_SHARE = 0.02
"""Largest share of a full-length trial's steps that the probe takes, but at least one step."""

_TINY = 1e-8  # a learning rate for trial steps of the dry run

_CLOSE_SECONDS = 10.0
"""Time for a stopped training function to clean up."""


def begin(assignment: Assignment, spec: JobSpec) -> Attempt | ProbeAttempt:
    """Return the work on an assignment of a job."""
    if isinstance(assignment, ProbeAssignment):
        return ProbeAttempt(assignment, spec)
    return Attempt(assignment, spec)


class ProbeAttempt:
    """Runs the probe of a job in a single step.

    Args:
        assignment: What to measure.
        spec: The job.
    """

    def __init__(self, assignment: ProbeAssignment, spec: JobSpec) -> None:
        self._assignment = assignment
        self._spec = spec
        self._output = output.own(assignment.output)
        output.capture(self._output)

    def step(self) -> ProbeResult | Failed:
        """Run the probe."""
        return run_probe(self._spec, self._assignment.seed, self._assignment.floor, self._assignment.points)

    def close(self) -> bool:
        """Free the memory and delete the output; return True, as the process can train a trial now."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._output.unlink(missing_ok=True)
        return True


class Attempt:
    """Trains one trial one epoch at a time, or a user's training function from report to report.

    An error in the training becomes a result with the outcome `Failed`.

    Args:
        assignment: The trial, and its folders.
        spec: The job.
    """

    def __init__(self, assignment: TrialAssignment, spec: JobSpec) -> None:
        trial = assignment.trial
        self._trial = trial
        self._spec = spec
        self._folder = assignment.folder
        self._failure: Failed | None = None
        self._resumed: int | None = None
        self._warnings: list[str] = []
        self._training: Training | None = None
        self._function: FunctionRun | None = None
        self._output = output.own(assignment.output)
        self._files = self._output.with_suffix(".files")
        output.capture(self._output)
        self._watchdog = Watchdog(self._folder, trial.id, trial.attempts)
        self._tests = trial.phase is Phase.VERDICT
        self._metric = spec.objective.metric
        self._tests_each = self._tests and spec.objective.of != "last"
        self._epochs = spec.budget.epochs
        self._keeps_last = spec.may_keep(trial.arm, trial.phase)
        self._good: str | None = None
        self._value: float | None = None
        try:
            _use_threads(spec.resources.cpu)
            if is_function(spec.task):
                self._function = self._call()
            else:
                self._training = self._go_on(_problem(spec))
            self._pace = checkpoints.Pace(spec.training.checkpoint_seconds)
            self._since = time.perf_counter()
        except Exception as error:  # noqa: BLE001 - as in step
            self._failure = _failure(error, spec.folder)

    def step(self) -> StepResult:
        """Train one epoch."""
        output.trim(self._output)
        measurement: Measurement | None = None
        outcome: Outcome | None = self._failure
        if outcome is None:
            try:
                measurement, outcome = (
                    self._epoch() if self._function is None else self._report(self._function)
                )
            except Exception as error:  # noqa: BLE001 - the user's model may raise anything; it is reported
                outcome = _failure(error, self._spec.folder)
        if isinstance(outcome, Failed):
            outcome = dataclasses.replace(outcome, log=output.tail(self._output) or outcome.traceback)
        elif isinstance(outcome, Diverged):
            outcome = dataclasses.replace(outcome, log=output.tail(self._output))
        resumed, self._resumed = self._resumed, None
        warnings, self._warnings = self._warnings, []
        return StepResult(measurement=measurement, outcome=outcome, resumed=resumed, warnings=tuple(warnings))

    def close(self) -> bool:
        """Free the memory and delete the files of this attempt; the driver deletes those of processes that died.

        Returns whether the process can train another trial: a user's training function cannot be stopped from
        outside.
        """
        self._watchdog.close()
        function, self._function = self._function, None
        ended = function is None or function.close(_CLOSE_SECONDS)
        self._training = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._output.unlink(missing_ok=True)
        shutil.rmtree(self._files, ignore_errors=True)
        return ended

    def _call(self) -> FunctionRun:
        """Prepare a user's training function, with the furthest intact checkpoint."""
        spec, trial, problems = self._spec, self._trial, list[str]()
        found = next(checkpoints.intact(self._folder, trial.checkpoints, self._epochs, problems), None)
        if found is not None:
            self._good, saved = found
            self._resumed = saved["step"]
            self._value = self._objective(saved["metrics"])
        elif trial.checkpoints:
            problems.append("no checkpoint can be used; starting from scratch")
        self._warnings += problems
        self._files.mkdir(parents=True, exist_ok=True)

        def context(tell: Callable[[Progress], None]) -> Context:
            return Context(
                arm=trial.arm,
                hyperparameters=trial.hyperparameters,
                seed=trial.seed,
                device=choose_device(spec.resources.gpu),
                epochs=self._epochs,
                objective=spec.objective,
                folder=self._files,
                make_optimizer=lambda target: make_optimizer(
                    spec.optimizer(trial.arm), target, trial.hyperparameters, spec.folder
                ),
                tell=tell,
                tests=self._tests,
                schedule=spec.training.schedule,
                warmup=spec.training.warmup,
                saved=found[1] if found is not None else None,
                is_due=self._is_due,
            )

        return FunctionRun(_function(spec), context, trial.seed, spec.resources.cpu)

    def _objective(self, metrics: Mapping[str, float]) -> float:
        """Return the value that one report of a training function would give its trial."""
        value = metrics[self._metric]
        return metrics.get(f"test_{self._metric}", value) if self._tests else value

    def _go_on(self, problem: Problem) -> Training:
        """Prepare the training from the furthest usable checkpoint, else from fresh weights."""
        trial, problems = self._trial, list[str]()
        begin = functools.partial(
            _training, self._spec, problem, trial.arm, trial.hyperparameters, trial.seed
        )
        training = begin()
        # The last epoch is trained again: its report comes together with the end of the trial.
        for name, state in checkpoints.intact(self._folder, trial.checkpoints, self._epochs, problems):
            try:
                training.load_state_dict(state)
            except Exception as error:  # noqa: BLE001 - whatever does not fit, there may be another
                problems.append(f"checkpoint {name} does not fit: {_message(error)}")
                training = begin()
            else:
                self._good = name
                self._resumed = training.epoch
                break
        else:
            if trial.checkpoints:
                problems.append("no checkpoint can be used; starting from scratch")
        self._warnings += problems
        return training

    def _save(self, step: int, state: Callable[[], Mapping[str, Any]]) -> str | None:
        """Write a checkpoint and return its name; if that fails, add a warning and return None."""
        name = checkpoints.checkpoint_name(self._trial.id, self._trial.attempts, step)
        try:
            with self._pace.writing():
                checkpoints.save(self._folder, name, state(), self._good)
        except Exception as error:  # noqa: BLE001 - a full disk, or a state that cannot be saved
            self._warnings.append(f"no checkpoint after epoch {step}, training continues: {_message(error)}")
            return None
        self._good = name
        return name

    def _is_due(self) -> bool:
        return self._pace.due or checkpoints.is_asked(self._folder)

    def _epoch(self) -> tuple[Measurement, Outcome | None]:
        training = self._training
        if training is None:
            raise RuntimeError("the trial was not prepared")
        started = time.perf_counter()
        metrics = training.run_epoch()
        metrics |= {"epoch_seconds": time.perf_counter() - started, **training.speed()}
        if self._tests and (self._tests_each or training.epoch == self._epochs) and not training.diverged:
            metrics |= training.test()
        value = metrics[f"val_{self._metric}"]
        final = metrics.get(f"test_{self._metric}", value)
        outcome: Outcome | None = None
        if training.diverged or not math.isfinite(final):
            outcome = Diverged(_divergence(metrics))
        elif training.epoch == self._epochs:
            outcome = Completed(final)
        saves = self._is_due() if outcome is None else isinstance(outcome, Completed) and self._keeps_last
        checkpoint = self._save(training.epoch, training.state_dict) if saves else None
        return Measurement(training.epoch, value, metrics, checkpoint), outcome

    def _report(self, function: FunctionRun) -> tuple[Measurement | None, Outcome | None]:
        """Run a training function up to its next report, or to its end."""
        news = function.advance()
        if isinstance(news, Ended):
            return None, self._ended(news)
        now = time.perf_counter()
        metrics = {**news.metrics, "epoch_seconds": now - self._since}
        self._since = now
        for optimizer in function.context.optimizers:
            if isinstance(optimizer, Anon):
                metrics |= monitor(optimizer)
        value = news.metrics[self._metric]
        self._value = self._objective(news.metrics)
        outcome, checkpoint = None, None
        if not math.isfinite(value) or not math.isfinite(self._value):
            outcome = Diverged(f"diverged: {self._metric} {value:g}")
        elif news.state is not None and news.step < self._epochs and self._is_due():
            checkpoint = self._save(news.step, news.state)
        return Measurement(news.step, value, metrics, checkpoint), outcome

    def _ended(self, end: Ended) -> Outcome:
        if end.error is not None:
            return _failure(end.error, self._spec.folder)
        if self._value is None:
            raise InputError(NO_REPORT)
        return Completed(self._value)


def run_probe(
    spec: JobSpec,
    seed: int,
    floor: float,
    points: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> ProbeResult | Failed:
    """Measure a job's model on the machine of its trials; see `probe.probe`.

    An error becomes a result, as in the trials.

    Args:
        spec: The job.
        seed: Seed of the initial weights and of the batches.
        floor: Floor of Anon's search space.
        points: Hyperparameters for the dry run of the user's factories, by arm.
    """
    try:
        _use_threads(spec.resources.cpu)
        arms = [
            FactoryArm(arm, spec.optimizer(arm), spec.spaces[arm].file, spec.folder, each)
            for arm, each in (points or {}).items()
        ]
        if is_function(spec.task):
            return _probe_function(spec, seed, floor, arms)
        problem = _problem(spec)
        batch_size = spec.training.batch_size
        steps = spec.budget.epochs * max(1, len(problem.train) // batch_size)
        batches = max(1, min(PROBE_BATCHES, int(_PROBE_SHARE * steps)))
        found = probe(
            problem,
            seed=seed,
            batch_size=batch_size,
            floor=floor,
            device=choose_device(spec.resources.gpu),
            batches=batches,
            arms=arms,
        )
        cost = _training(spec, problem, "anon", {"lr": _TINY}, seed).dry_run()
        return dataclasses.replace(found, cost=cost)
    except Exception as error:  # noqa: BLE001 - as in an attempt
        return _failure(error, spec.folder)


def _probe_function(spec: JobSpec, seed: int, floor: float, arms: Sequence[FactoryArm]) -> ProbeResult:
    with tempfile.TemporaryDirectory() as folder:

        def context(
            tell: Callable[[Progress], None], make: Callable[[Any], torch.optim.Optimizer]
        ) -> Context:
            return Context(
                arm="anon",
                hyperparameters={},
                seed=seed,
                device=choose_device(spec.resources.gpu),
                epochs=spec.budget.epochs,
                objective=spec.objective,
                folder=Path(folder),
                make_optimizer=make,
                tell=tell,
                schedule=spec.training.schedule,
                warmup=spec.training.warmup,
            )

        return probe_function(
            _function(spec), context, seed=seed, floor=floor, objective=spec.objective, arms=arms
        )


def _function(spec: JobSpec) -> Train:
    """Return the training function of a job with its arguments. Raises InputError if they do not fit."""
    function = load_function(spec.task, spec.folder)
    try:
        inspect.signature(function).bind(None, **spec.arguments)
    except TypeError as error:
        raise InputError(f"{spec.task} cannot be called with a context and `arguments`: {error}.") from None
    return functools.partial(function, **spec.arguments)


def _use_threads(number: int) -> None:
    """Set the number of threads of torch and numpy."""
    torch.set_num_threads(number)
    threadpool_limits(number, "blas")


def _problem(spec: JobSpec) -> Problem:
    data, model = spec.data, spec.model
    if data is None or model is None:
        raise InputError(f"{spec.task} needs data and a model.")
    problem = load_problem(
        spec.task,
        data.name,
        model.name,
        model.options,
        data.options,
        spec.folder,
        spec.training.num_workers,
    )
    return problem.to(choose_device(spec.resources.gpu))


def _training(
    spec: JobSpec, problem: Problem, arm: str, hyperparameters: Mapping[str, Any], seed: int
) -> Training:
    return Training(
        problem,
        spec.optimizer(arm),
        hyperparameters,
        seed=seed,
        epochs=spec.budget.epochs,
        device=choose_device(spec.resources.gpu),
        folder=spec.folder,
        **spec.training.model_dump(exclude={"checkpoint_seconds", "num_workers"}),
    )


def _divergence(metrics: Mapping[str, float]) -> str:
    losses = ", ".join(f"{name} {value:g}" for name, value in metrics.items() if name.endswith("loss"))
    return f"diverged: {losses}"


def _failure(error: BaseException, folder: str | None = None) -> Failed:
    """Return the outcome of an error; the traceback starts in the user's own code, which is in `folder`."""
    trace = storable_text("".join(traceback.format_exception(type(error), error, _users_part(error, folder))))
    sys.stdout.flush()
    sys.stderr.write(trace)
    sys.stderr.flush()
    if isinstance(error, torch.OutOfMemoryError):
        # Without the sizes in its message, which differ from trial to trial: three for one reason pause the job.
        text = (
            "CUDA out of memory. Lower training.batch_size or the model's sizes, or let fewer trials share a GPU: "
            "each may use its share of the memory, resources.gpu. `anon-tune logs` shows the sizes."
        )
    elif type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        why = next(iter(_message(error).strip().splitlines()), "")
        text = f"torch.compile: {why} Leave out training.compile, or see `anon-tune logs`."
    else:
        message = _message(error)
        text = message if isinstance(error, AnonTuneError) else f"{type(error).__name__}: {message}"
    return Failed(text, trace)


def _message(error: BaseException) -> str:
    """Return an error's text, storable, also if the user's class cannot make it."""
    try:
        return storable_text(str(error))
    except Exception as second:  # noqa: BLE001 - `__str__` may raise anything
        return f"(no text, because its __str__ raised {type(second).__name__})"


def _users_part(error: BaseException, folder: str | None) -> TracebackType | None:
    """Return an error's traceback from the first frame of a file in `folder` on; all of it if there is none."""
    trace = error.__traceback__
    while folder is not None and trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).is_relative_to(folder):
            return trace
        trace = trace.tb_next
    return error.__traceback__
