"""Data of jobs for tests of charts."""

from __future__ import annotations

import dataclasses
import datetime
import math
from typing import Any

from anon_tune.dashboards.charts import ChartData
from anon_tune.records import FINISHED, JobRecord, JobState, Phase, Trial, TrialState
from tests import builders

__all__ = ["DIVERGED", "FEW", "anon", "data", "many", "record", "trial"]


def record(*trials: Trial, result: dict[str, Any] | None = None, **keys: Any) -> JobRecord:
    """A job with some trials; `keys` are of its spec."""
    spec = builders.spec(**keys).model_dump(mode="json")
    return JobRecord(
        "j", "a <job>", JobState.SUCCEEDED, Phase.VERDICT, spec, builders.EPOCH, result=result, trials=trials
    )


def data(*trials: Trial, result: dict[str, Any] | None = None, **keys: Any) -> ChartData:
    """The same as charts get it."""
    return ChartData.of_record(record(*trials, result=result, **keys))


def trial(
    number: int,
    value: float | None = None,
    state: TrialState = TrialState.COMPLETE,
    *,
    start: float = 0.0,
    seconds: float = 10.0,
    **keys: Any,
) -> Trial:
    """A trial that ran for some seconds from `start` on, in seconds after EPOCH."""
    made = builders.trial(number, state, value, **keys)
    moments = [builders.EPOCH + datetime.timedelta(seconds=each) for each in (start, start + seconds)]
    return dataclasses.replace(
        made,
        started=None if state is TrialState.WAITING else moments[0],
        finished=moments[1] if state in FINISHED else None,
        seconds=seconds,
        steps=len(made.reports),
    )


def anon(
    number: int,
    gamma: float,
    value: float | None = None,
    state: TrialState = TrialState.COMPLETE,
    *,
    step_size: float = 1.0,
    beta3: float = 0.5,
    delay: float = 2.0,
    **keys: Any,
) -> Trial:
    """A trial of Anon."""
    params = {"gamma": gamma, "step_size": step_size, "beta3": beta3, "delay": delay}
    arguments = {"gamma": gamma, "lr": step_size / 10, "betas": [0.9, 0.999, beta3], "delay": delay}
    return trial(number, value, state, params=params, hyperparameters=arguments, **keys)


FEW = (
    anon(0, 0.5, 0.3, curve=(0.9, 0.3), start=0, seconds=20),
    anon(1, -0.2, 0.1, curve=(0.8, 0.1), start=0, seconds=30, step_size=4.0, beta3=0.7, delay=3.0),
    anon(2, 1.5, None, TrialState.DIVERGED, curve=(0.9, math.nan), start=20),
    anon(3, 1.0, None, TrialState.PRUNED, curve=(0.7,), start=30),
    anon(4, 0.9, 0.2, curve=(0.5, 0.2), start=30),
    trial(0, 0.25, arm="adamw", params={"lr": 0.1}, hyperparameters={"lr": 0.1}, curve=(0.6, 0.25), start=40),
    anon(0, 0.5, 0.4, phase=Phase.CONFIRM, curve=(0.9, 0.4), start=50),
)
"""Six trials of a search in all the states that ended, and one of confirm."""

DIVERGED = tuple(
    anon(number, number / 4, None, TrialState.DIVERGED, curve=(0.9, math.inf), start=10 * number)
    for number in range(4)
)


def many(count: int = 5000) -> tuple[Trial, ...]:
    """As many trials as a large job has, a third of them of AdamW; some pruned, some diverged."""
    return tuple(_one_of_many(number) for number in range(count))


def _one_of_many(number: int) -> Trial:
    gamma = -0.5 + 2 * (number * 0.618 % 1)
    value = 0.2 + (gamma - 0.4) ** 2 + 0.3 * (number * 0.379 % 1)
    state = (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.DIVERGED)[number % 4]
    final = value if state is TrialState.COMPLETE else None
    curve = [value + 1 / epoch for epoch in range(1, 11 if final else 4)]
    keys: dict[str, Any] = {"curve": curve, "start": 5.0 * (number // 3), "seconds": 14.0}
    if number % 3 == 0:
        params = {"lr": 10 ** -(1 + 3 * (number * 0.71 % 1)), "weight_decay": 0.01}
        return trial(number, final, state, arm="adamw", params=params, hyperparameters=params, **keys)
    step_size = 10 ** (2 * (number * 0.27 % 1) - 1)
    return anon(
        number, gamma, final, state, step_size=step_size, beta3=0.3 + 0.6 * (number * 0.4 % 1), **keys
    )
