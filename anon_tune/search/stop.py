"""Early end of an arm's search: `search.stop: decided`.

At fixed numbers of trials a check estimates the gain of the remaining trials. The search ends if they are not
expected to lower the loss by `objective.practical` and, for Anon, if the good gammas are the same as at the previous
check. Both depend only on the trials up to the lag, as suggestions do, so the same job ends at the same trial.
docs/search.md has the savings and the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from anon_tune.records import Trial
from anon_tune.search.landscape import Landscape
from anon_tune.search.response import Response
from anon_tune.search.scale import Scale
from anon_tune.search_spaces import Space
from anon_tune.spec import Objective

__all__ = ["CHECKS", "is_decided"]

_MOST_TRIALS = 10_000
"""Upper limit of `budget.trials`."""


def _checks() -> tuple[int, ...]:
    """Return 12, 16, ..., 40, then steps of a fifth: with many trials a check takes seconds."""
    found = [12]
    while found[-1] < _MOST_TRIALS:
        found.append(found[-1] + (4 if found[-1] < 40 else found[-1] // 5))
    return tuple(found)


CHECKS = _checks()
"""Numbers of trials after which a search may end."""

_ALIKE = 0.5
"""Two sets of gammas are alike if their intersection is at least this share of their union."""


def is_decided(
    space: Space, trials: Sequence[Trial], number: int, most: int, lag: int, objective: Objective
) -> bool:
    """Return whether a search ends after `number` trials.

    In a space with conditions it never does, because there is no landscape between two branches.

    Args:
        space: The arm's search space.
        trials: Its search trials, in the order of their numbers; those below `number` - `lag` have ended.
        number: One of CHECKS.
        most: `budget.trials`.
        lag: How many trials before `number` are ignored.
        objective: The job's objective.
    """
    practical = Scale(objective).practical
    landscape = Landscape(space, trials[: max(0, number - lag)], objective)
    if practical is None or space.is_conditional or not landscape.is_known or landscape.is_level:
        return False
    if landscape.gain(most - number) >= practical:
        return False
    if space.optimizer != "anon" or "gamma" not in space.parameters:
        return True
    before = CHECKS[CHECKS.index(number) - 1] if number > CHECKS[0] else 0
    earlier = Landscape(space, trials[: max(0, before - lag)], objective)
    return earlier.is_known and _is_stable(earlier, landscape, practical)


def _is_stable(earlier: Landscape, landscape: Landscape, practical: float) -> bool:
    """Return whether the good gammas of two landscapes are about the same.

    A good gamma costs less than `practical`, or less than one standard deviation between seeds if that is larger,
    with a probability of one half or more.
    """
    margin = max(practical, landscape.noise)
    one, other = (_response(each).are_within(margin) for each in (earlier, landscape))
    return bool((one & other).sum() >= _ALIKE * (one | other).sum() > 0)


# A search that has ended is checked again as long as the job runs.
@lru_cache(maxsize=64)
def _response(landscape: Landscape) -> Response:
    return Response(landscape.space.parameters["gamma"], landscape)


def forget() -> None:
    """Clear the cache, as `landscape.forget` does; for tests."""
    _response.cache_clear()
