"""Choice of the configurations to recommend: neither the luckiest of many noisy ones, nor an untested outlier.

Configurations are ranked by an upper bound of their value, which holds with a probability of about 98% by the arm's
landscape. So a good value on one seed also counts for its neighbours, and a point far from all tried ones ranks low.
docs/search.md has the benefit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape

__all__ = ["ranked", "recommended"]


def ranked(landscape: Landscape) -> list[Trial]:
    """Return the COMPLETE search trials, best first; by value if there is no landscape."""
    by_value = landscape.by_value
    if not landscape.is_known or len({trial.value for trial in by_value}) == 1:
        return by_value
    bounds = dict(zip((t.id for t in landscape.trials), landscape.bounds(), strict=True))
    smoothed = [trial for trial in by_value if trial.id in bounds]
    rest = [trial for trial in by_value if trial.id not in bounds]
    return sorted(smoothed, key=lambda trial: (bounds[trial.id], trial.number)) + rest


def recommended(landscape: Landscape) -> Mapping[str, Any] | None:
    """Return the most promising coordinates, tried or not; None without a landscape.

    A space with conditions has no landscape, because there are no points between two branches.
    """
    if landscape.space.is_conditional or not landscape.is_known:
        return None
    return landscape.lowest()
