"""Schedules of the learning rate, as factors over a whole training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

__all__ = ["SCHEDULES", "schedule_factor"]

_MILESTONES = (0.5, 0.75)  # as for CIFAR-10 in He et al. 2016
_DECAY = 0.1
_STABLE = 0.8  # Hu et al. 2024 (arXiv 2404.06395) decay over the last tenth to fifth


def _constant(_done: float) -> float:
    return 1.0


def _cosine(done: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _step(done: float) -> float:
    return float(_DECAY ** sum(done >= milestone for milestone in _MILESTONES))


def _wsd(done: float) -> float:
    return min(1.0, (1.0 - done) / (1.0 - _STABLE))


SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step": _step,
    "wsd": _wsd,
}
"""Schedules by name: the factor for the share of the training after the warm-up that is done, in [0, 1].

`cosine` goes to 0; `step` falls to a tenth at a half and again at three quarters; `wsd` (warmup, stable, decay) is
constant and goes to 0 in the last fifth.
"""


def schedule_factor(schedule: str, step: int, total: int, warmup: float = 0.0) -> float:
    """Return the factor of the learning rate at a step, from 0 to `total`.

    It rises linearly over the first share `warmup` of the steps, in [0, 1), and is above 0 from the first step on.
    """
    rising = int(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    return SCHEDULES[schedule](min(1.0, (step - rising) / max(1, total - rising)))
