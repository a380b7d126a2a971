"""The advised gamma of a model family, before any trial of a new job."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anon_tune.advice.evidence import distinct
from anon_tune.advice.pooling import Location, Pooled, located, pool
from anon_tune.advice.statement import UNKNOWN, Advice, Basis, Evidence, Published, Source
from anon_tune.answer import Cost

__all__ = ["GAMMAS", "LEVEL", "PUBLISHED", "advise", "cost_curve"]

_PAPER = "arXiv 2605.02317"

PUBLISHED: Mapping[str, Published] = {
    "cnn": Published(low=-0.1, high=0.1, text="gamma <= 0; published examples -0.1 and 0.1", source=_PAPER),
    "transformer": Published(
        low=1.01, high=1.15, text="gamma >= 1; published examples 1.01 to 1.15", source=_PAPER
    ),
}
"""Published guidance, by family."""

GAMMAS = (-0.5, 1.5)
"""The range of the search spaces."""

LEVEL = 0.9

_PUBLISHED_DEVIATION = 0.5
"""The published guidance counts as a search that estimates its best gamma with this standard deviation."""

_PUBLISHED_WEIGHT, _BROAD_WEIGHT = 0.5, 0.25
"""Weights in the mean cost curve, relative to a search: of the published guidance, and of a best gamma that may be
anywhere."""

_STEP = 0.05
_CUSTOMARY = (0.0, 1.0)
"""The gammas of SGD and of Adam."""

_NARROW = 0.5
_MATTERS = math.log(1.01)
_MOVES = 0.1

Array = NDArray[np.float64]


def advise(family: str, evidence: Iterable[Evidence], without: str | None = None) -> Advice:
    """Return the advised gamma of a family, its interval and its basis.

    The interval is that of the next job's best gamma (`pooling.py`). The advised gamma is where the searches' cost
    curves are lowest on average; a search that cannot distinguish gammas has a flat curve and changes nothing.

    Args:
        family: Family of a model's fingerprint: "cnn", "transformer", "mlp", ...
        evidence: Searches, which may be of other families too.
        without: A subject whose searches do not count.
    """
    if family == UNKNOWN:
        return Advice(family=family, would_change=["There is no advice for a model of unknown layers."])
    known = distinct(e for e in evidence if e.architecture.family == family and e.subject != without)
    found = _Family(known, PUBLISHED.get(family))
    if not known and found.published is None:
        return Advice(family=family, would_change=["A finished job of this family would change that."])
    pooled = found.pooled()
    low, high = found.range
    interval = pooled.interval(LEVEL, low, high) if pooled is not None else (low, high)
    gamma = found.cheapest(found.costs(found.gammas()))
    weights = pooled.weights if pooled is not None else (0.0,) * len(known)
    steps = [math.log(each.step_size) for each in known if each.step_size]
    return Advice(
        family=family,
        gamma=gamma,
        low=interval[0],
        high=interval[1],
        level=LEVEL,
        spread=pooled.spread if pooled is not None else None,
        source=_source(known),
        jobs=[_basis(each, weight) for each, weight in zip(known, weights, strict=False)],
        published=found.published,
        costs=list(_customary_costs(found, gamma)),
        step_size=math.exp(float(np.mean(steps))) if steps else None,
        would_change=list(_changes(found, pooled, gamma, interval)),
    )


@dataclass(frozen=True)
class _Family:
    """Searches and published guidance of one family."""

    known: Sequence[Evidence]
    published: Published | None

    @property
    def range(self) -> tuple[float, float]:
        """The gammas to consider: those of the spaces, and any that jobs searched beyond."""
        curves = [each.gamma.curve for each in self.known if each.gamma.curve is not None]
        ends = [*GAMMAS, *(end for curve in curves for end in (curve.gamma[0], curve.gamma[-1]))]
        return min(ends), max(ends)

    def pooled(self) -> Pooled | None:
        """Return the best gammas, pooled."""
        locations = [_location(each) for each in self.known]
        if self.published is not None:
            locations.append(Location(_middle(self.published), _PUBLISHED_DEVIATION))
        return pool(locations)

    def gammas(self) -> Array:
        """Return the gammas of the cost curves in ascending order, shape (g,)."""
        low, high = self.range
        return np.linspace(low, high, round((high - low) / _STEP) + 1)

    def costs(self, at: Array) -> Array:
        """Return each search's cost curve, shape (searches, len(at)); those on a linear scale are omitted."""
        rows = [row for each in self.known if (row := cost_curve(each, at)) is not None]
        return np.array(rows).reshape(-1, len(at))

    def cheapest(self, costs: Array) -> float:
        """Return the gamma where the mean cost is lowest, by cost curves at `gammas()`."""
        at = self.gammas()
        # Scaled to the same mean over the range as the searches' curves, so it is as steep.
        usual = float(costs.mean()) if costs.any() else 1.0
        beliefs = [(_BROAD_WEIGHT, float(at.mean()))]
        if self.published is not None:
            beliefs.append((_PUBLISHED_WEIGHT, _middle(self.published)))
        if (
            not len(costs) and (pooled := self.pooled()) is not None
        ):  # linear scales, whose costs cannot be added
            beliefs.append((float(len(self.known)), pooled.mean))
        total = costs.sum(axis=0)
        for weight, middle in beliefs:
            parabola = (at - middle) ** 2
            total = total + weight * usual * parabola / parabola.mean()
        return round(float(at[int(np.argmin(total))]), 4)


def _middle(published: Published) -> float:
    return (published.low + published.high) / 2


def _location(evidence: Evidence) -> Location:
    gamma = evidence.gamma
    bottom, top = GAMMAS if gamma.curve is None else (gamma.curve.gamma[0], gamma.curve.gamma[-1])
    if gamma.low is None or gamma.high is None or bottom >= top:
        return Location((bottom + top) / 2, math.inf)
    return located(gamma.low, gamma.high, bottom, top)


def cost_curve(evidence: Evidence, at: Array) -> Array | None:
    """Return the cost of gammas over the search's best, in the log of the loss or error, shape (len(at),).

    Beyond the searched range the cost is that of its end. None if the search has no curve or a linear scale.
    """
    curve = evidence.gamma.curve
    if curve is None or evidence.scale == "linear":
        return None
    values = np.array(curve.median)
    logs = np.log(np.maximum(values if evidence.scale == "log" else 1.0 - values, 1e-300))
    return np.asarray(np.interp(at, curve.gamma, logs - logs.min()))


def _source(known: Sequence[Evidence]) -> Source:
    if not known:
        return Source.PUBLISHED
    return Source.SHIPPED if all(each.shipped for each in known) else Source.JOBS


def _basis(evidence: Evidence, weight: float) -> Basis:
    gamma = evidence.gamma
    return Basis(
        job=evidence.id, name=evidence.name, shipped=evidence.shipped, best=gamma.best, low=gamma.low,
        high=gamma.high, weight=weight,
    )  # fmt: skip


def _customary_costs(family: _Family, gamma: float) -> Iterator[Cost]:
    costs = family.costs(np.array([gamma, *_CUSTOMARY]))
    if len(costs) < 2:
        return
    from scipy.special import stdtrit  # as in `pooling`

    for index, customary in enumerate(_CUSTOMARY, 1):
        each = costs[:, index] - costs[:, 0]
        half = float(stdtrit(len(each) - 1, (1 + LEVEL) / 2) * each.std(ddof=1) / math.sqrt(len(each)))
        mean = float(each.mean())
        low, middle, high = (math.expm1(value) for value in (mean - half, mean, mean + half))
        yield Cost(gamma=customary, cost=middle, low=low, high=high)


def _changes(
    family: _Family, pooled: Pooled | None, gamma: float, interval: tuple[float, float]
) -> Iterator[str]:
    """Return what would change the advice: another job, or one job less; or that gamma hardly matters."""
    if not family.known:
        yield "It rests on published examples alone: the first finished job of this family weighs more."
        return
    costs = family.costs(family.gammas())
    if len(costs) and float(costs.mean(axis=0).max()) < _MATTERS:
        yield "In these searches no gamma costs 1% on average: tune the step size first."
    if pooled is not None and interval[1] - interval[0] > _NARROW:
        if pooled.error > pooled.spread:
            yield "Each search leaves a wide interval: jobs with more trials would narrow it."
        else:
            yield (
                f"The best gamma differs by about {pooled.spread:.2f} between models of this family: more jobs "
                "would hardly narrow the interval, but a job on your model would."
            )
    moved = [(abs(other - gamma), each, other) for each, other in _left_out(family)]
    if moved and (most := max(moved, key=lambda item: item[0]))[0] >= _MOVES:
        yield f"Without {most[1].name} the advised gamma would be {most[2]:.2f}."


def _left_out(family: _Family) -> Iterator[tuple[Evidence, float]]:
    """Yield the advised gamma without each of the searches that have a cost curve."""
    at = family.gammas()
    curved = [each for each in family.known if cost_curve(each, at) is not None]
    costs = family.costs(at)
    if len(curved) > 1:
        for row, each in enumerate(curved):
            yield each, family.cheapest(np.delete(costs, row, axis=0))
