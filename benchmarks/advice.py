"""Coverage and cost of advice, over families with a known answer: `python -m benchmarks.advice`.

The benchmark draws the best gamma and the findings of each job of a family, and asks `advise` about the next job. It
prints how often the interval holds that job's best gamma, its width, and the cost of the advised gamma there. It also
has the previous rule: the mean of the best gammas, with the union of their intervals.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from anon_tune.advice.prior import GAMMAS, advise
from anon_tune.advice.statement import Evidence, Fingerprint
from anon_tune.answer import Curve, Gamma

_NOISE, _LEAST_ERROR = 0.05, 0.08
"""A job tells its best gamma with a standard deviation of the first over its steepness, the second at least."""

_FLAT = 0.1
"""Share of jobs on which gamma makes no difference."""

_STEEPNESS, _STEEPNESSES = 0.2, 0.7
"""Steepness: log loss per squared distance from the best gamma, as median and standard deviation of its logarithm."""

Law = Callable[[np.random.Generator, int], np.ndarray]
"""Draws the best gammas of so many jobs of one family."""


def _normal(mean: float, spread: float) -> Law:
    return lambda rng, count: mean + spread * rng.normal(size=count)


def _two_kinds(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.where(rng.random(count) < 0.5, 0.1, 0.9) + 0.1 * rng.normal(size=count)


def _one_apart(rng: np.random.Generator, count: int) -> np.ndarray:
    """One job in ten has nothing to do with the others."""
    return np.where(rng.random(count) < 0.1, rng.uniform(*GAMMAS, count), 0.3 + 0.15 * rng.normal(size=count))


LAWS: Mapping[str, Law] = {
    "all at 0.5": _normal(0.5, 0.0),
    "normal, deviation 0.1": _normal(0.4, 0.1),
    "normal, deviation 0.4": _normal(0.4, 0.4),
    "normal, deviation 0.8": _normal(0.4, 0.8),
    "near the end, deviation 0.3": _normal(1.3, 0.3),
    "two kinds, 0.1 and 0.9": _two_kinds,
    "one in ten anywhere": _one_apart,
}
"""Distributions of the best gammas of a family; those beyond the range are moved to its end."""


def drawn(rng: np.random.Generator, theta: float, number: int, family: str) -> Evidence:
    """Return what a search of a job with this best gamma might say."""
    bottom, top = GAMMAS
    at = np.linspace(bottom, top, 25)
    if rng.random() < _FLAT:
        seen, error, steepness = rng.uniform(bottom, top), math.inf, 0.0
    else:
        steepness = _steepness(rng)
        error = max(_NOISE / steepness, _LEAST_ERROR)
        seen = theta + error * rng.normal()
    low, high = _interval(seen, error)
    values = np.exp(steepness * (at - seen) ** 2).tolist()
    same = dict.fromkeys(("median", "low", "high", "low50", "high50"), values)
    curve = Curve(gamma=at.tolist(), flat=[0.0] * len(at), **same)
    best = min(max(seen, bottom), top)
    gamma = Gamma(best=best, low=low, high=high, curve=curve, enough=high - low < 1.5, trials=20)
    name = f"job {number}"
    return Evidence(
        id=name, name=name, subject=name, architecture=Fingerprint(family=family), scale="log", gamma=gamma
    )


def _steepness(rng: np.random.Generator) -> float:
    return float(_STEEPNESS * np.exp(_STEEPNESSES * rng.normal()))


def _interval(seen: float, error: float) -> tuple[float, float]:
    """Return the shortest interval of 90% of a normal distribution that is cut off at the ends of the range."""
    at = np.linspace(*GAMMAS, 49)
    weights = np.exp(-0.5 * ((at - seen) / error) ** 2 + 0.5 * ((at - np.clip(seen, *GAMMAS)) / error).min())
    below = np.cumsum(weights) / weights.sum()
    starts = np.concatenate([[0.0], below[:-1]])
    ends = np.minimum(np.searchsorted(below, starts + 0.9 - 1e-9), len(at) - 1)
    reach = below[ends] - starts >= 0.9 - 1e-6
    widths = np.where(reach, at[ends] - at, math.inf)
    first = int(widths.argmin())
    return float(at[first]), float(at[ends[first]])


def _former(jobs: Sequence[Evidence]) -> tuple[float, float, float]:
    """Advice as it was: the mean of the best gammas, from the lowest low to the highest high."""
    gammas = [each.gamma for each in jobs]
    return (
        fmean(g.best for g in gammas if g.best is not None),
        min(g.low for g in gammas if g.low is not None),
        max(g.high for g in gammas if g.high is not None),
    )


def cell(law: Law, jobs: int, repeats: int, seed: int = 0, family: str = "mlp") -> dict[str, float]:
    """Return shares and means over families: of the product's advice, and of the former rule."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(repeats):
        *known, following = np.clip(law(rng, jobs + 1), *GAMMAS)
        evidence = [drawn(rng, float(theta), number, family) for number, theta in enumerate(known)]
        advice, steepness = advise(family, evidence), _steepness(rng)
        if advice.gamma is None or advice.low is None or advice.high is None:
            raise RuntimeError("no advice from jobs")
        row = []
        for gamma, low, high in ((advice.gamma, advice.low, advice.high), _former(evidence)):
            holds = low - 1e-9 <= following <= high + 1e-9
            row += [float(holds), high - low, steepness * (gamma - following) ** 2]
        row += [steepness * (customary - following) ** 2 for customary in (0.0, 1.0)]
        rows.append(row)
    names = (
        "holds",
        "width",
        "cost",
        "former holds",
        "former width",
        "former cost",
        "cost of 0",
        "cost of 1",
    )
    return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2, 3, 5, 8])
    parser.add_argument("--family", default="mlp", help="of which the published guidance is taken")
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.repeats} families a cell, for {arguments.jobs} jobs")
    for title in ("best gammas", "interval holds the next", "width", "former holds", "width", "cost",
                  "former", "gamma 0", "gamma 1"):  # fmt: skip
        table.add_column(title)
    for name, law in LAWS.items():
        cells = [cell(law, jobs, arguments.repeats, family=arguments.family) for jobs in arguments.jobs]

        def shown(key: str, form: str, cells: Sequence[Mapping[str, float]] = cells) -> str:
            return ", ".join(format(each[key], form) for each in cells)

        table.add_row(
            name, shown("holds", ".0%"), shown("width", ".1f"), shown("former holds", ".0%"),
            shown("former width", ".1f"), shown("cost", ".3f"), shown("former cost", ".3f"),
            shown("cost of 0", ".3f"), shown("cost of 1", ".3f"),
        )  # fmt: skip
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
