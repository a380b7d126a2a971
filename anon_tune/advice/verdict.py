"""Is Anon better than each baseline? Two answers, which must not be taken for one another.

That on the *configurations* compares the winners of two arms on fresh seeds and a split that nothing was selected on
(`search/sequential.py`). That on the *optimizers*, each tuned with its budget, must also allow for the luck of the
searches: another search of the same arm would have come up with another winner. How much that matters is estimated
by joint draws from each arm's landscape: what a draw has at the winner, above its own lowest value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from anon_tune.answer import Comparison, Outcome
from anon_tune.records import Phase, Trial, TrialState
from anon_tune.search.landscape import Landscape
from anon_tune.search.rounds import Round, RoundsOfTwo
from anon_tune.search.scale import Scale
from anon_tune.search.sequential import ALPHA, InterimResult, outcome_of

__all__ = ["search_variance", "verdicts"]

_DRAWS, _POINTS = 256, 96
_SHARE = 0.1
"""Share of the variance that the landscapes give to the luck of a search, which overstate it; by calibration
(docs/advice.md)."""


def verdicts(
    scale: Scale,
    trials: Sequence[Trial],
    baselines: Sequence[str],
    winners: Mapping[str, Trial],
    landscapes: Mapping[str, Landscape],
    rounds: Sequence[Round],
) -> list[Comparison]:
    """Compare Anon with every other arm.

    Args:
        scale: Of the objective.
        trials: All trials of a job.
        baselines: Its other arms.
        winners: By arm, the trial that stands for its winner, where it has one.
        landscapes: By arm.
        rounds: Of the verdict.
    """
    return [
        each
        for arm in baselines
        for each in _pair(scale, trials, baselines, arm, winners, landscapes, rounds)
    ]


def search_variance(landscape: Landscape, winner: Trial) -> float | None:
    """Return the mean square of what a winner is above the best of its space, on the objective's scale.

    None where the landscape is not known.
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
) -> Iterator[Comparison]:
    without = [each for each in ("anon", arm) if each not in winners]
    if without:
        note = f"{' and '.join(without)} came up with no configuration"
        for of in ("configuration", "optimizer"):
            yield Comparison(
                baseline=arm, of=of, outcome=Outcome.UNDECIDED, anon=None, other=None, difference=None,
                low=None, high=None, seeds=0, note=note,
            )  # fmt: skip
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
        note="; ".join([*filter(None, losses), *_limits(judged)]),
    )
    yield _with_interval(scale, found, judged, judged.half)
    variances = [search_variance(landscapes[each], winners[each]) for each in ("anon", arm)]
    yield _optimizers(scale, found, judged, variances)


def _optimizers(
    scale: Scale, found: Comparison, judged: InterimResult, variances: Sequence[float | None]
) -> Comparison:
    """The verdict on two tuned optimizers, from that on their winners."""
    known = [each for each in variances if each is not None]
    tuned = found.model_copy(update={"of": "optimizer", "outcome": Outcome.UNDECIDED})
    if judged.difference is None or judged.half is None or len(known) < len(variances):
        return tuned.model_copy(update={"note": "too few trials or seeds to tell the luck of the search"})
    from scipy.stats import t as student  # takes seconds, which Ray's start can hide

    total = judged.variance / judged.seeds + _SHARE * sum(known)
    half = float(student.isf(judged.level / 2, judged.freedom)) * math.sqrt(total)
    outcome = outcome_of(judged.difference, half, scale.practical) or Outcome.UNDECIDED
    tuned = tuned.model_copy(update={"outcome": outcome, "note": "rough: from one search of each"})
    return _with_interval(scale, tuned, judged, half).model_copy(update={"seeds_needed": None})


def _with_interval(scale: Scale, found: Comparison, judged: InterimResult, half: float | None) -> Comparison:
    if judged.difference is None or half is None:
        return found
    undecided = found.outcome is Outcome.UNDECIDED
    return found.model_copy(
        update={
            "low": scale.difference(judged.difference - half),
            "high": scale.difference(judged.difference + half),
            "detectable": scale.difference(half) if undecided else None,
            "seeds_needed": judged.seeds_needed if undecided else None,
        }
    )


def _limits(judged: InterimResult) -> Iterator[str]:
    if judged.seeds < 2:
        yield f"{judged.seeds} seeds to compare are too few"
    elif judged.half is None and judged.outcome is None:
        yield "the seed changes nothing, so that more seeds say no more than one"


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
    """Count the runs that did not complete: "Anon diverged on 1 of 5 seeds"."""
    words = {TrialState.DIVERGED: "diverged", TrialState.FAILED: "failed"}
    counts = {
        word: sum(trial.state is state for trial in runs)
        for state, word in words.items()
        if any(trial.state is state for trial in runs)
    }
    lost = " and ".join(f"{word} on {count} of {len(runs)} seeds" for word, count in counts.items())
    return f"{name} {lost}" if lost else None
