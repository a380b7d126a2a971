"""Next steps after a job: commands and changes of the job file that follow from its answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from anon_tune.answer import Answer, Comparison, Outcome
from anon_tune.sentences import amount, in_words, rounded

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec  # pydantic models of job files, which read-only commands do not need

__all__ = ["further_steps", "next_steps"]

_MORE = 3
"""Factor for more trials: with 60 the intervals are about half as wide as with 20."""

_MOST_TRIALS = 10_000
"""Upper limit of `budget.trials`."""

_ENOUGH = 20
"""Fewest trials for a useful answer."""

_MANY_SEEDS = 100
"""Most seeds to recommend."""

_REPEATS = 5
"""Searches of each arm to recommend: they detect a difference of three deviations in 87% of jobs (docs/advice.md)."""

_LARGEST_MARGIN = 0.5
"""Largest margin to recommend for calling two losses equal."""


def next_steps(answer: Answer, spec: JobSpec, job: str) -> Iterator[str]:
    """Yield the next steps, the most important first.

    Args:
        answer: The job's answer.
        spec: The job.
        job: Its id.
    """
    arm = _arm_to_use(answer)
    if arm is not None:
        which = "" if arm == "anon" else f" --arm {arm}"
        of = "model" if ":" in spec.optimizer(arm) else "model.parameters()"
        load = f'anon_tune.load_optimizer("best.yaml", {of})'
        if spec.command is not None and "{" not in spec.command:  # alone, nothing fills its placeholders
            load = f"ANON_TUNE_CONFIG=best.yaml {spec.command}"
        yield f"Use these settings: anon-tune export {job}{which} -o best.yaml, then {load}."
    yield from further_steps(answer, spec, job)


def further_steps(answer: Answer, spec: JobSpec, job: str) -> Iterator[str]:
    """Yield the steps to learn more; the arguments are those of `next_steps`."""
    gamma = answer.gamma
    is_over = any(each.arm == "anon" for each in answer.stopped)  # such an arm can hardly be extended
    if (
        not is_over
        and spec.budget.trials < _MOST_TRIALS
        and (not gamma.enough if gamma.low is not None else 0 < gamma.trials < _ENOUGH)
    ):
        trials = min(max(_MORE * spec.budget.trials, _ENOUGH), _MOST_TRIALS)
        time = f" --time {_MORE * spec.budget.time:.0f}s" if spec.budget.time is not None else ""
        total = f"({trials} in total, including those already made)"
        yield f"Narrow gamma down: anon-tune extend {job} --trials {trials}{time} {total}."
    winner = answer.winners.get("anon")
    if winner is not None and winner.at_bound:
        yield (
            f"Widen the search: {in_words(winner.at_bound)} is at the end of its range. Write a wider space "
            f"(docs/search.md; anon-tune spaces {spec.space} shows this one) and run the job with it."
        )
    yield from _about_undecided(answer, spec, job)
    yield from _about_searches(answer, spec)
    if answer.verdict and not answer.tested:
        call, place = ("trial.test", "script") if spec.command else ("context.test", "training function")
        yield f"Compare on test data: call {call}({spec.objective.metric}=...) in the {place}."
    yield (
        f"Train for longer than {spec.budget.in_words}? The best settings may be others then: run a job with the "
        f"{spec.budget.key} that you will train for."
    )


def _arm_to_use(answer: Answer) -> str | None:
    """Return the arm to use: Anon, or a baseline that is clearly better."""
    ahead = [each for each in answer.of("configuration") if each.outcome is Outcome.WORSE]
    if ahead:
        return max(ahead, key=lambda each: each.difference or math.inf).baseline
    return "anon" if "anon" in answer.winners else next(iter(answer.winners), None)


def _about_undecided(answer: Answer, spec: JobSpec, job: str) -> Iterator[str]:
    undecided = [each for each in answer.of("configuration") if each.outcome is Outcome.UNDECIDED]
    within_reach = [
        each for each in undecided if each.seeds_needed is not None and _seeds(each) <= _MANY_SEEDS
    ]
    if within_reach:
        seeds = spec.confirm.verdict_seeds + sum(spec.budget.more_seeds) + max(map(_seeds, within_reach))
        others = in_words([each.baseline for each in within_reach])
        yield f"Decide between Anon and {others}: anon-tune extend {job} --seeds {seeds}."
    far = [each for each in undecided if each not in within_reach and each.low is not None]
    if not far:
        return
    others = in_words([each.baseline for each in far])
    margin = max(_margin(each, answer) for each in far)
    if answer.scale != "linear" and margin > _LARGEST_MARGIN:
        return
    yield (
        f"Between Anon and {others} take either for now: a true difference of more than {amount(margin, answer)} is "
        "unlikely."
    )


def _about_searches(answer: Answer, spec: JobSpec) -> Iterator[str]:
    """Yield how to compare optimizers with different results, if one search of each is too few."""
    told_apart = {
        each.baseline
        for each in answer.of("configuration")
        if each.outcome in {Outcome.BETTER, Outcome.WORSE}
    }
    rough = [
        each.baseline
        for each in answer.of("optimizer")
        if each.outcome is Outcome.UNDECIDED and each.searches == 1 and each.baseline in told_apart
    ]
    if rough and spec.search.repeats == 1 and spec.search.sampler != "grid":
        names = in_words(["Anon", *rough])
        yield (
            f"Compare the optimizers {names}: run the job with search.repeats: {_REPEATS}, which takes {_REPEATS} "
            "times the trials."
        )


def _margin(each: Comparison, answer: Answer) -> float:
    """Return the smallest symmetric margin that contains the interval, as a factor in both directions."""
    low, high = each.low or 0.0, each.high or 0.0
    return max(-low if answer.scale == "linear" else -low / max(1 + low, 1e-9), high)


def _seeds(each: Comparison) -> int:
    return rounded(each.seeds_needed or 0)
