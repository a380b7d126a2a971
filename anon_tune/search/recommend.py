"""Which configurations to recommend: not the luckiest of many noisy ones, nor one that nobody has been near.

What counts is a value that a configuration stays below with a probability of about 98%, by the arm's landscape. So a
good value on one seed raises hope for its neighbours, and what is far from all that was tried is not trusted.
docs/search.md has what it brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape

__all__ = ["ranked", "recommended"]


def ranked(landscape: Landscape) -> list[Trial]:
    """Return the COMPLETE search trials, best first: by value where the landscape is not known."""
    by_value = landscape.by_value
    if not landscape.is_known or len({trial.value for trial in by_value}) == 1:
        return by_value
    bounds = dict(zip((t.id for t in landscape.trials), landscape.bounds(), strict=True))
    smoothed = [trial for trial in by_value if trial.id in bounds]
    rest = [trial for trial in by_value if trial.id not in bounds]
    return sorted(smoothed, key=lambda trial: (bounds[trial.id], trial.number)) + rest


def recommended(landscape: Landscape) -> Mapping[str, Any] | None:
    """Return the coordinates that promise most, tried or not; None while too little is known.

    In a space with conditions too little is always known: the landscape has no place between two branches.
    """
    if landscape.space.is_conditional or not landscape.is_known:
        return None
    return landscape.lowest()
