"""The tables. A change here goes with a migration; a test compares the two."""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

__all__ = ["Attempt", "Base", "Code", "Job", "Projection", "Report", "Submission", "Token", "Trial"]


class UTCDateTime(TypeDecorator[datetime.datetime]):
    """Aware UTC times, stored without an offset (sqlite keeps none)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(
        self, value: datetime.datetime | None, dialect: Dialect
    ) -> datetime.datetime | None:
        """Refuse naive times, store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("times in the ledger must be aware")
        return value.astimezone(datetime.UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime.datetime | None:
        """Give the offset back."""
        return None if value is None else value.replace(tzinfo=datetime.UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own convention
        datetime.datetime: UTCDateTime(),
        dict[str, Any]: JSON(),
        str: String(255),
        float: Float(),
        int: Integer(),
    }


class Job(Base):
    """One tuning job, and who holds it.

    `lease_token` grows by one each time the job is taken; a write names the token it was made under.
    `requested` is what the holder has been asked to do. `spent` is the seconds for which it has been worked on, as of
    `lease_heartbeat`. `owner` is who submitted it to a service, and `code` what came with it. `projector` is who
    writes it to MLflow at the moment, until `projector_expires`.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str]
    owner: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16), index=True)
    phase: Mapped[str] = mapped_column(String(16))
    spec: Mapped[dict[str, Any]]
    spaces: Mapped[dict[str, Any]]
    probe: Mapped[dict[str, Any] | None]
    architecture: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None] = mapped_column(Text)
    created: Mapped[datetime.datetime] = mapped_column(index=True)
    started: Mapped[datetime.datetime | None]
    finished: Mapped[datetime.datetime | None]
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_holder: Mapped[str | None]
    lease_heartbeat: Mapped[datetime.datetime | None]
    lease_expires: Mapped[datetime.datetime | None]
    priority: Mapped[int] = mapped_column(server_default="0")
    requested: Mapped[str | None] = mapped_column(String(16))
    spent: Mapped[float] = mapped_column(server_default="0")
    code: Mapped[str | None] = mapped_column(String(64))
    projector: Mapped[str | None]
    projector_expires: Mapped[datetime.datetime | None]


class Trial(Base):
    """One configuration of one arm with one seed.

    `steps` is the number of its reports, and `seconds` the time that their epochs took: so that a job of many trials
    is summed up without reading their reports.
    """

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("job_id", "arm", "phase", "number"),
        # No configuration is tried twice with the same seed.
        UniqueConstraint("job_id", "arm", "phase", "configuration", "seed"),
        Index("ix_trials_in_order", "job_id", "created", "id"),
    )

    id: Mapped[str] = mapped_column(String(96), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    arm: Mapped[str] = mapped_column(String(64))
    phase: Mapped[str] = mapped_column(String(16))
    number: Mapped[int]
    seed: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    configuration: Mapped[str] = mapped_column(String(64))
    params: Mapped[dict[str, Any]]
    hyperparameters: Mapped[dict[str, Any]]
    source: Mapped[str | None] = mapped_column(String(96))
    value: Mapped[float | None]
    reason: Mapped[str | None] = mapped_column(Text)
    steps: Mapped[int] = mapped_column(server_default="0")
    seconds: Mapped[float] = mapped_column(server_default="0")
    created: Mapped[datetime.datetime]
    started: Mapped[datetime.datetime | None]
    finished: Mapped[datetime.datetime | None]


class Attempt(Base):
    """One execution of a trial; `outcome` is None while it runs. `log` is the end of what its process wrote."""

    __tablename__ = "attempts"

    trial_id: Mapped[str] = mapped_column(ForeignKey("trials.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    started: Mapped[datetime.datetime]
    finished: Mapped[datetime.datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    checkpoint: Mapped[str | None] = mapped_column(Text)
    log: Mapped[str | None] = mapped_column(Text)


class Report(Base):
    """One intermediate result; the first committed one of a step stands.

    `value` is null where it was NaN or infinite, which not every database can hold.
    """

    __tablename__ = "reports"

    trial_id: Mapped[str] = mapped_column(ForeignKey("trials.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    value: Mapped[float | None]
    metrics: Mapped[dict[str, Any]]
    time: Mapped[datetime.datetime]


class Projection(Base):
    """How far a job or a trial has been written to MLflow: the projection's durable cursor."""

    __tablename__ = "projections"

    subject: Mapped[str] = mapped_column(String(96), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    run: Mapped[str] = mapped_column(String(64))
    steps: Mapped[int] = mapped_column(default=0)
    state: Mapped[str | None] = mapped_column(String(16))


class Submission(Base):
    """What a client's Idempotency-Key has made: the same request again gives the same job."""

    __tablename__ = "submissions"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))


class Code(Base):
    """A zip of code that jobs came with, by its SHA-256."""

    __tablename__ = "code"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    owner: Mapped[str | None] = mapped_column(String(64))
    created: Mapped[datetime.datetime]


class Token(Base):
    """Who may use the service, and for what. `digest` is all that is kept of the token itself."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    may_send_code: Mapped[bool]
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[datetime.datetime]
    revoked: Mapped[datetime.datetime | None]
