"""The answer of a job: what its driver finds at the end, as the ledger keeps it and everybody reads it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

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
    "Winner",
]

VERSION = 2
"""Version of the layout. Answers of the first version carry no number."""


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
    """How much worse a gamma is than the best one, with a 90% interval. Answer.scale gives the unit."""

    gamma: float
    cost: float
    low: float
    high: float


class Curve(_Part):
    """The objective over gamma, all other coordinates at their best, at equally spaced gammas.

    `low` and `high` hold 90%, `low50` and `high50` half. `flat` is the probability that a gamma costs less than the
    smallest difference that matters.
    """

    gamma: list[float]
    median: list[float]
    low: list[float]
    high: list[float]
    low50: list[float]
    high50: list[float]
    flat: list[float]


class Gamma(_Part):
    """Which gammas do well.

    Attributes:
        best: Of the recommended configuration; None where none was confirmed.
        low: Lower end of the interval that holds the best gamma with a probability of `level`; None where too little
            is known.
        high: Upper end of that interval.
        low50: Lower end of the interval that holds it with a probability of one half.
        high50: Upper end of that interval.
        flat: Ranges of gammas that cost less than `practical`, each gamma with a probability of one half or more;
            empty where nothing says what difference matters.
        indistinguishable: Ranges of gammas that cost less than `deviation`: one run cannot tell them apart.
        costs: Of SGD's and Adam's gamma, 0 and 1, where the space has them.
        outside: What the best gamma outside [0, 1] costs over the best within; below 0 where it is better. None where
            the space has only one of the two.
        practical: The smallest difference that matters, as the job says.
        deviation: Standard deviation of the objective between seeds, on the same scale as costs.
        enough: Whether the trials say more than what the space allows.
        trials: Trials of Anon that this rests on.
        note: How the interval was made, or why there is none.
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
    """Cost of the usual value of a coordinate when all else is tuned; below 0 where it may be better."""

    coordinate: str
    value: float
    cost: Interval


class Spent(_Part):
    """Cost of one phase of an arm, without lost attempts.

    Attributes:
        trials: That trained for an epoch or more.
        epochs: Of all of them.
        steps: Of the optimizer; None where they were not counted.
        samples: That were trained on; None in a training function of the user, which has its own data.
        seconds: Of training and validation, without waiting.
        typical: Median seconds of a trial that was COMPLETE; None if none was.
    """

    arm: str
    phase: Literal["search", "confirm", "verdict"]
    trials: int
    epochs: int
    steps: int | None = None
    samples: int | None = None
    seconds: float
    typical: float | None = None


class Repeats(_Part):
    """One configuration on several seeds.

    Attributes:
        mean: Of those that completed, on the objective's scale (geometric of a loss); None if none did.
        seeds: Value by seed; None where it diverged or failed.
    """

    mean: float | None
    seeds: dict[str, float | None]


class Winner(_Part):
    """The configuration that an arm was tuned to.

    Attributes:
        trial: Whose configuration it is.
        params: Its search coordinates.
        hyperparameters: What the optimizer is made with.
        finalists: The trials whose configurations were rerun.
        confirm: On the seeds by which it was chosen, validation data: too good, as the best of several.
        test: On fresh seeds, test data.
        at_bound: Search coordinates at an end of their range, where a wider space might have better ones.
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
        repeat: Which of its searches, from 0.
        trial: Whose configuration won it; None where no configuration was confirmed.
        gamma: Of that configuration; None where its optimizer has none.
        confirm: Its mean on the seeds by which it was chosen, as in Repeats.
        test: Its mean on fresh seeds of its own.
    """

    arm: str
    repeat: int
    trial: str | None = None
    gamma: float | None = None
    confirm: float | None = None
    test: float | None = None


class Confirmed(_Part):
    """Runs of finalists: as many as there would be without racing, and as many as were made."""

    planned: int
    made: int


class Stopped(_Part):
    """A search that ended before its budget, since more trials were not expected to help (`search.stop`).

    Attributes:
        arm: Whose search.
        repeat: The search of the arm, from 0.
        trials: That it has.
        planned: `budget.trials`.
    """

    arm: str
    repeat: int = 0
    trials: int
    planned: int


class Comparison(_Part):
    """Anon against one baseline.

    A difference is Anon's value less the baseline's, so below 0 where Anon's loss, or error, is smaller.

    Attributes:
        baseline: The other arm.
        of: Two configurations, or two optimizers as they were tuned: then the interval holds the luck of the search.
        searches: Of each optimizer, by which that luck was measured; 1: it is estimated roughly from one.
        outcome: What can be said.
        anon: Mean test objective of Anon's winner, as in Repeats, or of the winners of all its searches; None if it
            completed on no seed.
        other: The same of the baseline's.
        difference: None where fewer than two seeds can be compared.
        low: Lower end of its interval.
        high: Upper end.
        level: Of that interval.
        seeds: Seeds that were compared.
        detectable: Smallest difference that would have been decided, where nothing was.
        seeds_needed: About so many seeds would decide it.
        note: What limits the statement.
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
        version: Of this layout.
        scale: As `objective.scale`. Differences, costs and margins are shares on the first two, of the loss or of the
            error (0.12: 12% more), and numbers in units of the objective on the linear one, small being good.
        trials: Of each search: `budget.trials` when this was found, which an extension raises. None in older answers.
        tested: Whether the verdict is on test data; False where the user's training reported none.
        may_differ: Why another run of the job may find something else.
        stopped: Searches that ended before their budget.
        confirm: How many runs racing saved.
        gamma: Which gammas do well.
        customary: Of beta3 and the delay; empty where too little is known.
        winners: By arm.
        searches: Of all arms, repeat by repeat; empty where each arm was searched once.
        verdict: Of each baseline, on the configurations and on the optimizers.
        spent: By arm and phase.
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
        """Return a stored result, one of an earlier version as well; None where there is none."""
        if stored is None:
            return None
        if stored.get("version", 1) < VERSION:
            stored = _from_first(stored)
        return cls.model_validate(stored)

    def of(self, kind: Literal["configuration", "optimizer"]) -> list[Comparison]:
        """The verdicts of one kind."""
        return [each for each in self.verdict if each.of == kind]


_FIRST_OUTCOMES = {"better": Outcome.BETTER, "worse": Outcome.WORSE}


def _from_first(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A result of the first version; of its gammas only the chosen one has the same meaning today."""
    spread = stored["gamma"]
    note = "made by an earlier version, which estimated no interval"
    return {
        **stored,
        "version": VERSION,
        "gamma": {"best": spread["best"], "trials": spread["complete"], "note": note},
        # An interval that held 0 was called "no difference", however wide it was. Its sign was that of the objective,
        # which is not known here.
        "verdict": [
            {
                **each,
                "outcome": _FIRST_OUTCOMES.get(each["outcome"], Outcome.UNDECIDED),
                **dict.fromkeys(("difference", "low", "high")),
            }
            for each in stored["verdict"]
        ],
    }
