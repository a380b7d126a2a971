"""A job's answer in sentences: what was compared, what was found, how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anon_tune.advice.statement import Advice, Basis
from anon_tune.answer import Answer, Comparison, Cost, Customary, Gamma, Interval, Outcome

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec  # pydantic models of job files: not for commands that only look

__all__ = [
    "EXPLAINED",
    "about_advice",
    "about_answer",
    "about_compared",
    "about_comparison",
    "about_coordinates",
    "about_cost",
    "about_count",
    "about_deletion",
    "about_gamma",
    "about_limits",
    "about_plan",
    "about_result",
    "about_runs",
    "about_searches",
    "about_settings",
    "about_stopping",
    "about_training",
    "about_untested",
    "about_value",
    "about_verdicts",
    "amount",
    "cost_table",
    "in_words",
    "is_quiet",
    "rounded",
    "short",
    "signed",
]

EXPLAINED = {
    "gamma": "adaptivity: 0 scales steps as SGD does, 1 as Adam; any number is allowed",
    "beta3": "third of betas: how much of the old step sizes is kept at a refresh, where they are computed anew",
    "delay": "how far apart refreshes are: the next comes at this multiple of the step (2: steps 1, 2, 4, 8, ...)",
    "floor": "guards against tiny gradients: squared ones are raised by this share of their tensor's mean",
}
"""Hyperparameters that are Anon's own, a line each."""

_SHOWN = ("gamma", "lr", "betas", "delay", "weight_decay", "floor", "momentum", "nesterov")

_LARGEST = 10.0
"""Largest relative difference that is shown as a number."""

_QUIET = 2.0
"""The noise of seeds is small if their deviation is at most so many times the difference that matters."""

_POWER = 16
"""Runs of each of two gammas for a power of 80%, in units of the squared ratio of deviation and difference."""

_MANY_SEEDS = 1000
"""Most seeds to recommend."""

_UNEVEN = 1.5
"""Two arms' trials take different times if one takes at least so many times as long."""

_UNEVEN_TOTAL = 2.0
"""The same for all trials together, whose number and length differ for many reasons."""

_LONG_SECONDS = 1.0
"""Shortest trials whose time is worth a sentence."""

_LONG_TOTAL_SECONDS = 10.0
"""Shortest total time of an arm that is worth a sentence."""


def about_comparison(answer: Answer, spec: JobSpec) -> str:
    """Return what was compared, and how."""
    trials = answer.trials or spec.budget.trials
    most = max((each.seeds for each in answer.of("configuration")), default=0)
    each = "each " if len(spec.arms) > 1 else ""
    tuned = f"{in_words(spec.arms)}, {each}tuned with {_up_to(answer)}{trials} trials"
    if answer.searches:
        tuned += f" in each of {spec.search.repeats} searches"
    if not most:
        return tuned
    split = "the test data" if answer.tested else "the validation data, which they were chosen by"
    runs = "once more on" if spec.seeds == "fixed" else f"on up to {most} fresh seeds and"
    return f"{tuned}; then the best settings of each {runs} {split}"


def about_runs(spec: JobSpec) -> str:
    """Return what the runs of the verdict are."""
    return "one run" if spec.seeds == "fixed" else "fresh seeds"


def about_plan(spec: JobSpec) -> Iterator[str]:
    """Yield the cost of several searches of each arm, before the job starts."""
    repeats = spec.search.repeats
    if repeats > 1:
        counts = in_words(f"{count} {phase}" for phase, count in spec.planned_trials().items())
        yield f"search.repeats searches each arm {repeats} times, with {spec.budget.trials} trials each."
        yield f"Planned at most: {counts} trials, {sum(spec.planned_trials().values())} in all."


def about_searches(answer: Answer, spec: JobSpec) -> Iterator[str]:
    """Yield the results of each arm's searches, if each arm was searched several times."""
    metric = spec.objective.metric
    chosen = [each.gamma for each in answer.searches if each.gamma is not None]
    if chosen:
        listed = in_words(f"{gamma:.2f}" for gamma in chosen)
        yield f"{len(chosen)} {'search' if len(chosen) == 1 else 'searches'} of anon chose gamma {listed}"
    split = "test" if answer.tested else "validation"
    results = []
    for arm in dict.fromkeys(each.arm for each in answer.searches):
        found = [each.test for each in answer.searches if each.arm == arm]
        results.append(f"{arm} {', '.join('-' if value is None else f'{value:.4g}' for value in found)}")
    if results:
        yield f"{split} {metric} of the winner of each search, {about_runs(spec)}: {'; '.join(results)}"


def about_stopping(answer: Answer, metric: str) -> Iterator[str]:
    """Yield which searches ended before their budget, and why.

    Args:
        answer: The job's answer.
        metric: Its metric.
    """
    practical = answer.gamma.practical
    if practical is None:
        return
    what = f"improve {metric}"
    if answer.scale != "linear":
        what = f"lower the {metric if answer.scale == 'log' else f'error (1 - {metric})'}"
    for arm in dict.fromkeys(each.arm for each in answer.stopped):
        ended = [each for each in answer.stopped if each.arm == arm]
        which = (
            f"{len(ended)} searches of {arm}"
            if len(ended) > 1
            else f"{'A' if answer.searches else 'The'} search of {arm}"
        )
        after = in_words(str(each.trials) for each in ended)
        yield (
            f"{which} ended after {after} of {ended[0].planned} trials: more were not expected to {what} by "
            f"{amount(practical, answer)}."
        )


def about_result(answer: Answer) -> Iterator[str]:
    """Yield the verdicts on the configurations in one line."""
    words = {
        Outcome.BETTER: "better than",
        Outcome.WORSE: "worse than",
        Outcome.EQUAL: "practically equal to",
        Outcome.UNDECIDED: "undecided against",
    }
    found = {
        outcome: [each.baseline for each in answer.of("configuration") if each.outcome is outcome]
        for outcome in words
    }
    said = "; ".join(f"{words[outcome]} {in_words(names)}" for outcome, names in found.items() if names)
    if said:
        yield f"Anon with the settings below: {said}"


def about_answer(answer: Answer) -> Iterator[str]:
    """Yield the answer in two sentences: the gamma and how sure it is, and whether Anon is worth it.

    The second one is missing from an answer without baselines.
    """
    for said in (_best_gamma(answer.gamma), *about_result(answer)):
        yield f"{said[0].upper()}{said[1:]}."


def about_compared(each: Comparison) -> str:
    """Return, for a table, which of the two a comparison is about: the chosen settings, or the tuned optimizers."""
    return "these settings" if each.of == "configuration" else "if tuned anew"


def about_settings(hyperparameters: Mapping[str, Any]) -> str:
    """Return an optimizer's hyperparameters in a line; only the important ones of Anon, AdamW and SGD."""
    named = [name for name in _SHOWN if name in hyperparameters] or list(hyperparameters)
    return "  ".join(f"{name} {short(hyperparameters[name])}" for name in named)


def short(value: Any) -> str:
    """Return a hyperparameter to three significant digits; to five near 1, as Adam's beta2 is."""
    if isinstance(value, float):
        rough = f"{value:.3g}"
        return rough if rough != "1" else f"{value:.5g}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(short, value))})"
    return str(value)


def about_training(spec: JobSpec) -> str:
    """Return how long and at which batch size the job was tuned."""
    batch = f" and batch size {spec.training.batch_size}" if spec.model is not None else ""
    return f"All of this holds for {spec.budget.in_words}{batch}; longer training was not tested."


def about_coordinates(answer: Answer) -> Iterator[str]:
    """Yield whether Anon's own coordinates matter: gamma outside [0, 1], beta3 and the delay."""
    if answer.gamma.outside is not None:
        yield _outside(answer.gamma.outside, answer)
    if answer.customary:
        costs = "; ".join(_customary(each, answer) for each in answer.customary)
        yield f"left at their usual values, with all else tuned: {costs}"


def about_cost(answer: Answer) -> Iterator[str]:
    """Yield notes on the time of the arms, if it differs: in total, and for a trial."""
    totals = {arm: each.seconds for arm, each in answer.totals().items()}
    if _is_uneven(totals, _UNEVEN_TOTAL, _LONG_TOTAL_SECONDS):
        slow, fast = _slowest_and_fastest(totals)
        times = (
            f", {totals[slow] / totals[fast]:.1f} times as long as {fast}" if totals[fast] else f"; {fast}"
        )
        yield (
            f"The arms did not train for the same time: {slow} {totals[slow]:,.0f} s{times} ({totals[fast]:,.0f} s)."
        )
    typical = {each.arm: each.typical for each in answer.spent if each.phase == "search" and each.typical}
    if _is_uneven(typical, _UNEVEN, _LONG_SECONDS):
        slow, fast = _slowest_and_fastest(typical)
        yield (
            f"A trial of {slow} took {typical[slow] / typical[fast]:.1f} times as long as one of {fast} "
            f"({typical[slow]:.2g} s and {typical[fast]:.2g} s)."
        )


def _is_uneven(seconds: Mapping[str, float], times: float, shortest: float) -> bool:
    """Return whether the longest time is over `shortest` and over so many times the shortest one."""
    return len(seconds) > 1 and max(seconds.values()) > max(times * min(seconds.values()), shortest)


def _slowest_and_fastest(seconds: Mapping[str, float]) -> tuple[str, str]:
    return max(seconds, key=lambda arm: seconds[arm]), min(seconds, key=lambda arm: seconds[arm])


def about_gamma(answer: Answer) -> Iterator[str]:
    """Yield statements on the good gammas, the best supported first."""
    gamma = answer.gamma
    if gamma.enough and gamma.low is not None:
        yield from _supported(answer)
    yield _best_gamma(gamma)
    if gamma.enough and gamma.costs:
        costs = "; ".join(_cost(each, answer) for each in gamma.costs)
        yield f"with all else tuned, {costs} ({gamma.level:.0%} intervals)"


def about_advice(advice: Advice) -> Iterator[str]:
    """Yield lines on the gamma to expect, its basis and what would change it."""
    if advice.gamma is None or advice.low is None or advice.high is None:
        yield f"Nothing is known about gamma for {advice.family} yet: search the whole range."
    else:
        yield (
            f"gamma {advice.gamma:.2f} for {advice.family}  (the best one of the next model: {advice.low:.2f} to "
            f"{advice.high:.2f}, {advice.level:.0%} interval; from {advice.source})"
        )
    if advice.costs:
        costs = "; ".join(
            f"gamma {each.gamma:g} costs {each.cost:+.1%} ({each.low:+.1%} to {each.high:+.1%})"
            for each in advice.costs
        )
        yield f"  compared with it, on average over these searches: {costs}"
    if advice.start is not None:
        yield f"  start from: {advice.start.line}"
    yield from map(_basis, advice.jobs)
    if advice.published:
        yield f"  published ({advice.published.source}): {advice.published.text}"
    yield from (f"  {sentence}" for sentence in advice.would_change)


def _basis(job: Basis) -> str:
    kind = "shipped search" if job.shipped else f"job {job.job}"
    best = "recommends nothing" if job.best is None else f"recommends {job.best:.2f}"
    between = ""
    if job.low is not None and job.high is not None:
        between = f"; its best lies between {job.low:.2f} and {job.high:.2f} (90%)"
    return f"  {kind} ({job.name}): {best}{between}"


def about_verdicts(answer: Answer, spec: JobSpec) -> Iterator[str]:
    """Yield a sentence for each verdict, and one for all if none is decided.

    Args:
        answer: The job's answer.
        spec: The job.
    """
    metric, trials = spec.objective.metric, answer.trials or spec.budget.trials
    undecided = [each.baseline for each in answer.of("configuration") if each.outcome is Outcome.UNDECIDED]
    if undecided and len(undecided) == len(answer.of("configuration")):
        yield f"There is no evidence that Anon is better or worse than {' or '.join(undecided)}."
    for each in answer.verdict:
        if each.of == "configuration":
            said = _configurations(each, answer, metric)
        else:
            said = _optimizers(each, answer, trials)
        yield f"{said} ({each.note})." if each.note else f"{said}."


def about_limits(answer: Answer, spec: JobSpec) -> Iterator[str]:
    """Yield what an answer holds for: data, trials that count, training, and why another run may differ."""
    metric = spec.objective.metric
    if not answer.tested:
        yield about_untested(metric)
    yield from about_stopping(answer, metric)
    yield f"The {metric} of a trial is that of {about_value(spec.objective.of)}."
    yield about_training(spec)
    if answer.may_differ:
        yield f"Another run of this job may find something else: {'; '.join(answer.may_differ)}."


def about_untested(metric: str) -> str:
    """Return the limit of a verdict that no test data was reported for."""
    why = "this compares it on the data by which configurations were chosen"
    return f"No test_{metric} was reported: {why}."


def about_value(of: str) -> str:
    """Return which reports of a trial count, from `objective.of`: "the mean of its last 3 reports"."""
    count = of.removeprefix("last").strip()
    return f"the mean of its last {count} reports" if count.isdigit() else f"its {of} report"


def amount(value: float, answer: Answer) -> str:
    """Return a difference without its sign: "3.1%", or a number on the linear scale; at most "over 1,000%"."""
    if answer.scale == "linear":
        return f"{abs(value):.3g}"
    if abs(value) > _LARGEST:
        return "over 1,000%"
    share = 100 * abs(value)
    return f"{share:.2g}%" if share < 10 else f"{share:.0f}%"


def signed(value: float, answer: Answer) -> str:
    """Return a difference with its sign: "-9.1%"; at most "over +1,000%"."""
    if answer.scale != "linear" and value > _LARGEST:
        return "over +1,000%"
    return f"{'-' if value < 0 else '+'}{amount(value, answer)}"


def cost_table(answer: Answer) -> list[list[str]]:
    """Return the counts of each arm's cost as text, after a row of titles; epochs only if the budget is in them."""
    totals = answer.totals()
    in_epochs = any(total.epochs is not None for total in totals.values())
    rows = [["cost of arm", *(["epochs"] if in_epochs else []), "steps", "samples", "seconds"]]
    for arm, total in totals.items():
        epochs = [total.epochs] if in_epochs else []
        rows.append([arm, *map(about_count, (*epochs, total.steps, total.samples, total.seconds))])
    return rows


def about_count(count: float | None) -> str:
    """Return a count of epochs, steps, samples or seconds: "479,232"; "-" if it is not known."""
    return "-" if count is None else f"{count:,.0f}"


def is_quiet(gamma: Gamma) -> bool:
    """Return whether the noise of seeds is small against the difference that matters."""
    return gamma.practical is not None and (gamma.deviation or 0.0) <= _QUIET * gamma.practical


def in_words(names: Iterable[str]) -> str:
    """Return the names as a list in a sentence: "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def rounded(count: int) -> int:
    """Return a count, rounded to one significant digit from 20 on, since more digits would be false precision."""
    if count < 20:
        return count
    digit = int(10 ** (len(str(count)) - 1))
    return (2 * count + digit) // (2 * digit) * digit


def _with_interval(found: Interval, answer: Answer) -> str:
    return f"{signed(found.middle, answer)} ({signed(found.low, answer)} to {signed(found.high, answer)})"


def _outside(found: Interval, answer: Answer) -> str:
    low, middle, high = (_than_best(value, answer) for value in (found.low, found.middle, found.high))
    measured = f"the best there is {middle} than the best within ({low} to {high})"
    if found.low > 0:
        return f"gamma outside [0, 1] is not needed: {measured}"
    if found.high < 0:
        return f"gamma outside [0, 1] helps: {measured}"
    return f"it is open whether gamma outside [0, 1] helps: {measured}"


def _than_best(value: float, answer: Answer) -> str:
    return f"{amount(value, answer)} {'better' if value < 0 else 'worse'}"


def _customary(each: Customary, answer: Answer) -> str:
    named = f"{each.coordinate} {each.value:g}"
    if each.cost.low > 0:
        return f"{named} costs {_with_interval(each.cost, answer)}"
    return f"{named} costs {amount(max(each.cost.high, 0.0), answer)} at most (95% bound)"


def _best_gamma(gamma: Gamma) -> str:
    """Return the recommended gamma, and where the best one is."""
    none = "no configuration of Anon completed"
    best = none if gamma.best is None else f"recommended gamma {gamma.best:.2f}"
    if gamma.low is None or gamma.high is None:
        return f"{best} ({gamma.note})"
    between = f"between {gamma.low:.2f} and {gamma.high:.2f} ({gamma.level:.0%} interval)"
    if not gamma.enough:
        where = f"it is {between}, most of what was searched"
        return f"too few trials to locate the best gamma: {where}; {best}"
    outside = gamma.best is not None and not gamma.low <= gamma.best <= gamma.high
    why = ", but when finalists ran again on other seeds, the recommended one did best" if outside else ""
    return f"{best}; by the trials of the search, the best gamma is {between}{why}"


def _supported(answer: Answer) -> Iterator[str]:
    gamma = answer.gamma
    practical, deviation = gamma.practical, gamma.deviation or 0.0
    if is_quiet(gamma) and practical is not None and gamma.flat:
        costs = f"costs less than {amount(practical, answer)} more than the best gamma"
        yield f"gamma {_ranges(gamma.flat)} {costs}, more likely than not"
        return
    if not gamma.indistinguishable:
        return
    runs = ""
    if practical is not None:
        count = math.ceil(_POWER * (deviation / practical) ** 2)
        runs = f"; to tell {amount(practical, answer)} apart takes about {rounded(count)} runs of each gamma"
    yield (
        f"one run each cannot rank gamma {_ranges(gamma.indistinguishable)}: seeds alone change the result by "
        f"{amount(deviation, answer)} (standard deviation){runs}"
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
            margin = answer.gamma.practical
            within = "" if margin is None else f" (they differ by less than {amount(margin, answer)})"
            return f"{pair[0].upper()}{pair[1:]} are practically equal{within}: {measured}"
    said = f"No winner between {pair}"
    if each.low is None or each.detectable is None:
        return said
    needed, more = each.seeds_needed, "more seeds will hardly help"
    if needed is not None and needed <= _MANY_SEEDS and each.difference is not None:
        true = f"if the true difference is {amount(each.difference, answer)}"
        more = f"{true}, about {rounded(needed)} more seeds would show it"
    return f"{said}: {measured}. A difference of {amount(each.detectable, answer)} would have shown; {more}"


def _optimizers(each: Comparison, answer: Answer, trials: int) -> str:
    tuned = f"if each were tuned anew with {_up_to(answer)}{trials} trials"
    match each.outcome:
        case Outcome.BETTER:
            said = f"Anon would beat {each.baseline} {tuned}"
        case Outcome.WORSE:
            said = f"Anon would be worse than {each.baseline} {tuned}"
        case Outcome.EQUAL:
            said = f"Anon and {each.baseline} would be practically equal {tuned}"
        case _:
            said = f"Whether Anon would beat {each.baseline} {tuned} is undecided"
    if each.low is None or each.high is None:
        return said
    return f"{said}: {signed(each.low, answer)} to {signed(each.high, answer)}"


def _up_to(answer: Answer) -> str:
    return "up to " if answer.stopped else ""


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


def about_deletion(job_id: str, name: str, state: str, count: int) -> str:
    """Return the question before a job with so many trials is deleted: what goes, and what stays."""
    trials = "1 trial" if count == 1 else f"{count:,} trials"
    return (
        f"Delete job {job_id} ({name}, {state}) for good? Its {trials}, reports, log, checkpoints, exports "
        "and best weights will be deleted, and its code unless another job uses it. The job will no longer count as "
        "evidence for advice. Its runs in MLflow stay."
    )
