"""The history of a service: what clients and holders of leases were told, beside the rows that its ledger has.

Each process appends an event to one file after the ledger has confirmed a transaction (`recorder.py`), or after a
command of a client has succeeded. So a process that is killed in between leaves out an event, and never adds one.
Times are the database's.
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import TypeAdapter

from anon_tune.ledger.tables import ATTEMPTS, JOBS, REPORTS, TRIALS

__all__ = [
    "Acquired",
    "AttemptRow",
    "Ended",
    "Event",
    "Extended",
    "JobRow",
    "Released",
    "Renewed",
    "ReportRow",
    "Reported",
    "Requested",
    "Rows",
    "Started",
    "Submitted",
    "TrialRow",
    "append",
    "finite",
    "read_history",
    "read_rows",
    "trials_of",
]

Time = datetime.datetime


@dataclass(frozen=True)
class Submitted:
    """A job was accepted.

    Attributes:
        job: Its id.
        arms: Arms of the job.
        trials: Trials that the job makes in each arm, by phase, if it is not extended.
    """

    job: str
    arms: tuple[str, ...]
    trials: Mapping[str, int]
    kind: Literal["submitted"] = "submitted"


@dataclass(frozen=True)
class Extended:
    """A job was given a new total of search trials per arm, before its search had ended."""

    job: str
    trials: int
    kind: Literal["extended"] = "extended"


@dataclass(frozen=True)
class Requested:
    """A request was accepted at a time of the database that is not later than `time`."""

    job: str
    request: Literal["pause", "resume", "cancel"]
    time: Time
    kind: Literal["requested"] = "requested"


@dataclass(frozen=True)
class Acquired:
    """A process was given a job's lease, for `seconds` from `time`."""

    job: str
    token: int
    holder: str
    time: Time
    seconds: float
    kind: Literal["acquired"] = "acquired"


@dataclass(frozen=True)
class Renewed:
    """A lease was renewed, from `time`."""

    job: str
    token: int
    time: Time
    kind: Literal["renewed"] = "renewed"


@dataclass(frozen=True)
class Released:
    """A process began to give a lease back. It may die before it knows whether the ledger has taken it."""

    job: str
    token: int
    kind: Literal["released"] = "released"


@dataclass(frozen=True)
class Started:
    """An attempt at a trial was started under a lease."""

    job: str
    token: int
    time: Time
    trial: str
    attempt: int
    kind: Literal["started"] = "started"


@dataclass(frozen=True)
class Reported:
    """A step of a trial was reported under a lease.

    Attributes:
        job: The job.
        token: Fencing token of the lease.
        time: Time of the transaction.
        trial: The trial.
        step: Its step.
        value: The value that the ledger has for this step.
        stored: When the ledger stored that.
    """

    job: str
    token: int
    time: Time
    trial: str
    step: int
    value: float | None
    stored: Time
    kind: Literal["reported"] = "reported"


@dataclass(frozen=True)
class Ended:
    """A trial was ended under a lease."""

    job: str
    token: int
    time: Time
    trial: str
    state: str
    value: float | None
    kind: Literal["ended"] = "ended"


Event = Submitted | Extended | Requested | Acquired | Renewed | Released | Started | Reported | Ended

_EVENT: TypeAdapter[Any] = TypeAdapter(Event)


def append(path: Path, event: Event) -> None:
    """Add an event to a file that several processes write to."""
    line = _EVENT.dump_json(event) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)  # one call, so that lines of two processes do not mix
    finally:
        os.close(descriptor)


def read_history(path: Path) -> list[Event]:
    """Return the events of a file, in the order in which they were added."""
    return [_EVENT.validate_json(line) for line in path.read_bytes().splitlines()]


def finite(value: float | None) -> float | None:
    """Return a value as a database keeps it: None unless it is finite."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class JobRow:
    """A job, with the total of search trials per arm in its budget."""

    id: str
    state: str
    reason: str | None
    trials: int


@dataclass(frozen=True)
class TrialRow:
    """A trial."""

    id: str
    job: str
    arm: str
    phase: str
    state: str
    value: float | None


@dataclass(frozen=True)
class AttemptRow:
    """An attempt at a trial."""

    trial: str
    number: int
    started: Time
    finished: Time | None


@dataclass(frozen=True)
class ReportRow:
    """A report of a trial's step."""

    trial: str
    step: int
    attempt: int
    value: float | None
    time: Time


@dataclass(frozen=True)
class Rows:
    """All rows of a ledger that a history can be compared with."""

    jobs: Sequence[JobRow]
    trials: Sequence[TrialRow]
    attempts: Sequence[AttemptRow]
    reports: Sequence[ReportRow]


def read_rows(engine: sa.Engine) -> Rows:
    """Return the rows of a ledger, without the ledger's own queries."""
    with engine.connect() as connection:
        return Rows(
            jobs=[
                JobRow(row.id, row.state, row.reason, row.spec["budget"]["trials"])
                for row in connection.execute(sa.select(JOBS))
            ],
            trials=[
                TrialRow(row.id, row.job_id, row.arm, row.phase, row.state, row.value)
                for row in connection.execute(sa.select(TRIALS))
            ],
            attempts=[
                AttemptRow(row.trial_id, row.number, row.started, row.finished)
                for row in connection.execute(sa.select(ATTEMPTS))
            ],
            reports=[
                ReportRow(row.trial_id, row.step, row.attempt, row.value, row.time)
                for row in connection.execute(sa.select(REPORTS))
            ],
        )


def trials_of(spec: Mapping[str, Any]) -> dict[str, int]:
    """Return the trials that a stored job makes in each arm, by phase; every finalist is rerun, without racing."""
    confirm = spec["confirm"]
    return {
        "search": spec["budget"]["trials"],
        "confirm": confirm["finalists"] * confirm["seeds"],
        "verdict": confirm["verdict_seeds"],
    }
