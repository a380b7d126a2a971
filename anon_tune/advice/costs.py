"""The cost of each arm of a job by phase: epochs, steps, samples and seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Literal

from anon_tune.answer import Spent
from anon_tune.records import Trial, TrialState

__all__ = ["spent"]

_PHASES: Sequence[Literal["search", "confirm", "verdict"]] = ("search", "confirm", "verdict")


def spent(trials: Sequence[Trial], arms: Sequence[str], probe: Mapping[str, Any]) -> Iterator[Spent]:
    """Yield the cost of each phase of each arm.

    Args:
        trials: All trials of a job, with their reports.
        arms: The arms, in the order to yield them.
        probe: Measurements of the probe; `steps_per_epoch` and `samples_per_epoch` are used if present.
    """
    for arm in arms:
        for phase in _PHASES:
            trained = [t for t in trials if t.arm == arm and t.phase == phase and t.reports]
            epochs = sum(t.reports[-1].step for t in trained)
            complete = [t.seconds for t in trained if t.state is TrialState.COMPLETE]
            yield Spent(
                arm=arm,
                phase=phase,
                trials=len(trained),
                epochs=epochs,
                steps=_times(epochs, probe.get("steps_per_epoch")),
                samples=_times(epochs, probe.get("samples_per_epoch")),
                seconds=sum(t.seconds for t in trained),
                typical=median(complete) if complete else None,
            )


def _times(epochs: int, each: float | None) -> int | None:
    return None if each is None else round(epochs * each)
