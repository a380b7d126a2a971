"""The plan of the premise benchmark, as data: which cells there are, and which runs each still needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

from anon_tune.records import Phase
from anon_tune.search.coordinates import typical_multiplier
from anon_tune.search.seeds import trial_seed

__all__ = [
    "BETA3S",
    "CONTRASTS",
    "DELAYS",
    "FULL",
    "GAMMAS",
    "QUICK",
    "STEP_SIZES",
    "USUAL",
    "Cell",
    "Contrast",
    "Effort",
    "Result",
    "Run",
    "Stage",
    "baselines",
    "cells",
    "chosen",
    "quick_cells",
    "runs",
]

CNN, GPT = "fashion-cnn", "shakespeare-gpt"
GAMMAS = (-1.0, -0.5, -0.25, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.1, 1.25, 1.5)
FLOORS = (0.0, 0.03)
WARMUPS = (0.0, 0.1)
BETA3S = (0.1, 0.3, 0.5, 0.7, 0.9)
DELAYS = ("2", "3", "4", "every:1")
ABLATION_GAMMA = {GPT: 1.0, CNN: 0.5}
"""The gamma at which beta3 and a_n are varied; at 0 they have no effect."""

STEP_SIZES = tuple(0.3 * 2.0**k for k in range(7))
"""From 0.3 to 19, in the search's coordinate.

Placed by trial runs on another seed, from 0.1 to 24: the best step size was from about 0.4 (gamma -1) to 10.
"""


class Stage(StrEnum):
    """Stages of a cell; their seeds are disjoint, and the same in all cells."""

    SCAN = "scan"
    CONFIRM = "confirm"
    FRESH = "fresh"


_SEED = 1
"""Base of all seeds; the trial runs that placed the step sizes used another."""

_PHASES = {Stage.SCAN: Phase.SEARCH, Stage.CONFIRM: Phase.CONFIRM, Stage.FRESH: Phase.VERDICT}


@dataclass(frozen=True)
class Cell:
    """A training with one optimizer, all of whose settings but the step size are given.

    Attributes:
        training: Name of a recorded training.
        optimizer: anon, adamw, sgd, lion or muon.
        warmup: Share of the steps over which the learning rate rises.
        gamma: Anon's adaptivity.
        floor: Anon's floor; 0 is the paper's rule.
        beta3: Anon's weight of the old preconditioner at a refresh.
        delay: Anon's refresh steps a_n.
        beta2: AdamW's.
        momentum: SGD's.
    """

    training: str
    optimizer: str = "anon"
    warmup: float = 0.0
    gamma: float = 0.0
    floor: float = 0.0
    beta3: float = 0.5
    delay: str = "2"
    beta2: float = 0.999
    momentum: float = 0.9

    @property
    def name(self) -> str:
        """Optimizer, with the setting that distinguishes it from others of its kind."""
        match self.optimizer:
            case "anon":
                return f"Anon, gamma {self.gamma:g}"
            case "adamw":
                return f"Adam, beta2 {self.beta2:g}"
            case "sgd":
                return f"SGD, momentum {self.momentum:g}"
        return self.optimizer.capitalize()

    @property
    def factory(self) -> str:
        """The optimizer as `make_optimizer` knows it."""
        own = self.optimizer in ("lion", "muon")
        return f"benchmarks.premise.optimizers:{self.optimizer}" if own else self.optimizer

    def hyperparameters(self, step_size: float, log_mean_sigma: float) -> dict[str, object]:
        """Return the optimizer's arguments, without weight decay.

        Args:
            step_size: In the search's coordinate: the learning rate of Anon at gamma 0, the length of SGD's step
                once its momentum has built up, and for Adam and Muon the learning rate that Anon would have at
                gamma 1. For Lion it is half of that, which has its best one near the middle of those tried.
            log_mean_sigma: From the probe.
        """
        like_adam = step_size / typical_multiplier(1.0, log_mean_sigma)
        match self.optimizer:
            case "anon":
                return {
                    "lr": step_size / typical_multiplier(self.gamma, log_mean_sigma),
                    "betas": (0.9, 0.999, self.beta3),
                    "gamma": self.gamma,
                    "delay": self.delay if ":" in self.delay else float(self.delay),
                    "floor": self.floor,
                }
            case "adamw":
                return {"lr": like_adam, "betas": (0.9, self.beta2), "weight_decay": 0.0}
            case "sgd":
                return {"lr": step_size * (1 - self.momentum), "momentum": self.momentum}
            case "lion":
                return {"lr": like_adam / 2}
        return {"lr": like_adam}


@dataclass(frozen=True)
class Run:
    """One training to its end."""

    cell: Cell
    step_size: float
    stage: Stage
    index: int

    @property
    def seed(self) -> int:
        """The same in all cells, so that fresh runs are paired."""
        return trial_seed(_SEED, _PHASES[self.stage], self.index)


@dataclass(frozen=True)
class Result:
    """The end of a run; all values but `seconds` are None where it diverged.

    Attributes:
        validation: Loss on the validation split.
        test: Loss on the test split.
        accuracy: On the test split, in [0, 1]; None for a language model.
        seconds: Processor time of the run.
    """

    validation: float | None
    test: float | None
    accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class Effort:
    """Effort of each cell.

    Attributes:
        step_sizes: Scanned on one seed each.
        confirm: Seeds on which the two best step sizes run again.
        fresh: By training, seeds on which the chosen step size runs.
    """

    step_sizes: tuple[float, ...]
    confirm: int
    fresh: Mapping[str, int]


FULL = Effort(STEP_SIZES, 3, {GPT: 6, CNN: 20})
QUICK = Effort(STEP_SIZES[::3], 1, {GPT: 2, CNN: 2})


@dataclass(frozen=True)
class Contrast:
    """A comparison that was fixed before the first run: the first cell against the second."""

    first: Cell
    second: Cell


USUAL = {GPT: Cell(GPT, warmup=0.1), CNN: Cell(CNN, warmup=0.0)}
"""The paper's own rule (floor 0, beta3 0.5, a_n = 2^(n-1)), with the customary warm-up: for the GPT only."""


def _anon(training: str, gamma: float, **others) -> Cell:
    return replace(USUAL[training], gamma=gamma, **others)


def _adam(training: str, beta2: float = 0.999) -> Cell:
    return Cell(training, "adamw", USUAL[training].warmup, beta2=beta2)


def _sgd(training: str, momentum: float = 0.9) -> Cell:
    return Cell(training, "sgd", USUAL[training].warmup, momentum=momentum)


CONTRASTS = (
    *(Contrast(_anon(GPT, gamma), _adam(GPT)) for gamma in (1.0, 1.1, 1.25)),
    *(Contrast(_anon(CNN, gamma), other) for other in (_adam(CNN), _sgd(CNN)) for gamma in (-0.25, 0.0, 0.1)),
)
"""All in the setting of `USUAL`, and each with the baseline's default beta2 or momentum."""


def baselines(training: str, warmup: float) -> list[Cell]:
    """Return the cells with which Anon is compared."""
    return [
        *(Cell(training, "adamw", warmup, beta2=beta2) for beta2 in (0.95, 0.999, 0.9999)),
        *(Cell(training, "sgd", warmup, momentum=momentum) for momentum in (0.64, 0.9)),
        Cell(training, "lion", warmup),
        Cell(training, "muon", warmup),
    ]


def cells() -> list[Cell]:
    """Return all cells in the order in which they run, the most useful first.

    The contrasts; all of gamma and of the baselines where the contrasts are; the other floors and warm-ups; beta3 and
    a_n.
    """
    found = [cell for contrast in CONTRASTS for cell in (contrast.first, contrast.second)]
    for training, usual in USUAL.items():
        found += [_anon(training, gamma) for gamma in GAMMAS] + baselines(training, usual.warmup)
    for training in USUAL:
        for warmup in WARMUPS:
            found += [_anon(training, g, warmup=warmup, floor=floor) for floor in FLOORS for g in GAMMAS]
            found += baselines(training, warmup)
    for training, gamma in ABLATION_GAMMA.items():
        found += [_anon(training, gamma, beta3=beta3, delay=delay) for delay in DELAYS for beta3 in BETA3S]
        found.append(_anon(training, gamma, beta3=0.999, delay="every:1"))  # a variant by an author
    return list(dict.fromkeys(found))


def quick_cells() -> list[Cell]:
    """Return two contrasts' cells, to try the benchmark."""
    return [cell for contrast in (CONTRASTS[0], CONTRASTS[-1]) for cell in (contrast.first, contrast.second)]


def runs(cell: Cell, done: Mapping[Run, Result], effort: Effort) -> Iterator[Run]:
    """Yield the runs that a cell still needs and that can be made now: those of its first unfinished stage."""
    stages = (
        [Run(cell, size, Stage.SCAN, 0) for size in effort.step_sizes],
        [
            Run(cell, s, Stage.CONFIRM, i)
            for s in _promising(cell, done, effort)
            for i in range(effort.confirm)
        ],
        [
            Run(cell, size, Stage.FRESH, i)
            for size in (chosen(cell, done, effort),)
            if size is not None
            for i in range(effort.fresh[cell.training])
        ],
    )
    for stage in stages:
        missing = [run for run in stage if run not in done]
        if missing:
            yield from missing
            return


def _promising(cell: Cell, done: Mapping[Run, Result], effort: Effort) -> list[float]:
    """Return the two step sizes that the scan found best; fewer where others diverged, none before its end."""
    found: dict[float, float] = {}
    for size in effort.step_sizes:
        result = done.get(Run(cell, size, Stage.SCAN, 0))
        if result is None:
            return []
        if result.validation is not None:
            found[size] = result.validation
    return sorted(found, key=lambda size: found[size])[:2]


def chosen(cell: Cell, done: Mapping[Run, Result], effort: Effort) -> float | None:
    """Return the step size with the best validation loss on the confirm seeds, or None.

    Fewer divergent runs count first, then the mean of the log loss. None before the confirm runs have ended, or if
    every step size diverged in the scan.
    """
    ranks: dict[float, tuple[int, float]] = {}
    for size in _promising(cell, done, effort):
        results = [done.get(Run(cell, size, Stage.CONFIRM, index)) for index in range(effort.confirm)]
        if None in results:
            return None
        values = [math.log(r.validation) for r in results if r is not None and r.validation is not None]
        ranks[size] = (len(results) - len(values), fmean(values) if values else math.inf)
    return min(ranks, key=lambda size: ranks[size]) if ranks else None
