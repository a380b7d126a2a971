"""Comparison of the two runs of a check-up of user code. Needs neither torch nor Ray."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

from anon_tune.spec import JobSpec
from anon_tune.workers.trial.messages import (
    CheckUpRun,
    Failed,
    GroupRates,
    OptimizerRun,
    ProbeAssignment,
    ProbeResult,
)

__all__ = ["MOST_STEPS", "compared", "following"]

MOST_STEPS = 100
"""Steps after which the first run of the check-up ends without a report.

It suffices for a report after each of the short epochs of a small data set. A trial with longer epochs makes at least
as many steps, so that the check-up takes at most two of its epochs.
"""

_FEWEST_STEPS = 4
"""Steps of the second run if the first had no report to compare with."""

_TOLERANCE = 1e-4
"""Gradients differ if a sketch of them does by this share of their norm: less may be rounding, as on GPUs."""

_CHANCE = 500
"""Accuracies that are fractions with at most this denominator may be equal by chance."""

_ROUNDING = 2e-7
"""Relative rounding error of a share in single precision."""


class _Source(enum.Enum):
    """Source of a param group's learning rate."""

    TRIAL = enum.auto()
    TRAINING = enum.auto()
    SAME = enum.auto()
    """A scheduler knows the trial's rate, and the rate was the same in both runs nevertheless."""
    ZERO = enum.auto()


def following(assignment: ProbeAssignment, first: CheckUpRun) -> ProbeAssignment:
    """Return the assignment of the second run: without a report of the first one it is short."""
    return (
        assignment if first.value is not None else dataclasses.replace(assignment, most_steps=_FEWEST_STEPS)
    )


def compared(first: CheckUpRun, second: CheckUpRun, spec: JobSpec) -> ProbeResult | Failed:
    """Return the probe's result from the runs of the check-up, or the mistake that makes the job worthless.

    Args:
        first: The run with the first seed and learning rate.
        second: The run with the others.
        spec: The job.
    """
    trial = "context" if spec.command is None else "trial"
    seedless = _is_same(first, second)
    if seedless and spec.seeds != "fixed":
        return _mistake(
            "the seed has no effect: two seeds gave the same weights and gradients. If the training sets a seed, "
            f"use the trial's: torch.manual_seed({trial}.seed). If the training must be the same each time, write "
            "`seeds: fixed` in the job file; the job then makes no statement about seeds"
        )
    pairs = [
        pair
        for one, other in _stepped(first, second)
        for pair in zip(one.groups, other.groups, strict=False)  # the number may depend on the seed
    ]
    sources = [_source(*pair) for pair in pairs]
    if sources and all(source is _Source.TRAINING for source in sources):
        rate = next(rate for rate in reversed(pairs[0][0].used) if rate)
        return _mistake(
            f"the learning rate has no effect: the training sets its own ({rate:g}). If it writes the rate, use the "
            f"trial's: group['lr'] = {trial}.lr * factor, where the factor is 1 at the peak of the schedule. A "
            f"scheduler with a rate of its own takes the trial's as max_lr={trial}.lr. In param groups, replace `lr` "
            "by `lr_scale`, a multiple of the trial's rate"
        )
    notes = [*first.notes, *_about_rates(sources), *_about_objective(first, second, spec)]
    if spec.seeds == "fixed" and not seedless:
        notes.append(
            "the job file says `seeds: fixed`, but two seeds gave different gradients. Remove that key to compare "
            "the optimizers on several seeds"
        )
    return dataclasses.replace(first.probe, notes=tuple(notes))


def _stepped(first: CheckUpRun, second: CheckUpRun) -> list[tuple[OptimizerRun, OptimizerRun]]:
    """Return the optimizers that made a step in both runs."""
    pairs = zip(first.optimizers, second.optimizers, strict=False)
    return [(one, other) for one, other in pairs if one.groups and other.groups]


def _is_same(first: CheckUpRun, second: CheckUpRun) -> bool:
    """Return whether two seeds gave the same weights, gradients and objective."""
    if len(first.optimizers) != len(second.optimizers):
        return False
    if first.value is not None and second.value is not None and not _is_close(first.value, second.value):
        return False
    return all(
        one.weights == other.weights
        and all(
            math.dist(a, b) <= _TOLERANCE * max(a[0], b[0])
            for a, b in zip(one.gradients, other.gradients, strict=False)
        )
        for one, other in _stepped(first, second)
    )


def _has_same_weights(first: CheckUpRun, second: CheckUpRun) -> bool:
    return all(one.weights == other.weights for one, other in _stepped(first, second))


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE)


def _source(one: GroupRates, other: GroupRates) -> _Source:
    """Return the source of the learning rate of a group, from two runs with different rates.

    The first step may have the trial's rate though the training then sets its own. A warm-up may begin at 0.
    """
    same = [a == b for a, b in zip(one.used, other.used, strict=False) if a != 0 or b != 0]
    is_scheduled = one.base != other.base
    if not same:
        return _Source.TRIAL if is_scheduled else _Source.ZERO
    if not all(same[1:] or same):
        return _Source.TRIAL
    return _Source.SAME if is_scheduled else _Source.TRAINING


def _about_rates(sources: Sequence[_Source]) -> Iterator[str]:
    count = sources.count(_Source.TRAINING)
    if count:
        yield (
            f"{count} of {len(sources)} param groups have a learning rate of their own, which the search does not "
            "change. Replace `lr` by `lr_scale`, a multiple of the trial's rate, to change all together"
        )
    if _Source.ZERO in sources:
        yield (
            "a learning rate was 0 in all steps of the check-up, so it is not known whether the trial's has an "
            "effect"
        )
    if _Source.SAME in sources:
        yield (
            "two learning rates had the same effect in the steps of the check-up. This is right if a warm-up begins "
            "at a rate of its own; otherwise the training overwrites the trial's rate"
        )


def _about_objective(first: CheckUpRun, second: CheckUpRun, spec: JobSpec) -> Iterator[str]:
    value, metric = first.value, spec.objective.metric
    if value is None:
        yield f"no report came in the first {MOST_STEPS} steps, so {metric} is not checked yet"
    elif value == second.value and not _has_same_weights(first, second):
        if spec.objective.mode == "max" and _may_be_chance(value):
            return
        yield f"{metric} was {value:g} for two different models. Check that it is not constant"


def _may_be_chance(value: float) -> bool:
    """Return whether a value may be a share of few examples, or a percentage, which two models may have in common."""
    shares = (value, value / 100)
    return any(
        0 <= share <= 1 and math.isclose(Fraction(share).limit_denominator(_CHANCE), share, rel_tol=_ROUNDING)
        for share in shares
    )


def _mistake(reason: str) -> Failed:
    return Failed(reason, reason)
