"""Contents of a job's page: its state, progress, answer and settings, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from anon_tune.answer import Answer, Comparison, Outcome, Winner
from anon_tune.documents import plain
from anon_tune.next_steps import next_steps
from anon_tune.records import ENDED, JobState, LearningCurve, TrialColumn
from anon_tune.search_spaces import Space
from anon_tune.sentences import (
    EXPLAINED,
    about_answer,
    about_compared,
    about_comparison,
    about_coordinates,
    about_cost,
    about_count,
    about_gamma,
    about_limits,
    about_runs,
    about_searches,
    about_settings,
    about_verdicts,
    cost_table,
    short,
    signed,
)
from anon_tune.spec import JobSpec, stored_spec
from anon_tune.views import JobView, TrialView

__all__ = [
    "TITLES",
    "Actions",
    "ArmFound",
    "Curve",
    "Found",
    "Progress",
    "Setup",
    "Table",
    "Totals",
    "VerdictRow",
    "about_state",
    "actions",
    "cells",
    "duration",
    "found",
    "learning_curve",
    "progress",
    "setup",
]

TITLES = {
    TrialColumn.ID: "trial",
    TrialColumn.ARM: "arm",
    TrialColumn.PHASE: "phase",
    TrialColumn.STATE: "state",
    TrialColumn.VALUE: "value",
    TrialColumn.GAMMA: "gamma",
    TrialColumn.LR: "lr",
    TrialColumn.STEP_SIZE: "step size",
    TrialColumn.BETA3: "beta3",
    TrialColumn.DELAY: "delay",
    TrialColumn.WEIGHT_DECAY: "decay",
    TrialColumn.STEPS: "done",
    TrialColumn.SECONDS: "seconds",
    TrialColumn.REASON: "reason",
}
"""Titles of the columns of a table of trials."""

_BETA3 = 2
"""Place of beta3 in Anon's betas."""


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    titles: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class ArmFound:
    """Best settings of an arm, and their results.

    Attributes:
        searched: Its search trials by state.
        settings: The settings; a dash if none was chosen.
        chosen: The objective by which they were chosen.
        test: The objective in the comparison.
    """

    arm: str
    searched: str
    settings: str
    chosen: float | None
    test: float | None


@dataclass(frozen=True)
class VerdictRow:
    """Anon against a baseline.

    Attributes:
        of: What is compared, in words.
        outcome: Result for Anon.
    """

    baseline: str
    of: str
    outcome: Outcome
    difference: str
    interval: str
    seeds: int


@dataclass(frozen=True)
class Found:
    """The answer of a job.

    Attributes:
        sentences: The answer in two sentences.
        is_old: Whether the job goes on, since its budget was raised.
        gamma: The recommended gamma, or None.
        interval: Interval of the best gamma, as text; None with too few trials.
        compared: What was compared, and how.
        about: Statements on gamma and on Anon's other coordinates.
        split: Data of the comparison: "test" or "validation".
        runs: Runs of the comparison, in words.
        limits: What it holds for.
        steps: What to do next, the most important first.
    """

    sentences: list[str]
    is_old: bool
    gamma: str | None
    interval: str | None
    compared: str
    about: list[str]
    verdict: list[VerdictRow]
    verdict_in_words: list[str]
    arms: list[ArmFound]
    metric: str
    split: str
    runs: str
    limits: list[str]
    steps: list[str]
    costs: Table | None
    costs_in_words: list[str]
    words: Mapping[str, str]


@dataclass(frozen=True)
class ArmProgress:
    """Progress of an arm; counts by state are texts such as "3 COMPLETE"."""

    arm: str
    made: int
    planned: int
    search: str
    reruns: str
    trained: str
    best: float | None
    gamma: float | None
    trial: str | None


@dataclass(frozen=True)
class Progress:
    """Progress of a job.

    Attributes:
        left: Estimated time left, as text; None if it cannot be estimated yet.
        spent: Time of work so far.
    """

    phase: str
    done: int
    planned: int
    unit: str
    spent: str
    left: str | None
    arms: list[ArmProgress]


@dataclass(frozen=True)
class Totals:
    """Totals of a job's budget now: search trials of each arm, time of work as text, and verdict seeds."""

    trials: int
    time: str | None
    seeds: int


@dataclass(frozen=True)
class Actions:
    """Requests that make sense in the state of a job.

    Attributes:
        totals: Totals that `extend` can raise.
        export: Arms whose best configuration can be exported.
    """

    pause: bool
    resume: bool
    cancel: bool
    extend: bool
    delete: bool
    totals: Totals
    export: list[str]


@dataclass(frozen=True)
class Setup:
    """Settings of a job.

    Attributes:
        spec: The job file with all defaults, as YAML.
        spaces: Ranges of each arm.
        architecture: Facts on the model.
        probe: Measurements before the first trial.
        notes: Possible mistakes in the user's code.
    """

    spec: str
    spaces: dict[str, Table]
    architecture: dict[str, str]
    probe: dict[str, str]
    notes: list[str]


@dataclass(frozen=True)
class Curve:
    """A small learning curve, for a picture of 100 by 30.

    Attributes:
        lines: Points of its lines, which are broken where a value was not finite.
        first: Its first step.
        last: Its last step.
    """

    lines: list[str]
    first: int
    last: int
    lowest: float
    highest: float


def about_state(job: JobView) -> Iterator[str]:
    """Yield sentences on the state of a job without an answer: the reason, and how to go on."""
    if job.requested is not None:
        yield f"{job.requested.capitalize()} requested; the worker will act on it within seconds."
    elif job.is_abandoned:
        yield "No process is running this job; the last one has exited. Resume it to queue it for a worker."
    elif job.state is JobState.PAUSED:
        yield f"Paused: {job.reason or 'no reason was given'}."
        yield "Nothing is lost: resume it to queue it for a worker."
    elif job.state is JobState.CANCELLED:
        yield f"Cancelled: {job.reason or 'no reason was given'}. Its trials so far are kept."
    elif job.state is JobState.FAILED:
        yield job.reason or "The log has the reason."
        yield "Fix the cause, then submit the job again. A FAILED job cannot be resumed."
    elif job.result is None and job.reason:
        yield job.reason


def actions(job: JobView) -> Actions:
    """Return the requests that make sense in the state of a job."""
    is_live = job.state not in ENDED
    may_resume = job.state is JobState.PAUSED or job.is_abandoned
    return Actions(
        pause=is_live and job.state is not JobState.PAUSED and job.requested is None,
        resume=may_resume,
        cancel=is_live and job.requested != "cancel",
        extend=job.state not in {JobState.FAILED, JobState.CANCELLED},
        delete=job.state is not JobState.RUNNING,
        totals=_totals(stored_spec(job.spec)),
        export=list(job.winners),
    )


def _totals(spec: JobSpec) -> Totals:
    budget = spec.budget
    return Totals(
        trials=budget.trials,
        time=None if budget.time is None else duration(budget.time),
        seeds=spec.confirm.verdict_seeds + sum(budget.more_seeds),
    )


def progress(job: JobView) -> Progress:
    """Return the progress of a job."""
    trials = max(0, job.planned - job.done)
    left = None
    if job.state is JobState.RUNNING and job.done and job.seconds:
        left = duration(job.seconds / job.done * trials)
    return Progress(
        phase=job.phase.value,
        done=job.done,
        planned=job.planned,
        unit=job.unit,
        spent=duration(job.seconds),
        left=left,
        arms=[
            ArmProgress(
                arm=arm,
                made=sum(seen.trials.values()),
                planned=seen.planned,
                search=_counts(seen.trials),
                reruns=_counts(seen.reruns),
                trained=f"{seen.trained:,}",
                best=None if seen.best is None else seen.best.value,
                gamma=None if seen.best is None else seen.best.params.get("gamma"),
                trial=None if seen.best is None else seen.best.trial,
            )
            for arm, seen in job.arms.items()
        ],
    )


def _counts(states: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {state.value}" for state, count in states.items()) or "-"


def duration(seconds: float) -> str:
    """Return a length of time in its largest two units: "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    hours, minutes = divmod(round(whole / 60), 60)
    if not hours:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"


def found(job: JobView) -> Found | None:
    """Return the answer of a job; None before it has one."""
    answer = job.result
    if answer is None:
        return None
    spec = stored_spec(job.spec)
    gamma, metric = answer.gamma, spec.objective.metric
    interval = None
    if gamma.low is not None and gamma.high is not None:
        interval = f"{gamma.low:.2f} to {gamma.high:.2f}"
    costs = cost_table(answer) if answer.spent else None
    return Found(
        sentences=list(about_answer(answer)),
        is_old=job.state not in ENDED,
        gamma=None if gamma.best is None else f"{gamma.best:.2f}",
        interval=interval,
        compared=about_comparison(answer, spec),
        about=[
            f"{said[0].upper()}{said[1:]}."
            for said in (*about_gamma(answer), *about_coordinates(answer), *about_searches(answer, spec))
        ],
        verdict=[_verdict_row(each, answer) for each in answer.verdict],
        verdict_in_words=list(about_verdicts(answer, spec)),
        arms=[
            _arm_found(arm, _counts(seen.trials), answer.winners.get(arm)) for arm, seen in job.arms.items()
        ],
        metric=metric,
        split="test" if answer.tested else "validation",
        runs=about_runs(spec),
        limits=list(about_limits(answer, spec)),
        steps=list(next_steps(answer, spec, job.id)) if job.state in ENDED else [],
        costs=None if costs is None else Table(costs[0], costs[1:]),
        costs_in_words=list(about_cost(answer)),
        words=EXPLAINED,
    )


def _arm_found(arm: str, searched: str, won: Winner | None) -> ArmFound:
    if won is None:
        return ArmFound(arm, searched, "-", None, None)
    settings = about_settings(won.hyperparameters).replace("  ", ", ")
    return ArmFound(arm, searched, settings, won.confirm.mean, won.test.mean)


def _verdict_row(each: Comparison, answer: Answer) -> VerdictRow:
    between = "-"
    if each.low is not None and each.high is not None:
        between = f"{signed(each.low, answer)} to {signed(each.high, answer)}"
    return VerdictRow(
        baseline=each.baseline,
        of=about_compared(each),
        outcome=each.outcome,
        difference="-" if each.difference is None else signed(each.difference, answer),
        interval=between,
        seeds=each.seeds,
    )


def setup(job: JobView, spaces: Mapping[str, Space]) -> Setup:
    """Return the settings of a job."""
    model = job.architecture
    architecture = {} if model is None else {"family": model.family, "parameters": f"{model.parameters:,}"}
    if model is not None:
        architecture |= {
            f"in {kind}": f"{share:.0%} of the parameters"
            for kind, share in model.share.items()
            if share >= 0.005
        }
    return Setup(
        spec=yaml.safe_dump(plain(job.spec), sort_keys=False, allow_unicode=True),
        spaces={arm: _space_table(space) for arm, space in spaces.items()},
        architecture=architecture,
        probe=dict(_probe(job)),
        notes=[] if job.probe is None else job.probe.notes,
    )


def _space_table(space: Space) -> Table:
    rows = [
        [name, domain.text, f"where {domain.condition}" if domain.when else "searched"]
        for name, domain in space.parameters.items()
    ]
    rows += [[name, short(space.constant(name)), "fixed"] for name in space.fixed]
    return Table(["argument", "values", ""], rows)


def _probe(job: JobView) -> Iterator[tuple[str, str]]:
    seen = job.probe
    if seen is None:
        return
    if seen.device is not None:
        yield "device", seen.device
    if seen.seconds_per_step is not None:
        yield "time of a step", f"{1000 * seen.seconds_per_step:.3g} ms"
    if seen.steps_per_epoch is not None:
        yield "steps per epoch", f"{seen.steps_per_epoch:,.4g}"
    if seen.samples_per_epoch is not None:
        yield "samples per epoch", about_count(seen.samples_per_epoch)
    if seen.log_mean_sigma is not None:
        yield "scale of the gradients (natural logarithm)", f"{seen.log_mean_sigma:.3g}"
    if seen.peak_memory_bytes is not None and seen.device_memory_bytes is not None:
        gib = f"{seen.peak_memory_bytes / 2**30:.2g} of {seen.device_memory_bytes / 2**30:.3g} GiB"
        yield "GPU memory of a trial", gib


def cells(trial: TrialView) -> dict[TrialColumn, str]:
    """Return the texts of a trial in a table."""
    given = trial.hyperparameters
    betas = given.get("betas", ())
    beta3 = betas[_BETA3] if isinstance(betas, list | tuple) and len(betas) > _BETA3 else None
    return {
        TrialColumn.ID: trial.id,
        TrialColumn.ARM: trial.arm,
        TrialColumn.PHASE: trial.phase.value,
        TrialColumn.STATE: trial.state.value,
        TrialColumn.VALUE: _text(trial.value),
        TrialColumn.GAMMA: _text(given.get("gamma")),
        TrialColumn.LR: _text(given.get("lr")),
        TrialColumn.STEP_SIZE: _text(trial.params.get("step_size")),
        TrialColumn.BETA3: _text(beta3),
        TrialColumn.DELAY: _text(given.get("delay")),
        TrialColumn.WEIGHT_DECAY: _text(given.get("weight_decay")),
        TrialColumn.STEPS: f"{trial.steps:,}",
        TrialColumn.SECONDS: f"{trial.seconds:,.1f}",
        TrialColumn.REASON: trial.reason or "",
    }


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def learning_curve(found: LearningCurve | None) -> Curve | None:
    """Return a small picture of a learning curve; None if none of its values was finite."""
    seen = [] if found is None else [value for value in found.values if value is not None]
    if found is None or not seen:
        return None
    first, last, lowest, highest = found.steps[0], found.steps[-1], min(seen), max(seen)
    lines: list[list[str]] = [[]]
    for step, value in zip(found.steps, found.values, strict=True):
        if value is None:
            lines.append([])
            continue
        x = 100 * (step - first) / max(1, last - first)
        y = 30 * (highest - value) / (highest - lowest or 1.0)
        lines[-1].append(f"{x:.1f},{y:.1f}")
    return Curve([" ".join(line) for line in lines if line], first, last, lowest, highest)
