"""Tables of the premise benchmark, and the statistics in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from rich import box
from rich.table import Table
from scipy.stats import t as student

from benchmarks.premise.plan import (
    ABLATION_GAMMA,
    BETA3S,
    CONTRASTS,
    DELAYS,
    FLOORS,
    GAMMAS,
    USUAL,
    WARMUPS,
    Cell,
    Contrast,
    Effort,
    Result,
    Run,
    Stage,
    baselines,
    chosen,
)

__all__ = ["Paired", "ablation", "compare", "contrasts", "holm", "losses"]

ALPHA = 0.05
PRACTICAL = 0.03
"""Share of the loss below which a difference does not matter."""

_PENALTY = 3.0
"""A run that diverged counts as so many seed deviations worse than the worst run, as in a job's verdict."""

Done = Mapping[Run, Result]
Value = Callable[[Result], float | None]


@dataclass(frozen=True)
class Paired:
    """Two cells on common seeds: the difference in log test loss, the first less the second.

    Attributes:
        difference: Mean.
        half: Half the width of the interval that holds with 95% for all fixed contrasts together (Bonferroni).
        p: Two-sided p value of the paired t test, for this contrast alone.
    """

    difference: float
    half: float
    p: float


def compare(first: Sequence[float | None], second: Sequence[float | None], comparisons: int) -> Paired | None:
    """Compare log losses seed by seed, with Student's paired t test; None stands for a run that diverged.

    Args:
        first: By seed.
        second: By the same seeds.
        comparisons: How many share the error rate.

    Returns:
        None if there are fewer than two seeds, nothing differs between them, or all runs of a side diverged.
    """
    sides = [[value for value in side if value is not None] for side in (first, second)]
    if len(first) < 2 or not all(sides):
        return None
    squares = sum(sum((value - fmean(side)) ** 2 for value in side) for side in sides)
    deviation = math.sqrt(squares / max(1, sum(map(len, sides)) - 2))
    worst = max(max(side) for side in sides) + _PENALTY * deviation
    pairs = zip(first, second, strict=True)
    differences = [(worst if a is None else a) - (worst if b is None else b) for a, b in pairs]
    error = stdev(differences) / math.sqrt(len(differences))
    if error == 0:
        return None
    freedom, mean = len(differences) - 1, fmean(differences)
    half = float(student.isf(ALPHA / comparisons / 2, freedom)) * error
    return Paired(mean, half, 2 * float(student.sf(abs(mean) / error, freedom)))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted by Holm's step-down method (Holm 1979), in the order given."""
    adjusted = [1.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def contrasts(done: Done, effort: Effort) -> Table:
    """Return the fixed contrasts, and the same at other floors and warm-ups as a description.

    While some contrasts are missing, the p values are adjusted for all of them.
    """
    table = _table(
        "fixed contrasts, in test loss",
        [
            "training",
            "first",
            "second",
            "seeds",
            "diverged",
            "difference",
            "p, Holm",
            "first is",
            "elsewhere",
        ],
    )
    found = [_paired(contrast, done, effort) for contrast in CONTRASTS]
    adjusted = holm([1.0 if paired is None else paired.p for paired in found])
    for contrast, paired, p in zip(CONTRASTS, found, adjusted, strict=True):
        sides = [_fresh(cell, done, effort) for cell in (contrast.first, contrast.second)]
        diverged = ", ".join(str(sum(r.test is None for r in side)) if side else "-" for side in sides)
        elsewhere = "; ".join(_elsewhere(contrast, done, effort))
        always = [_always_diverged(cell, done, effort) for cell in (contrast.first, contrast.second)]
        statement = ["-", "-", "worse: always diverged" if always[0] and sides[1] and not always[1] else "-"]
        if paired is not None:
            low, high = paired.difference - paired.half, paired.difference + paired.half
            shown = f"{_percent(paired.difference)} ({_percent(low)} to {_percent(high)})"
            statement = [shown, f"{p:.2g}", _outcome(paired, p)]
        table.add_row(
            contrast.first.training,
            contrast.first.name,
            contrast.second.name,
            str(min(map(len, sides))),
            diverged,
            *statement,
            elsewhere or "-",
        )
    return table


def losses(training: str, done: Done, effort: Effort) -> Table:
    """Return the test loss by gamma or baseline, floor and warm-up."""
    settings = [(warmup, floor) for warmup in WARMUPS for floor in FLOORS]
    table = _table(
        f"{training}: mean test loss ± standard error (chosen step size)",
        ["optimizer", *(f"warm-up {warmup:g}, floor {floor:g}" for warmup, floor in settings)],
    )

    def row(of: Sequence[Cell | None]) -> list[str]:
        return ["-" if cell is None else _cell(cell, done, effort, lambda r: r.test) for cell in of]

    for gamma in GAMMAS:
        anon = [Cell(training, warmup=warmup, gamma=gamma, floor=floor) for warmup, floor in settings]
        _add(table, anon[0].name, row(anon))
    for without, warm in zip(*(baselines(training, warmup) for warmup in WARMUPS), strict=True):
        _add(table, without.name, row([without, None, warm, None]))
    return table


def ablation(training: str, done: Done, effort: Effort, *, accuracy: bool) -> Table:
    """Return the test loss, or the accuracy in percent, by a_n and beta3."""
    gamma, usual = ABLATION_GAMMA[training], USUAL[training]
    table = _table(
        f"{training}, gamma {gamma:g}: mean test {'accuracy, %,' if accuracy else 'loss'} ± standard error",
        ["a_n", *(f"beta3 {beta3:g}" for beta3 in (*BETA3S, 0.999))],
    )

    def value(result: Result) -> float | None:
        if not accuracy:
            return result.test
        return None if result.accuracy is None else 100 * result.accuracy

    for delay in DELAYS:
        name = "every step" if ":" in delay else f"{delay}^(n-1)"
        of = [replace(usual, gamma=gamma, beta3=beta3, delay=delay) for beta3 in (*BETA3S, 0.999)]
        _add(table, name, [_cell(cell, done, effort, value) for cell in of])
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for column in columns:
        table.add_column(column)
    return table


def _add(table: Table, name: str, values: Sequence[str]) -> None:
    """Add a row, unless nothing is known of it yet."""
    if any(value != "-" for value in values):
        table.add_row(name, *values)


def _fresh(cell: Cell, done: Done, effort: Effort) -> list[Result]:
    """Return the fresh runs of a cell; none before all have ended."""
    size = chosen(cell, done, effort)
    if size is None:
        return []
    every = [Run(cell, size, Stage.FRESH, index) for index in range(effort.fresh[cell.training])]
    return [done[run] for run in every] if all(run in done for run in every) else []


def _always_diverged(cell: Cell, done: Done, effort: Effort) -> bool:
    """Whether the scan diverged at every step size, or all fresh runs did."""
    scan = [done.get(Run(cell, size, Stage.SCAN, 0)) for size in effort.step_sizes]
    fresh = _fresh(cell, done, effort)
    lost = [
        bool(runs) and all(r is not None and r.validation is None for r in runs) for runs in (scan, fresh)
    ]
    return any(lost)


def _cell(cell: Cell, done: Done, effort: Effort, value: Value) -> str:
    if _always_diverged(cell, done, effort):
        return "diverged"
    results = _fresh(cell, done, effort)
    values = [v for v in map(value, results) if v is not None]
    size = chosen(cell, done, effort)
    if size is None or not results:
        return "-"
    edge = "*" if size in (effort.step_sizes[0], effort.step_sizes[-1]) else ""
    lost = f", {len(results) - len(values)} of {len(results)} diverged" if len(values) < len(results) else ""
    if not values:
        return "-"
    error = f" ± {stdev(values) / math.sqrt(len(values)):.2g}" if len(values) > 1 else ""
    return f"{fmean(values):.4g}{error} ({size:.2g}{edge}{lost})"


def _paired(contrast: Contrast, done: Done, effort: Effort) -> Paired | None:
    first, second = (
        [None if result.test is None else math.log(result.test) for result in _fresh(cell, done, effort)]
        for cell in (contrast.first, contrast.second)
    )
    return compare(first, second, len(CONTRASTS)) if len(first) == len(second) else None


def _outcome(paired: Paired, p: float) -> str:
    if p < ALPHA:
        return "better" if paired.difference < 0 else "worse"
    within = abs(paired.difference) + paired.half < math.log1p(PRACTICAL)
    return f"equal within {PRACTICAL:.0%}" if within else "undecided"


def _elsewhere(contrast: Contrast, done: Done, effort: Effort) -> list[str]:
    shown = []
    for warmup in WARMUPS:
        for floor in FLOORS:
            if (warmup, floor) == (contrast.first.warmup, contrast.first.floor):
                continue
            first = replace(contrast.first, warmup=warmup, floor=floor)
            second = replace(contrast.second, warmup=warmup)
            paired = _paired(Contrast(first, second), done, effort)
            if paired is not None:
                shown.append(f"{_percent(paired.difference)} ({warmup:g}, {floor:g})")
    return shown


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):+.1%}"
