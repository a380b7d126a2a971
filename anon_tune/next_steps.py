"""What to do next after a job: commands and changes of the job file, by what its answer says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from anon_tune.answer import Answer, Comparison, Outcome
from anon_tune.sentences import amount, in_words, rounded

if TYPE_CHECKING:
    from anon_tune.spec import JobSpec  # pydantic models of job files: not for commands that only look

__all__ = ["further_steps", "next_steps"]

_MORE = 3
"""So many times the trials would say more: at 60 the intervals are about half as wide as at 20."""

_MOST_TRIALS = 10_000
"""As many as `budget.trials` may be."""

_ENOUGH = 20
"""Trials with which a job says something."""

_MANY_SEEDS = 100
"""More than so many are not advised."""

_REPEATS = 5
"""Searches of each arm that find a difference of three measured deviations in 87% of jobs (docs/advice.md)."""

_LARGEST_MARGIN = 0.5
"""Nobody calls two losses equal that may differ by more."""


def next_steps(answer: Answer, spec: JobSpec, job: str) -> Iterator[str]:
    """Yield what to do, the first thing first.

    Args:
        answer: Of the job.
        spec: The job.
        job: Its id.
    """
    arm = _arm_to_use(answer)
    if arm is not None:
        which = "" if arm == "anon" else f" --arm {arm}"
        of = "model" if ":" in spec.optimizer(arm) else "model.parameters()"
        load = f'anon_tune.load_optimizer("best.yaml", {of})'
        yield f"Use these settings: anon-tune export {job}{which} -o best.yaml, then {load}."
    yield from further_steps(answer, spec, job)


def further_steps(answer: Answer, spec: JobSpec, job: str) -> Iterator[str]:
    """Yield what to do to learn more; the arguments are those of `next_steps`."""
    gamma = answer.gamma
    is_over = any(each.arm == "anon" for each in answer.stopped)  # and would hardly be extended
    if (
        not is_over
        and spec.budget.trials < _MOST_TRIALS
        and (not gamma.enough if gamma.low is not None else 0 < gamma.trials < _ENOUGH)
    ):
        trials = min(max(_MORE * spec.budget.trials, _ENOUGH), _MOST_TRIALS)
        time = f" --time {_MORE * spec.budget.time:.0f}s" if spec.budget.time is not None else ""
        total = f"({trials} in all, with those already made)"
        yield f"Narrow gamma down: anon-tune extend {job} --trials {trials}{time} {total}."
    winner = answer.winners.get("anon")
    if winner is not None and winner.at_bound:
        yield (
            f"Look further: {in_words(winner.at_bound)} is at the end of the range. Write a wider space "
            f"(docs/search.md; anon-tune spaces {spec.space} shows this one) and run the job with it."
        )
    yield from _about_undecided(answer, spec, job)
    yield from _about_searches(answer, spec)
    if answer.verdict and not answer.tested:
        yield f"Compare on test data: call context.test({spec.objective.metric}=...) in the training function."
    yield (
        f"Train for longer than {spec.budget.epochs} epochs? The best settings may be others then: run a job with "
        "the epochs that you will train for."
    )


def _arm_to_use(answer: Answer) -> str | None:
    """Anon, but the baseline that is clearly better, where one is."""
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
    if answer.scale != "linear":
        yield (
            f"If {amount(margin, answer)} does not matter to you, set objective.practical: "
            f"{math.ceil(100 * margin) / 100:g} in the job file and run it anew: it can then call them equal."
        )


def _about_searches(answer: Answer, spec: JobSpec) -> Iterator[str]:
    """Yield how to compare optimizers whose settings are told apart, where one search of each is too few."""
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
    """The smallest margin that holds the interval on both sides; a factor counts alike in both directions."""
    low, high = each.low or 0.0, each.high or 0.0
    return max(-low if answer.scale == "linear" else -low / max(1 + low, 1e-9), high)


def _seeds(each: Comparison) -> int:
    return rounded(each.seeds_needed or 0)
