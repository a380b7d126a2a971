"""Rounds of the verdict: sets of common seeds, each with a test of its own.

A job has one round. `anon-tune extend` adds others: for a comparison that is undecided, and for a winner that more
trials have changed, which is then compared on new seeds. Each round has a share of the job's error rate, so the rate
of all its verdicts stays below it, however often the job is extended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anon_tune.records import Phase, Trial
from anon_tune.search.scale import Scale
from anon_tune.search.seeds import trial_seed, winner_test_seed
from anon_tune.search.sequential import ALPHA, InterimResult, PairedTest, looks
from anon_tune.spec import JobSpec

__all__ = ["FIRST_ALPHA", "Round", "RoundsOfTwo", "first_seeds", "rounds_of", "search_round"]

_KEPT = 0.2
"""Share of the error rate that is reserved for extensions; each takes half of the rest."""

FIRST_ALPHA = (1 - _KEPT) * ALPHA
"""Error rate of the round that every job has."""

_HALVINGS = 20
"""Number of rounds after which the rest is negligible."""


@dataclass(frozen=True)
class Round:
    """Seeds of one test.

    Attributes:
        seeds: In the order in which they are run.
        alpha: Error rate of all comparisons of the round together, two-sided.
        seeds_matter: False if the job states that seeds have no effect: nothing is then decided.
    """

    seeds: tuple[int, ...]
    alpha: float
    seeds_matter: bool = True


def rounds_of(spec: JobSpec) -> list[Round]:
    """Return the rounds of a job, in the order in which they are run; only one if seeds have no effect."""
    found, start = [], 0
    if spec.seeds == "fixed":
        return [Round((trial_seed(spec.search.seed, Phase.VERDICT, 0),), _alpha(0), seeds_matter=False)]
    for index, count in enumerate((spec.confirm.verdict_seeds, *spec.budget.more_seeds)):
        numbers = range(start, start + count)
        seeds = tuple(trial_seed(spec.search.seed, Phase.VERDICT, number) for number in numbers)
        found.append(Round(seeds, _alpha(index)))
        start += count
    return found


def search_round(spec: JobSpec, trials: Sequence[Trial], winner: Trial) -> Round:
    """Return the round in which the winner of one of an arm's searches is tested.

    The winners of a repeat are tested on the same seeds. If an extension has changed the winner, it is tested in the
    round of that extension, so each extension spends only its own error rate.
    """
    if spec.seeds == "fixed":
        return Round((winner_test_seed(spec.search.seed, winner.repeat, 0),), _alpha(0), seeds_matter=False)
    count = spec.confirm.verdict_seeds
    numbers = [range(count * index, count * (index + 1)) for index in range(1 + len(spec.budget.more_seeds))]
    rounds = [
        Round(
            tuple(winner_test_seed(spec.search.seed, winner.repeat, number) for number in each), _alpha(index)
        )
        for index, each in enumerate(numbers)
    ]
    own = {t.seed for t in trials if t.phase is Phase.VERDICT and t.origin == winner.origin}
    begun = [each for each in rounds if not own.isdisjoint(each.seeds)]
    if begun:
        return begun[-1]
    is_first = rounds[0] in _usable(rounds, trials, {winner.arm: winner})
    return rounds[0] if is_first else rounds[-1]


def first_seeds(rounds: Sequence[Round], trials: Sequence[Trial], winners: Mapping[str, Trial]) -> list[int]:
    """Return the seeds of the first look at some winners."""
    seeds = _usable(rounds, trials, winners)[0].seeds
    return list(seeds[: looks(len(seeds))[0]])


class RoundsOfTwo:
    """Comparison of the winners of two arms over the rounds of a job, look by look.

    Args:
        scale: Scale of the objective.
        trials: All trials of the job.
        arms: The two arms.
        winners: By arm, the trial that represents its winner.
        rounds: Rounds of the job.
        comparisons: Number of the job's comparisons, which share the error rate of a round.
    """

    def __init__(
        self,
        scale: Scale,
        trials: Sequence[Trial],
        arms: tuple[str, str],
        winners: Mapping[str, Trial],
        rounds: Sequence[Round],
        comparisons: int,
    ) -> None:
        two = {arm: winners[arm] for arm in arms}
        following = _alpha(len(rounds)) / comparisons
        self._tests = [
            PairedTest(
                scale,
                trials,
                arms,
                winners,
                usable.seeds,
                usable.alpha / comparisons,
                following,
                seeds_matter=usable.seeds_matter,
            )
            for usable in _usable(rounds, trials, two)
        ]
        self._looks = [(test, look) for test in self._tests for look in test.looks]

    def wanted(self, look: int) -> Sequence[int]:
        """Return the seeds that a look needs, counted from 0 over all rounds; empty if the look is not taken."""
        if look >= len(self._looks) or self.judge(look).outcome is not None:
            return ()
        test, count = self._looks[look]
        return test.seeds[:count]

    def judge(self, most: int | None = None) -> InterimResult:
        """Return the look that decides the comparison; if none does, the most informative one.

        Args:
            most: The most looks to take, over all rounds.
        """
        found = []
        for test in self._tests:
            taken = [look for each, look in self._looks[:most] if each is test]
            if not taken:
                break
            found.append(test.judge(taken[-1]))
            if found[-1].outcome is not None:
                return found[-1]
        return min(found, key=_width, default=InterimResult(None, 0))


def _usable(
    rounds: Sequence[Round], trials: Sequence[Trial], winners: Mapping[str, Trial]
) -> Sequence[Round]:
    """Return the rounds in which no other configuration of these arms has run; by default the last one."""
    spent = {
        trial.seed
        for trial in trials
        if trial.phase is Phase.VERDICT and trial.arm in winners and trial.origin != winners[trial.arm].origin
    }
    return [each for each in rounds if spent.isdisjoint(each.seeds)] or rounds[-1:]


def _alpha(index: int) -> float:
    """Return the error rate of a round."""
    return FIRST_ALPHA if index == 0 else ALPHA * _KEPT / 2 ** min(index, _HALVINGS)


def _width(found: InterimResult) -> tuple[bool, float, int]:
    """Return a sort key that is small for an informative result."""
    return found.half is None, found.half or 0.0, -found.seeds
