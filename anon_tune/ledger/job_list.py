"""Lists of jobs to look through: filtered, sorted, in pages, without reading whole jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping

from anon_tune.ledger.database import database_time
from anon_tune.ledger.tables import JOBS, TRIALS
from anon_tune.records import (
    FINISHED,
    ControlSignal,
    JobLine,
    JobList,
    JobOrder,
    JobQuery,
    JobState,
    Phase,
    TrialState,
)

__all__ = ["read_list"]

_MODEL: Any = sa.func.coalesce(
    JOBS.c.spec["model"]["name"].as_string(),
    JOBS.c.spec["command"].as_string(),
    JOBS.c.spec["task"].as_string(),
    "",
)
_GAMMA: Any = JOBS.c.result["gamma"]["best"].as_float()
_COLUMNS: Mapping[JobOrder, Any] = {
    JobOrder.CREATED: JOBS.c.created,
    JobOrder.NAME: sa.func.lower(JOBS.c.name),
    JobOrder.STATE: JOBS.c.state,
    JobOrder.OWNER: JOBS.c.owner,
    JobOrder.MODEL: sa.func.lower(_MODEL),
    JobOrder.GAMMA: _GAMMA,
}
_SEARCHED = {Phase.CONFIRM, Phase.VERDICT}
"""Phases of a job that follow its search."""


def read_list(connection: sa.Connection, query: JobQuery) -> JobList:
    """Return the jobs that match, and how many there are in all."""
    matches = list(_conditions(query))
    column = _COLUMNS[query.order]
    order = column.desc().nulls_last() if query.descending else column.asc().nulls_last()
    page = (
        sa.select(
            *(JOBS.c[name] for name in ("id", "name", "owner", "state", "phase", "reason", "requested")),
            *(JOBS.c[name] for name in ("created", "lease_holder", "lease_expires")),
            _MODEL.label("model"),
            _GAMMA.label("gamma"),
            JOBS.c.spec["objective"]["mode"].as_string().label("mode"),
            JOBS.c.spec["budget"]["trials"].as_integer().label("budget"),
            JOBS.c.spec["search"]["repeats"].as_integer().label("repeats"),
            sa.func.json_array_length(JOBS.c.spec["arms"]).label("arms"),
        )
        .where(*matches)
        .order_by(order, JOBS.c.created.desc(), JOBS.c.id)
        .limit(query.limit)
        .offset(query.offset)
    )
    now = database_time(connection)
    rows = connection.execute(page).mappings().all()
    counted = _counted(connection, [row["id"] for row in rows])
    found = connection.execute(sa.select(sa.func.count()).select_from(JOBS).where(*matches)).scalar_one()
    states = connection.execute(sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)).all()
    owners = sa.select(JOBS.c.owner).where(JOBS.c.owner.is_not(None)).distinct().order_by(JOBS.c.owner)
    return JobList(
        tuple(_line(row, counted.get(row["id"], ()), now) for row in rows),
        found,
        {JobState(state): number for state, number in states},
        tuple(connection.execute(owners).scalars()),
    )


def _conditions(query: JobQuery) -> Iterator[Any]:
    if query.states:
        yield JOBS.c.state.in_([state.value for state in query.states])
    if query.owner is not None:
        yield JOBS.c.owner == query.owner
    if query.text:
        places: Sequence[Any] = (JOBS.c.id, JOBS.c.name, _MODEL, JOBS.c.owner)
        yield sa.or_(
            *(sa.func.lower(place).contains(query.text.lower(), autoescape=True) for place in places)
        )


def _counted(connection: sa.Connection, job_ids: Sequence[str]) -> dict[str, list[RowMapping]]:
    """Return the number of search trials of each arm and state, and the ends of their values, by job."""
    query = (
        sa.select(
            TRIALS.c.job_id,
            TRIALS.c.arm,
            TRIALS.c.state,
            sa.func.count().label("number"),
            sa.func.min(TRIALS.c.value).label("min"),
            sa.func.max(TRIALS.c.value).label("max"),
        )
        .where(TRIALS.c.job_id.in_(job_ids), TRIALS.c.phase == Phase.SEARCH)
        .group_by(TRIALS.c.job_id, TRIALS.c.arm, TRIALS.c.state)
    )
    counted: dict[str, list[RowMapping]] = {}
    for row in connection.execute(query).mappings():
        counted.setdefault(row["job_id"], []).append(row)
    return counted


def _line(row: RowMapping, counted: Sequence[RowMapping], now: Any) -> JobLine:
    state, phase = JobState(row["state"]), Phase(row["phase"])
    mode = row["mode"] or "min"
    values = [
        (each[mode], each["arm"])
        for each in counted
        if each["state"] == TrialState.COMPLETE and each[mode] is not None
    ]
    best, arm = (min(values) if mode == "min" else max(values)) if values else (None, None)
    made = sum(each["number"] for each in counted)
    planned = (row["budget"] or 0) * (row["repeats"] or 1) * (row["arms"] or 1)
    is_alive = row["lease_holder"] is not None and row["lease_expires"] > now
    return JobLine(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        state=state,
        phase=phase,
        reason=row["reason"],
        requested=ControlSignal(row["requested"]) if row["requested"] else None,
        abandoned=state is JobState.RUNNING and not is_alive,
        created=row["created"],
        model=row["model"],
        done=sum(each["number"] for each in counted if each["state"] in FINISHED),
        trials=made if phase in _SEARCHED else max(planned, made),
        best=best,
        best_arm=arm,
        gamma=row["gamma"],
    )
