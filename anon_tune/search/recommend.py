"""Which configurations to recommend: not the luckiest of many noisy ones, nor one that nobody has been near.

What counts is a value that a configuration stays below with a probability of about 98%, by the arm's landscape. So a
good value on one seed raises hope for its neighbours, and what is far from all that was tried is not trusted.
docs/search.md has what it brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anon_tune.records import Trial, TrialState
from anon_tune.search.forecast import Forecast
from anon_tune.search.landscape import Landscape
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective

__all__ = ["ranked", "recommended"]


def ranked(space: Space, trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """COMPLETE trials of one arm, best first.

    Args:
        space: What the arm searches.
        trials: The arm's search trials; those that did not complete are left out.
        objective: What they are judged by.
    """
    found = [t for t in trials if t.state is TrialState.COMPLETE and t.value is not None]
    scaled = Forecast(space, found, objective).scaled
    by_value = sorted(
        found, key=lambda trial: (scaled(trial.value) if trial.value is not None else 0.0, trial.number)
    )
    landscape = Landscape(space, trials, objective)
    if not landscape.is_known or len({trial.value for trial in found}) == 1:
        return by_value
    bounds = dict(zip((t.id for t in landscape.trials), landscape.bounds(), strict=True))
    smoothed = [trial for trial in by_value if trial.id in bounds]
    rest = [trial for trial in by_value if trial.id not in bounds]
    return sorted(smoothed, key=lambda trial: (bounds[trial.id], trial.number)) + rest


def recommended(space: Space, trials: Sequence[Trial], objective: Objective) -> Mapping[str, Any] | None:
    """Return the coordinates that promise most, tried or not; None while too little is known.

    Args:
        space: What the arm searches.
        trials: The arm's search trials.
        objective: What they are judged by.
    """
    landscape = Landscape(space, trials, objective)
    if space.is_conditional or not landscape.is_known:
        return None
    return landscape.lowest()
