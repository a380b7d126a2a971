"""Verdicts: whether Anon is better than each baseline, in two senses that must not be confused.

The verdict on the *configurations* compares the winners of two arms on fresh seeds and a split that no selection used
(`search/sequential.py`). The verdict on the *optimizers*, each tuned with its budget, must also allow for the luck of
the searches: another search of the same arm would have found another winner. If arms were searched several times,
that variance is measured (`searches.py`). Otherwise it is estimated by joint draws from each arm's landscape, from
the distance of the winner to the minimum of each draw.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from anon_tune.advice.searches import Runs, SearchesResult, compare_searches
from anon_tune.answer import Comparison, Outcome
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.landscape import Landscape
from anon_tune.search.rounds import Round, RoundsOfTwo
from anon_tune.search.scale import Scale
from anon_tune.search.sequential import ALPHA, InterimResult, outcome_of
from anon_tune.search.spread import confirm_runs
from anon_tune.search.winners import Searched

__all__ = ["search_variance", "verdicts"]

_DRAWS, _POINTS = 256, 96
_SHARE = 0.1
"""Factor on the landscapes' variance of the luck of a search, which they overestimate; from calibration
(docs/advice.md)."""

_NO_EFFECT = (
    "the seed has no effect: all runs of a configuration gave the same value, so they count as one run"
)

_FIXED = "the job states `seeds: fixed`: one run of each was compared, and the effect of chance is not known"


def verdicts(
    scale: Scale,
    trials: Sequence[Trial],
    baselines: Sequence[str],
    winners: Mapping[str, Trial],
    landscapes: Mapping[str, Landscape],
    rounds: Sequence[Round],
    searches: Sequence[Searched] = (),
) -> list[Comparison]:
    """Compare Anon with every other arm.

    Args:
        scale: Scale of the objective.
        trials: All trials of a job.
        baselines: Its other arms.
        winners: By arm, the trial that represents its winner, if it has one.
        landscapes: Landscapes by arm.
        rounds: Rounds of the verdict.
        searches: Searches of all arms, if they were searched several times.
    """
    return [
        each
        for arm in baselines
        for each in _pair(scale, trials, baselines, arm, winners, landscapes, rounds, searches)
    ]


def search_variance(landscape: Landscape, winner: Trial) -> float | None:
    """Return the mean square of a winner's distance from the best of its space, on the objective's scale.

    None if the landscape is not known.
    """
    if not landscape.is_known:
        return None
    low = landscape.low_points(_POINTS, landscape.mean)[0]
    points = np.concatenate([[landscape.place(winner.params)], low])
    drawn = landscape.draw(points, _DRAWS)
    above = drawn[:, 0] - drawn.min(axis=1)
    return float((above**2).mean())


def _pair(
    scale: Scale,
    trials: Sequence[Trial],
    baselines: Sequence[str],
    arm: str,
    winners: Mapping[str, Trial],
    landscapes: Mapping[str, Landscape],
    rounds: Sequence[Round],
    searches: Sequence[Searched],
) -> Iterator[Comparison]:
    without = [each for each in ("anon", arm) if each not in winners]
    if without:
        note = f"{' and '.join(without)} found no configuration"
        nothing = Comparison(
            baseline=arm, outcome=Outcome.UNDECIDED, anon=None, other=None, difference=None, low=None, high=None,
            seeds=0, note=note,
        )  # fmt: skip
        yield nothing
        if searches:
            yield _measured(scale, trials, arm, searches, len(baselines))
        else:
            yield nothing.model_copy(update={"of": "optimizer"})
        return
    judged = RoundsOfTwo(scale, trials, ("anon", arm), winners, rounds, len(baselines)).judge()
    runs = [_runs(trials, winners[each], judged.of) for each in ("anon", arm)]
    losses = [_losses(name, each) for name, each in zip(("Anon", arm), runs, strict=True)]
    found = Comparison(
        baseline=arm,
        outcome=judged.outcome or Outcome.UNDECIDED,
        anon=_mean(scale, runs[0]),
        other=_mean(scale, runs[1]),
        difference=None if judged.difference is None else scale.difference(judged.difference),
        low=None,
        high=None,
        level=1 - ALPHA,
        seeds=judged.seeds,
        note="; ".join([*filter(None, losses), *_limits(judged, rounds)]),
    )
    yield _with_interval(scale, found, judged.difference, judged.half, judged.seeds_needed)
    if searches:
        yield _measured(scale, trials, arm, searches, len(baselines))
        return
    variances = [search_variance(landscapes[each], winners[each]) for each in ("anon", arm)]
    yield _optimizers(scale, found, judged, variances)


def _optimizers(
    scale: Scale, found: Comparison, judged: InterimResult, variances: Sequence[float | None]
) -> Comparison:
    """Return the verdict on two tuned optimizers, from the verdict on their winners."""
    known = [each for each in variances if each is not None]
    tuned = found.model_copy(update={"of": "optimizer", "outcome": Outcome.UNDECIDED})
    if not judged.seeds_matter:
        return tuned
    if judged.difference is None or judged.half is None or len(known) < len(variances):
        return tuned.model_copy(update={"note": "too few trials or seeds to estimate the luck of the search"})
    from scipy.stats import t as student  # the import takes seconds, which Ray's start can hide

    total = judged.variance / judged.seeds + _SHARE * sum(known)
    half = float(student.isf(judged.level / 2, judged.freedom)) * math.sqrt(total)
    outcome = outcome_of(judged.difference, half, scale.practical) or Outcome.UNDECIDED
    tuned = tuned.model_copy(update={"outcome": outcome, "note": "rough: from one search of each"})
    return _with_interval(scale, tuned, judged.difference, half)


def _measured(
    scale: Scale, trials: Sequence[Trial], arm: str, searches: Sequence[Searched], comparisons: int
) -> Comparison:
    """Return the verdict on two tuned optimizers, from several searches of each."""
    both = [[each for each in searches if each.arm == name] for name in ("anon", arm)]
    runs = [[_search_runs(scale, trials, each) for each in of_arm] for of_arm in both]
    tested = [
        [run for each, found in zip(of_arm, runs_of_arm, strict=True) if each.winner for run in found]
        for of_arm, runs_of_arm in zip(both, runs, strict=True)
    ]
    alpha = min(each.round.alpha for of_arm in both for each in of_arm)
    judged = compare_searches(runs[0], runs[1], alpha / comparisons, scale.practical)
    is_fixed = not all(each.round.seeds_matter for each in searches)
    seeds_matter = not is_fixed and not _is_constant(runs, trials, scale, ("anon", arm))
    if not seeds_matter:
        judged = dataclasses.replace(judged, outcome=None, half=None)
    means = (None, None) if judged.means is None else tuple(map(scale.value, judged.means))
    found = Comparison(
        baseline=arm,
        of="optimizer",
        outcome=judged.outcome or Outcome.UNDECIDED,
        anon=means[0],
        other=means[1],
        difference=None if judged.difference is None else scale.difference(judged.difference),
        low=None,
        high=None,
        level=1 - ALPHA,
        searches=min(judged.searches),
        seeds=min(map(len, tested)),
        note="; ".join(_about_searches(judged, arm, both, tested))
        if seeds_matter
        else _FIXED
        if is_fixed
        else _NO_EFFECT,
    )
    return _with_interval(scale, found, judged.difference, judged.half)


def _search_runs(scale: Scale, trials: Sequence[Trial], search: Searched) -> Runs:
    """Return a search's runs for `compare_searches`, without those that failed.

    A search without a winner counts as one run that diverged, if one of its trials did.
    """
    if search.winner is None:
        own = [t for t in trials if (t.arm, t.repeat) == (search.arm, search.repeat)]
        return [None] if any(t.state is TrialState.DIVERGED for t in own) else []
    runs = [t for t in _runs(trials, search.winner, search.round.seeds) if t.state is not TrialState.FAILED]
    return [None if t.value is None else scale(t.value) for t in runs]


def _is_constant(
    searches: Sequence[Sequence[Runs]], trials: Sequence[Trial], scale: Scale, arms: Iterable[str]
) -> bool:
    """Whether no configuration's value differs between seeds, in tests and in confirm runs."""
    tests = [runs for of_arm in searches for runs in of_arm]
    confirmed = [values for arm in arms for values in confirm_runs(trials, scale, arm)]
    is_repeated = any(len(runs) - runs.count(None) > 1 for runs in tests)
    return is_repeated and all(len(set(values)) < 2 for values in (*tests, *confirmed))


def _about_searches(
    judged: SearchesResult, arm: str, searches: Sequence[Sequence[Searched]], tested: Sequence[Runs]
) -> Iterator[str]:
    for name, of_arm, runs in zip(("Anon", arm), searches, tested, strict=True):
        in_vain = sum(each.winner is None for each in of_arm)
        if in_vain:
            yield f"{in_vain} of {len(of_arm)} searches of {name} found no configuration"
        lost = sum(value is None for value in runs)
        if lost:
            yield f"{name} diverged on {lost} of {len(runs)} seeds"
    low, high = sorted(judged.searches)
    if low < 2:
        yield f"too few searches have a result: {judged.searches[0]} of Anon and {judged.searches[1]} of {arm}"
    elif judged.half is None:
        yield "all searches of each optimizer have the same value, so more searches would add nothing"
    else:
        count = str(low) if low == high else f"{judged.searches[0]} and {judged.searches[1]}"
        yield f"measured over {count} searches of each"


def _with_interval(
    scale: Scale,
    found: Comparison,
    difference: float | None,
    half: float | None,
    seeds_needed: int | None = None,
) -> Comparison:
    """Return a comparison with its interval; differences and `half` are on the scale."""
    if difference is None or half is None:
        return found
    undecided = found.outcome is Outcome.UNDECIDED
    return found.model_copy(
        update={
            "low": scale.difference(difference - half),
            "high": scale.difference(difference + half),
            "detectable": scale.difference(half) if undecided else None,
            "seeds_needed": seeds_needed if undecided else None,
        }
    )


def _limits(judged: InterimResult, rounds: Sequence[Round]) -> Iterator[str]:
    if not all(each.seeds_matter for each in rounds):
        yield _FIXED
    elif not judged.seeds_matter:
        yield _NO_EFFECT
    elif judged.seeds < 2:
        yield f"{judged.seeds} seeds are too few for a comparison"
    elif judged.half is None and judged.outcome is None:
        yield "all seeds have the same difference, so more seeds add nothing"


def _runs(trials: Sequence[Trial], winner: Trial, seeds: Sequence[int]) -> list[Trial]:
    return [
        trial
        for trial in trials
        if trial.phase is Phase.VERDICT
        and trial.source == winner.id
        and trial.is_finished
        and (not seeds or trial.seed in seeds)
    ]


def _mean(scale: Scale, runs: Sequence[Trial]) -> float | None:
    return scale.mean(trial.value for trial in runs if trial.value is not None)


def _losses(name: str, runs: Sequence[Trial]) -> str | None:
    """Return a note on the runs that did not complete: "Anon diverged on 1 of 5 seeds"."""
    words = {TrialState.DIVERGED: "diverged", TrialState.FAILED: "failed"}
    counts = {
        word: sum(trial.state is state for trial in runs)
        for state, word in words.items()
        if any(trial.state is state for trial in runs)
    }
    lost = " and ".join(f"{word} on {count} of {len(runs)} seeds" for word, count in counts.items())
    return f"{name} {lost}" if lost else None
