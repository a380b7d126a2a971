"""Budgets of jobs that are extended."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from anon_tune.errors import ConflictError
from anon_tune.ledger.tables import TRIALS
from anon_tune.records import JobState, Phase

__all__ = ["raised"]


def raised(
    connection: sa.Connection,
    job: sa.RowMapping,
    trials: int | None,
    time: float | None,
    seeds: int | None,
) -> dict[str, Any]:
    """Return the budget of a job with new totals; None leaves one as it is.

    Args:
        connection: Connection for a query of the verdict trials.
        job: The job's row.
        trials: Search trials per arm.
        time: Seconds.
        seeds: Verdict seeds, over all rounds.

    Raises:
        ConflictError: A total is not above the job's, or the job has SUCCEEDED and its time is spent.
    """
    budget = dict(job["spec"]["budget"])
    for key, total in (("trials", trials), ("time", time)):
        if total is not None:
            budget[key] = _above(job["id"], key, budget.get(key), total)
    rounds = _rounds(connection, job, seeds)
    if rounds:
        budget["more_seeds"] = rounds
    limit = budget.get("time")
    if job["state"] == JobState.SUCCEEDED and seeds is None and limit is not None and job["spent"] >= limit:
        raise ConflictError(
            f"The budget.time of job {job['id']} ({limit:g} s) is used up ({job['spent']:.0f} s), so it would run no "
            "trials. Raise it with --time."
        )
    return budget


def _above(job_id: str, key: str, before: float | None, total: float) -> float:
    """Return `total` if it is above the current one. Raises ConflictError."""
    if before is None:
        raise ConflictError(f"Job {job_id} has no limit on its budget.{key}, so there is nothing to raise.")
    if total <= before:
        raise ConflictError(
            f"Job {job_id} has a budget.{key} of {before}. Give --{key} a larger number: it is the new total."
        )
    return total


def _rounds(connection: sa.Connection, job: sa.RowMapping, total: int | None) -> list[int]:
    """Return the further rounds of verdict seeds, up to a total if one is given. Raises ConflictError."""
    further = list(job["spec"]["budget"].get("more_seeds", ()))
    tested = sa.select(TRIALS.c.id).where(TRIALS.c.job_id == job["id"], TRIALS.c.phase == Phase.VERDICT)
    if connection.execute(tested.limit(1)).first() is None:
        if total is not None:
            raise ConflictError(f"Job {job['id']} has not reached its verdict. Add seeds after that.")
        return further
    planned = job["spec"]["confirm"]["verdict_seeds"]
    made = planned + sum(further)
    if total is None:
        return [*further, planned]
    if total < made + 2:
        raise ConflictError(
            f"Job {job['id']} has {made} verdict seeds. Give --seeds at least {made + 2}: it is the new total."
        )
    return [*further, total - made]
