"""Short ways to make the records that the pure layers are tested on."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from anon_tune.records import FINISHED, NewTrial, Phase, Report, Trial, TrialState
from anon_tune.spec import JobSpec, parse_spec

EPOCH = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def spec(**keys: Any) -> JobSpec:
    """A small valid job with some keys changed."""
    plain = {
        "name": "a job",
        "task": "image_classification",
        "data": "digits",
        "model": "mlp",
        "budget": {"trials": 4, "epochs": 9},
    }
    return parse_spec({**plain, **keys})


def reports(values: Sequence[float], *, first_step: int = 1) -> tuple[Report, ...]:
    """Reports of consecutive steps."""
    return tuple(Report(step, value, {}, EPOCH) for step, value in enumerate(values, first_step))


def trial(
    number: int = 0,
    state: TrialState = TrialState.COMPLETE,
    value: float | None = None,
    *,
    arm: str = "anon",
    phase: Phase = Phase.SEARCH,
    seed: int | None = None,
    params: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    source: str | None = None,
    curve: Sequence[float] = (),
    reason: str | None = None,
    ended: float | None = None,
    repeat: int = 0,
) -> Trial:
    """A trial; `ended` is when, in seconds after EPOCH."""
    finished = EPOCH + datetime.timedelta(seconds=number if ended is None else ended)
    return Trial(
        id=NewTrial(arm, phase, number, 0, {}, {}, repeat=repeat).id_in("j"),
        job="j",
        arm=arm,
        repeat=repeat,
        phase=phase,
        number=number,
        seed=number if seed is None else seed,
        state=state,
        params=params or {},
        hyperparameters=hyperparameters or {},
        source=source,
        value=value,
        reason=reason,
        attempts=1,
        reports=reports(curve),
        finished=finished if state in FINISHED else None,
    )


def begun(new: NewTrial, state: TrialState = TrialState.RUNNING) -> Trial:
    """The trial that the ledger makes of a new one."""
    return Trial(
        new.id_in("j"),
        "j",
        new.arm,
        new.phase,
        new.number,
        new.seed,
        state,
        new.params,
        new.hyperparameters,
        new.source,
        attempts=1,
        repeat=new.repeat,
    )
