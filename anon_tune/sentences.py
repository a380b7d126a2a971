"""A job's answer in sentences: what was found, how sure it is, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from anon_tune.answer import Answer, Comparison, Cost, Outcome

__all__ = ["about_gamma", "about_verdicts", "amount", "explained", "signed"]

EXPLAINED = {
    "gamma": "how adaptive the step is: 0 as SGD, 1 as Adam",
    "beta3": "how much of the old preconditioner stays at a refresh",
    "delay": "growth of the time between two refreshes (2: at steps 1, 2, 4, 8, ...)",
    "floor": "share of a tensor's mean below which no second moment counts",
}
"""Hyperparameters that are Anon's own, a line each."""

_QUIET = 2.0
"""Seeds are quiet where they differ by less than so many times the difference that matters."""

_MANY_SEEDS = 1000
"""More than so many nobody will run."""

_MORE = 3
"""So many times the trials would say more: at 60 the intervals are about half as wide as at 20."""


def about_gamma(answer: Answer) -> Iterator[str]:
    """Yield which gammas do well, the statement with the most evidence first."""
    gamma = answer.gamma
    best = (
        "no configuration of Anon came through"
        if gamma.best is None
        else f"recommended gamma: {gamma.best:.2f}"
    )
    if gamma.low is None or gamma.high is None:
        yield f"{best} ({gamma.note})"
        return
    if not gamma.enough:
        yield (
            f"{best}; not enough evidence on how good others are: the best lies between {gamma.low:.2f} and "
            f"{gamma.high:.2f} ({gamma.level:.0%}), most of what was searched. So much say {gamma.trials} trials; "
            f"{_MORE * gamma.trials} would say more"
        )
        return
    yield from _supported(answer)
    if gamma.best is not None:
        yield f"{best}; the best lies between {gamma.low:.2f} and {gamma.high:.2f} ({gamma.level:.0%})"
    if gamma.costs:
        yield "; ".join(_cost(each, answer) for each in gamma.costs)


def about_verdicts(answer: Answer, metric: str, trials: int) -> Iterator[str]:
    """Yield a sentence for each verdict.

    Args:
        answer: Of the job.
        metric: Its objective.
        trials: Of each arm's search.
    """
    for each in answer.verdict:
        if each.of == "configuration":
            said = _configurations(each, answer, metric)
        else:
            said = _optimizers(each, answer, trials)
        yield f"{said} ({each.note})." if each.note else f"{said}."


def explained(names: Sequence[str]) -> Iterator[str]:
    """Yield what hyperparameters of Anon mean, a line each."""
    for name in names:
        if name in EXPLAINED:
            yield f"{name}: {EXPLAINED[name]}"


def amount(value: float, answer: Answer) -> str:
    """A difference without its sign: "3.1%", or a number on the linear scale."""
    if answer.scale == "linear":
        return f"{abs(value):.3g}"
    share = 100 * abs(value)
    return f"{share:.2g}%" if share < 10 else f"{share:.0f}%"


def signed(value: float, answer: Answer) -> str:
    """A difference with its sign: "-9.1%"."""
    return f"{'-' if value < 0 else '+'}{amount(value, answer)}"


def _supported(answer: Answer) -> Iterator[str]:
    gamma = answer.gamma
    practical, deviation = gamma.practical, gamma.deviation or 0.0
    quiet = practical is not None and deviation <= _QUIET * practical
    if quiet and practical is not None and gamma.flat:
        yield f"gamma {_ranges(gamma.flat)} costs less than {amount(practical, answer)}"
        return
    if not gamma.indistinguishable:
        return
    runs = ""
    if practical is not None:
        count = math.ceil((deviation / practical) ** 2)
        runs = f"; a margin of {amount(practical, answer)} would take about {_rounded(count)} runs of each"
    yield (
        f"gamma {_ranges(gamma.indistinguishable)}: one run cannot tell these apart (seeds differ by "
        f"{amount(deviation, answer)}{runs})"
    )


def _cost(each: Cost, answer: Answer) -> str:
    return (
        f"gamma {each.gamma:g} costs {amount(each.cost, answer)} "
        f"({amount(each.low, answer)} to {amount(each.high, answer)})"
    )


def _configurations(each: Comparison, answer: Answer, metric: str) -> str:
    pair = f"this configuration of Anon and this one of {each.baseline}"
    measured = _measured(each, answer, metric)
    match each.outcome:
        case Outcome.BETTER:
            return f"This configuration of Anon beats this one of {each.baseline}: {measured}"
        case Outcome.WORSE:
            return f"This configuration of Anon is worse than this one of {each.baseline}: {measured}"
        case Outcome.EQUAL:
            return f"{pair[0].upper()}{pair[1:]} are practically equal: {measured}"
    said = f"Undecided between {pair}"
    if each.low is None or each.detectable is None:
        return said
    needed, more = each.seeds_needed, "More seeds will hardly help"
    if needed is not None and needed <= _MANY_SEEDS:
        more = f"About {_rounded(needed)} seeds would decide it"
    return (
        f"{said}: {measured}. A difference of {amount(each.detectable, answer)} would have been seen. {more}"
    )


def _optimizers(each: Comparison, answer: Answer, trials: int) -> str:
    tuned = f"tuned with {trials} trials each"
    match each.outcome:
        case Outcome.BETTER:
            said = f"Anon beats {each.baseline}, {tuned}"
        case Outcome.WORSE:
            said = f"Anon is worse than {each.baseline}, {tuned}"
        case Outcome.EQUAL:
            said = f"Anon and {each.baseline} are practically equal, {tuned}"
        case _:
            said = f"Whether Anon beats {each.baseline}, {tuned}, is undecided"
    if each.low is None or each.high is None:
        return said
    span = f"{signed(each.low, answer)} to {signed(each.high, answer)}"
    return f"{said}: {span} with the luck of the search"


def _measured(each: Comparison, answer: Answer, metric: str) -> str:
    if each.difference is None:
        return "nothing could be compared"
    split = "test" if answer.tested else "validation"
    what = f"{split} error (1 - {metric})" if answer.scale == "log_error" else f"{split} {metric}"
    worse, better = ("worse", "better") if answer.scale == "linear" else ("higher", "lower")
    said = f"{what} {amount(each.difference, answer)} {better if each.difference < 0 else worse}"
    if each.low is None or each.high is None:
        return said
    return f"{said} ({signed(each.low, answer)} to {signed(each.high, answer)}, {each.seeds} seeds)"


def _ranges(ranges: Sequence[tuple[float, float]]) -> str:
    return " and ".join(f"{low:.2f} to {high:.2f}" if high > low else f"{low:.2f}" for low, high in ranges)


def _rounded(count: int) -> int:
    """To one significant digit from 20 on: more would promise too much."""
    if count < 20:
        return count
    digit = int(10 ** (len(str(count)) - 1))
    return (2 * count + digit) // (2 * digit) * digit
