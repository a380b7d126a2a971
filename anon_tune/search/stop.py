"""When an arm's search ends before its budget: `search.stop: decided`.

At fixed numbers of trials it is asked what the trials that are left would bring. They are not made where they are not
expected to lower the loss by `objective.practical`, and, for Anon, where the gammas that do well are those of the
check before. Both follow from the trials up to the lag, as suggestions do, so the same job ends at the same trial.
docs/search.md has what this saves and what it costs.
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
"""As many as `budget.trials` may be."""


def _checks() -> tuple[int, ...]:
    """Every four trials from 12 on, and from 40 on after a fifth more: with many trials a check takes seconds."""
    found = [12]
    while found[-1] < _MOST_TRIALS:
        found.append(found[-1] + (4 if found[-1] < 40 else found[-1] // 5))
    return tuple(found)


CHECKS = _checks()
"""Numbers of trials after which a search may end."""

_ALIKE = 0.5
"""Two sets of gammas are alike where so many of the gammas in either are in both."""


def is_decided(
    space: Space, trials: Sequence[Trial], number: int, most: int, lag: int, objective: Objective
) -> bool:
    """Return whether a search ends after `number` trials.

    In a space with conditions it never does: the landscape has no place between two branches.

    Args:
        space: What the arm searches.
        trials: Its search trials, in the order of their numbers; those below `number` - `lag` have ended.
        number: One of CHECKS.
        most: `budget.trials`.
        lag: How many trials before `number` are not looked at.
        objective: What they are judged by.
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
    """Return whether two landscapes have about the same gammas that do well.

    These cost less than `practical`, or less than one standard deviation between seeds where that is larger, each
    with a probability of one half or more.
    """
    margin = max(practical, landscape.noise)
    one, other = (_response(each).are_within(margin) for each in (earlier, landscape))
    return bool((one & other).sum() >= _ALIKE * (one | other).sum() > 0)


# A search that has ended is asked after as long as the job goes on.
@lru_cache(maxsize=64)
def _response(landscape: Landscape) -> Response:
    return Response(landscape.space.parameters["gamma"], landscape)


def forget() -> None:
    """Forget what was computed: of use to tests, as `landscape.forget`."""
    _response.cache_clear()
