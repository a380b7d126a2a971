"""A job's answer in sentences: what was found, how sure it is, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from anon_tune.answer import Answer, Comparison, Cost, Outcome

__all__ = ["EXPLAINED", "about_gamma", "about_verdicts", "amount", "signed"]

EXPLAINED = {
    "gamma": "0 steps as SGD, 1 as Adam; below 0 steps are larger where gradients are large",
    "beta3": "the third of betas: share of the old preconditioner (the scaling of steps) kept at a refresh",
    "delay": "each refresh comes at this multiple of the step of the one before (2: steps 1, 2, 4, 8, ...)",
    "floor": "second moments are raised by this share of their tensor's mean",
}
"""Hyperparameters that are Anon's own, a line each."""

_QUIET = 2.0
"""Seeds are quiet where they differ by less than so many times the difference that matters."""

_POWER = 16
"""Runs of each of two for a power of 80%, in units of the squared ratio of deviation and difference."""

_MANY_SEEDS = 1000
"""More than so many nobody will run."""

_MORE = 3
"""So many times the trials would say more: at 60 the intervals are about half as wide as at 20."""


def about_gamma(answer: Answer) -> Iterator[str]:
    """Yield which gammas do well, the statement with the most evidence first."""
    gamma = answer.gamma
    none = "no configuration of Anon came through"
    best = none if gamma.best is None else f"recommended gamma {gamma.best:.2f}"
    if gamma.low is None or gamma.high is None:
        yield f"{best} ({gamma.note})"
        return
    between = f"the best gamma is between {gamma.low:.2f} and {gamma.high:.2f} ({gamma.level:.0%} interval)"
    if not gamma.enough:
        yield f"{best}; not enough evidence on others: {between}, most of what was searched"
        yield f"{_MORE * gamma.trials} trials would say more than these {gamma.trials}"
        return
    yield from _supported(answer)
    yield f"{between}; {best}"
    if gamma.costs:
        costs = "; ".join(_cost(each, answer) for each in gamma.costs)
        yield f"with all else tuned, {costs} ({gamma.level:.0%} intervals)"


def about_verdicts(answer: Answer, metric: str, trials: int) -> Iterator[str]:
    """Yield a sentence for each verdict, and one for all where none is decided.

    Args:
        answer: Of the job.
        metric: Its objective.
        trials: Of each arm's search.
    """
    undecided = [each.baseline for each in answer.of("configuration") if each.outcome is Outcome.UNDECIDED]
    if undecided and len(undecided) == len(answer.of("configuration")):
        yield f"Nothing here says that Anon is better or worse than {' or '.join(undecided)}."
    for each in answer.verdict:
        if each.of == "configuration":
            said = _configurations(each, answer, metric)
        else:
            said = _optimizers(each, answer, trials)
        yield f"{said} ({each.note})." if each.note else f"{said}."


def about_value(of: str) -> str:
    """Return which reports of a trial count, from `objective.of`: "the mean of its last 3 reports"."""
    count = of.removeprefix("last").strip()
    return f"the mean of its last {count} reports" if count.isdigit() else f"its {of} report"


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
        count = math.ceil(_POWER * (deviation / practical) ** 2)
        runs = f", so that {amount(practical, answer)} takes about {_rounded(count)} runs of each"
    yield (
        f"one run each cannot rank gamma {_ranges(gamma.indistinguishable)}: the standard deviation between seeds is "
        f"{amount(deviation, answer)}{runs}"
    )


def _cost(each: Cost, answer: Answer) -> str:
    span = f"{signed(each.low, answer)} to {signed(each.high, answer)}"
    return f"gamma {each.gamma:g} costs {signed(each.cost, answer)} ({span})"


def _configurations(each: Comparison, answer: Answer, metric: str) -> str:
    pair = f"these settings of Anon and these of {each.baseline}"
    measured = _measured(each, answer, metric)
    match each.outcome:
        case Outcome.BETTER:
            return f"These settings of Anon beat these of {each.baseline}: {measured}"
        case Outcome.WORSE:
            return f"These settings of Anon are worse than these of {each.baseline}: {measured}"
        case Outcome.EQUAL:
            return f"There is practically no difference between {pair}: {measured}"
    said = f"No winner between {pair}"
    if each.low is None or each.detectable is None:
        return said
    needed, more = each.seeds_needed, "more seeds will hardly help"
    if needed is not None and needed <= _MANY_SEEDS and each.difference is not None:
        more = f"if that is the true difference, about {_rounded(needed)} seeds would show it"
    return f"{said}: {measured}. From about {amount(each.detectable, answer)} on it shows with these; {more}"


def _optimizers(each: Comparison, answer: Answer, trials: int) -> str:
    tuned = f"if each were tuned anew with {trials} trials"
    match each.outcome:
        case Outcome.BETTER:
            said = f"Anon would beat {each.baseline} {tuned}"
        case Outcome.WORSE:
            said = f"Anon would be worse than {each.baseline} {tuned}"
        case Outcome.EQUAL:
            said = f"There would be practically no difference between Anon and {each.baseline} {tuned}"
        case _:
            said = f"Whether Anon would beat {each.baseline} {tuned} is undecided"
    if each.low is None or each.high is None:
        return said
    return f"{said}: {signed(each.low, answer)} to {signed(each.high, answer)}"


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
