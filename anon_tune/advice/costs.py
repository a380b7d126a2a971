"""The cost of each arm of a job by phase: epochs, steps, samples and seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Literal

from anon_tune.answer import Spent
from anon_tune.records import OPTIMIZER_STEPS, Trial, TrialState
from anon_tune.spec import Unit

__all__ = ["spent"]

_PHASES: Sequence[Literal["search", "confirm", "verdict"]] = ("search", "confirm", "verdict")


def spent(
    trials: Sequence[Trial], arms: Sequence[str], probe: Mapping[str, Any], unit: Unit = "epoch"
) -> Iterator[Spent]:
    """Yield the cost of each phase of each arm.

    Args:
        trials: All trials of a job, with their reports.
        arms: The arms, in the order to yield them.
        probe: Measurements of the probe; `steps_per_epoch` and `samples_per_epoch` are used if present.
        unit: The unit of the job's budget.
    """
    each = 1.0 if unit == "step" else probe.get("steps_per_epoch")
    for arm in arms:
        for phase in _PHASES:
            trained = [t for t in trials if t.arm == arm and t.phase == phase and t.reports]
            epochs = sum(t.reports[-1].step for t in trained) if unit == "epoch" else None
            steps = [_optimizer_steps(trial, each) for trial in trained]
            complete = [t.seconds for t in trained if t.state is TrialState.COMPLETE]
            yield Spent(
                arm=arm,
                phase=phase,
                trials=len(trained),
                epochs=epochs,
                steps=None if None in steps else round(sum(filter(None, steps))),
                samples=_times(epochs, probe.get("samples_per_epoch")),
                seconds=sum(t.seconds for t in trained),
                typical=median(complete) if complete else None,
            )


def _optimizer_steps(trial: Trial, each: float | None) -> float | None:
    """Return the optimizer steps of a trial: as its process counted them, or `each` per epoch or step done.

    They are not counted for our own tasks, by earlier versions, and where `step` is never called (CUDA graphs).
    """
    counts = [report.metrics.get(OPTIMIZER_STEPS) for report in trial.reports]
    known = [count for count in counts if count is not None]
    if len(known) == len(counts) and sum(known) > 0:
        return sum(known)
    return None if each is None else trial.reports[-1].step * each


def _times(epochs: int | None, each: float | None) -> int | None:
    return None if epochs is None or each is None else round(epochs * each)
