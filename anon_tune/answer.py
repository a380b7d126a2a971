"""The answer of a job: the typed document that the driver writes at the end and all other parts read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "VERSION",
    "Answer",
    "Comparison",
    "Confirmed",
    "Cost",
    "Curve",
    "Customary",
    "Gamma",
    "Interval",
    "Outcome",
    "Repeats",
    "Search",
    "Spent",
    "Stopped",
    "Total",
    "Winner",
]

VERSION = 2
"""Version of the layout. Answers of the first version have no number."""


class Outcome(StrEnum):
    """The result of comparing Anon with a baseline."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "practically equal"
    UNDECIDED = "undecided"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, defer_build=True)


class Interval(_Part):
    """A difference with a 90% interval. Answer.scale gives the unit."""

    low: float
    middle: float
    high: float


class Cost(_Part):
    """Cost of a gamma over the best one, with a 90% interval. Answer.scale gives the unit."""

    gamma: float
    cost: float
    low: float
    high: float


class Curve(_Part):
    """The objective over equally spaced gammas, with all other coordinates at their best.

    `low` and `high` are a 90% band, `low50` and `high50` a 50% band. `flat` is the probability that a gamma costs
    less than the smallest difference that matters.
    """

    gamma: list[float]
    median: list[float]
    low: list[float]
    high: list[float]
    low50: list[float]
    high50: list[float]
    flat: list[float]


class Gamma(_Part):
    """The gammas that do well.

    Attributes:
        best: Gamma of the recommended configuration; None if none was confirmed.
        low: Lower end of the interval that holds the best gamma with a probability of `level`; None with too few
            trials.
        high: Upper end of that interval.
        low50: Lower end of the 50% interval.
        high50: Upper end of that interval.
        flat: Ranges of gammas that cost less than `practical`, each gamma with a probability of one half or more;
            empty without `practical`.
        indistinguishable: Ranges of gammas that cost less than `deviation`, so single runs cannot rank them.
        costs: Costs of SGD's and Adam's gamma, 0 and 1, if the space has them.
        outside: Cost of the best gamma outside [0, 1] over the best one inside; negative if it is better. None if the
            space has only one of the two.
        practical: The smallest difference that matters, from the job.
        deviation: Standard deviation of the objective between seeds, on the same scale as costs.
        enough: Whether the trials narrow the interval clearly below the searched range.
        trials: Number of Anon's trials behind this.
        note: Method of the interval, or the reason why it is missing.
    """

    best: float | None
    low: float | None = None
    high: float | None = None
    low50: float | None = None
    high50: float | None = None
    level: float = 0.9
    flat: list[tuple[float, float]] = []
    indistinguishable: list[tuple[float, float]] = []
    costs: list[Cost] = []
    outside: Interval | None = None
    curve: Curve | None = None
    practical: float | None = None
    deviation: float | None = None
    enough: bool = False
    trials: int = 0
    note: str = ""


class Customary(_Part):
    """Cost of the usual value of a coordinate when all else is tuned; negative if it may be better."""

    coordinate: str
    value: float
    cost: Interval


class Spent(_Part):
    """Cost of one phase of an arm, without lost attempts.

    Attributes:
        trials: Number of trials with a report.
        epochs: Their epochs in total; None if the budget is in steps.
        steps: Optimizer steps in total; None if they were not counted.
        samples: Training samples in total; None for the user's own training, which has its own data.
        seconds: Time of training and validation up to the last reports, without waiting.
        typical: Median seconds of a COMPLETE trial; None without one.
    """

    arm: str
    phase: Literal["search", "confirm", "verdict"]
    trials: int
    epochs: int | None = None
    steps: int | None = None
    samples: int | None = None
    seconds: float
    typical: float | None = None


class Total(_Part):
    """Cost of an arm over all phases; the attributes are those of Spent."""

    epochs: int | None
    steps: int | None
    samples: int | None
    seconds: float


class Repeats(_Part):
    """One configuration on several seeds.

    Attributes:
        mean: Mean of the completed runs on the objective's scale (geometric for a loss); None if none completed.
        seeds: Value by seed; None where it diverged or failed.
    """

    mean: float | None
    seeds: dict[str, float | None]


class Winner(_Part):
    """The winning configuration of an arm.

    Attributes:
        trial: The trial with this configuration.
        params: Its search coordinates.
        hyperparameters: Arguments of the optimizer.
        finalists: The trials whose configurations were rerun.
        confirm: Values on the seeds that selected it, on validation data; biased, as the best of several.
        test: Values on fresh seeds and test data.
        at_bound: Search coordinates at an end of their range; a wider space might have better values.
    """

    trial: str
    params: dict[str, Any]
    hyperparameters: dict[str, Any]
    finalists: list[str]
    confirm: Repeats
    test: Repeats
    at_bound: list[str] = []


class Search(_Part):
    """One of several searches of an arm (`search.repeats`).

    Attributes:
        arm: Its name.
        repeat: Number of the search, from 0.
        trial: The trial with the winning configuration; None if none was confirmed.
        gamma: Gamma of that configuration; None if its optimizer has none.
        confirm: Its mean on the seeds that selected it, as in Repeats.
        test: Its mean on the search's own fresh seeds.
    """

    arm: str
    repeat: int
    trial: str | None = None
    gamma: float | None = None
    confirm: float | None = None
    test: float | None = None


class Confirmed(_Part):
    """Runs of finalists: the number without racing, and the number that ran."""

    planned: int
    made: int


class Stopped(_Part):
    """A search that `search.stop` ended before its budget, because more trials were not expected to help.

    Attributes:
        arm: Name of the arm.
        repeat: Number of the search, from 0.
        trials: Number of its trials.
        planned: `budget.trials`.
    """

    arm: str
    repeat: int = 0
    trials: int
    planned: int


class Comparison(_Part):
    """Anon against one baseline.

    A difference is Anon's value less the baseline's, so it is negative if Anon's loss, or error, is smaller.

    Attributes:
        baseline: The other arm.
        of: "configuration" compares two configurations; "optimizer" compares two tuned optimizers, and its interval
            includes the luck of the search.
        searches: Number of searches of each optimizer that measured that luck; 1: a rough estimate from one search.
        outcome: Outcome for Anon.
        anon: Mean test objective of Anon's winner, as in Repeats, or of the winners of all its searches; None if no
            run completed.
        other: The same for the baseline.
        difference: None if fewer than two seeds can be compared.
        low: Lower end of its interval.
        high: Upper end.
        level: Probability of that interval.
        seeds: Number of compared seeds.
        detectable: Smallest difference that would have been decided; None if the comparison is decided.
        seeds_needed: Approximate number of seeds that would decide it.
        note: Limitation of the statement.
    """

    baseline: str
    of: Literal["configuration", "optimizer"] = "configuration"
    outcome: Outcome
    anon: float | None
    other: float | None
    difference: float | None
    low: float | None
    high: float | None
    level: float = 0.95
    searches: int = 1
    seeds: int
    detectable: float | None = None
    seeds_needed: int | None = None
    note: str = ""


class Answer(_Part):
    """A job's answer.

    Attributes:
        version: Version of this layout.
        scale: `objective.scale`. Differences, costs and margins are shares of the loss or error on the first two
            scales (0.12: 12% more), and numbers in units of the objective on the linear one; smaller is better.
        trials: Trials of each search: `budget.trials` at the time of this answer. None in older answers.
        tested: Whether the verdict is on test data; False if the user's training reported none.
        may_differ: Reasons why another run of the job may find another answer.
        stopped: Searches that ended before their budget.
        confirm: Runs that racing saved.
        gamma: Which gammas do well.
        customary: Costs of the usual beta3 and delay; empty with too few trials.
        winners: Winners by arm.
        searches: Searches of all arms, repeat by repeat; empty if each arm was searched once.
        verdict: Comparisons with each baseline, on the configurations and on the optimizers.
        spent: Costs by arm and phase.
    """

    version: int = VERSION
    scale: Literal["log", "log_error", "linear"] = "linear"
    trials: int | None = None
    tested: bool = True
    may_differ: list[str] = []
    stopped: list[Stopped] = []
    confirm: Confirmed = Confirmed(planned=0, made=0)
    gamma: Gamma
    customary: list[Customary] = []
    winners: dict[str, Winner] = Field(default_factory=dict)
    searches: list[Search] = []
    verdict: list[Comparison] = []
    spent: list[Spent] = []

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Return a stored result, of this or an earlier version; None for a job without a result.

        Raises:
            ValueError: It cannot be read: it was damaged, or a later version wrote it.
        """
        if stored is None:
            return None
        try:
            if stored.get("version", 1) < VERSION:
                stored = _from_first(stored)
            return cls.model_validate(stored)
        except (AttributeError, KeyError, TypeError, ValidationError) as error:
            raise ValueError(f"the stored answer cannot be read ({type(error).__name__}: {error})") from error

    def totals(self) -> dict[str, Total]:
        """Return the cost of each arm."""
        arms = dict.fromkeys(each.arm for each in self.spent)
        return {arm: _total([each for each in self.spent if each.arm == arm]) for arm in arms}

    def of(self, kind: Literal["configuration", "optimizer"]) -> list[Comparison]:
        """Return the verdicts of one kind."""
        return [each for each in self.verdict if each.of == kind]


def _total(phases: list[Spent]) -> Total:
    return Total(
        epochs=_sum(each.epochs for each in phases),
        steps=_sum(each.steps for each in phases),
        samples=_sum(each.samples for each in phases),
        seconds=sum(each.seconds for each in phases),
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """Return the sum; None if a part is not known."""
    found = list(counts)
    known = [count for count in found if count is not None]
    return sum(known) if len(known) == len(found) else None


_FIRST_OUTCOMES = {"better": Outcome.BETTER, "worse": Outcome.WORSE}


def _from_first(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result of the first version, whose only gamma with the same meaning today is the chosen one."""
    spread = stored["gamma"]
    note = "made by an earlier version, which estimated no interval"
    return {
        **stored,
        "version": VERSION,
        "gamma": {"best": spread["best"], "trials": spread["complete"], "note": note},
        # Version 1 called any interval that included 0 "no difference", however wide. Its sign was that of the
        # objective, which is not known here.
        "verdict": [
            {
                **each,
                "outcome": _FIRST_OUTCOMES.get(each["outcome"], Outcome.UNDECIDED),
                **dict.fromkeys(("difference", "low", "high")),
            }
            for each in stored["verdict"]
        ],
    }
