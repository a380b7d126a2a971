"""Contents of the page that compares jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anon_tune.answer import Comparison
from anon_tune.dashboards.pages.job import Found, found
from anon_tune.sentences import signed
from anon_tune.views import JobView

__all__ = ["Compared", "Row", "compare"]

_MISSING = "-"


@dataclass(frozen=True)
class Row:
    """A row of a table with a column for each job."""

    name: str
    cells: list[str]


@dataclass(frozen=True)
class Compared:
    """Jobs side by side.

    Attributes:
        gammas: Recommended gamma, interval of the best one, and gammas that cost little.
        verdicts: Verdict on the best settings of Anon against each baseline.
        values: Best result of each arm.
        settings: Settings that are not the same in all jobs, by their key in the job file.
        has_responses: Whether a job has a response to gamma.
    """

    gammas: list[Row]
    verdicts: list[Row]
    values: list[Row]
    settings: list[Row]
    has_responses: bool


def compare(jobs: Sequence[JobView]) -> Compared:
    """Return jobs side by side."""
    answers = [found(job) for job in jobs]
    return Compared(
        gammas=[
            Row(
                "recommended gamma",
                [_MISSING if each is None else each.gamma or _MISSING for each in answers],
            ),
            Row("best gamma, 90% interval", [_interval(each) for each in answers]),
            Row("gammas that are as good", [_flat(job) for job in jobs]),
        ],
        verdicts=list(_verdicts(jobs)),
        values=list(_values(jobs)),
        settings=list(_differing([dict(_flattened(job.spec)) for job in jobs])),
        has_responses=any(job.result is not None and job.result.gamma.curve is not None for job in jobs),
    )


def _interval(answer: Found | None) -> str:
    return _MISSING if answer is None else answer.interval or "too few trials"


def _flat(job: JobView) -> str:
    if job.result is None:
        return _MISSING
    ranges = job.result.gamma.flat or job.result.gamma.indistinguishable
    return ", ".join(f"{low:.2f} to {high:.2f}" for low, high in ranges) or _MISSING


def _verdicts(jobs: Sequence[JobView]) -> Iterator[Row]:
    found = [
        {} if job.result is None else {each.baseline: each for each in job.result.of("configuration")}
        for job in jobs
    ]
    for baseline in dict.fromkeys(name for each in found for name in each):
        yield Row(
            f"against {baseline}",
            [_verdict(each.get(baseline), job) for each, job in zip(found, jobs, strict=True)],
        )


def _verdict(each: Comparison | None, job: JobView) -> str:
    if each is None or job.result is None:
        return _MISSING
    if each.difference is None or each.low is None or each.high is None:
        return each.outcome.value
    between = f"{signed(each.low, job.result)} to {signed(each.high, job.result)}"
    return f"{each.outcome.value}: {signed(each.difference, job.result)} ({between})"


def _values(jobs: Sequence[JobView]) -> Iterator[Row]:
    for arm in dict.fromkeys(name for job in jobs for name in job.arms):
        yield Row(f"{arm}, fresh seeds", [_number(_tested(job, arm)) for job in jobs])
        yield Row(f"{arm}, best of the search", [_number(_best(job, arm)) for job in jobs])


def _tested(job: JobView, arm: str) -> float | None:
    winner = None if job.result is None else job.result.winners.get(arm)
    return None if winner is None else winner.test.mean


def _best(job: JobView, arm: str) -> float | None:
    seen = job.arms.get(arm)
    return None if seen is None or seen.best is None else seen.best.value


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.4g}"


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        elif key != "name" or prefix:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


def _differing(jobs: Sequence[Mapping[str, str]]) -> Iterator[Row]:
    for key in dict.fromkeys(key for job in jobs for key in job):
        cells = [job.get(key, _MISSING) for job in jobs]
        if len(set(cells)) > 1:
            yield Row(key, cells)
