"""The lag: which trials a suggestion learns from, so that it does not depend on how fast they end.

Trial n of an arm learns from the arm's trials up to n - 1 - lag, all of which must have ended. Later ones count as
RUNNING, whether or not they have ended. So the same job makes the same trials on any machine, with any number of
slots, after any kill. docs/search.md has the simulations behind the default lag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from anon_tune.records import Trial, TrialState

__all__ = ["as_known", "may_start"]


def may_start(trials: Iterable[Trial], number: int, lag: int) -> bool:
    """Return whether all trials that suggestion `number` learns from have ended.

    Args:
        trials: The arm's search trials, in any order; ended trials may be omitted.
        number: The number of the trial to be suggested.
        lag: How many trials before it may still be running.
    """
    return all(trial.is_finished or trial.number >= number - lag for trial in trials)


def as_known(trials: Sequence[Trial], number: int, lag: int) -> list[Trial]:
    """Return the trials for suggestion `number`: those within the lag as RUNNING, without reports.

    Args:
        trials: The arm's search trials before `number`, in the order of their numbers.
        number: The number of the trial to be suggested.
        lag: How many trials before it the suggestion does not learn from.
    """
    known = max(0, number - lag)
    hidden = [
        dataclasses.replace(trial, state=TrialState.RUNNING, value=None, reports=(), steps=0)
        for trial in trials[known:]
    ]
    return [*trials[:known], *hidden]
