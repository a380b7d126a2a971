"""Tables of the ledger. A change here needs a migration; a test compares the two."""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

from anon_tune.records import storable_text

__all__ = [
    "ATTEMPTS",
    "AUDIT",
    "CODE",
    "DELETED",
    "JOBS",
    "METADATA",
    "NOTICES",
    "PROJECTIONS",
    "REPORTS",
    "SESSIONS",
    "SUBMISSIONS",
    "TOKENS",
    "TRIALS",
    "WEBHOOKS",
    "WORKERS",
]


class _UTCDateTime(TypeDecorator[datetime.datetime]):
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
        """Restore the offset."""
        return None if value is None else value.replace(tzinfo=datetime.UTC)


class _FreeText(TypeDecorator[str]):
    """Text from users' code, without what a database cannot store."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape lone surrogates and NUL."""
        return None if value is None else storable_text(value)


def _required(name: str, kind: Any, *args: Any, **options: Any) -> Column[Any]:
    return Column(name, kind, *args, nullable=False, **options)


METADATA = MetaData()

JOBS = Table(
    "jobs",
    METADATA,
    _required("id", String(32), primary_key=True),
    _required("name", String(255)),
    Column("owner", String(64)),
    _required("state", String(16), index=True),
    _required("phase", String(16)),
    _required("spec", JSON),
    _required("spaces", JSON),
    Column("probe", JSON),
    Column("architecture", JSON),
    Column("result", JSON),
    Column("reason", _FreeText),
    _required("created", _UTCDateTime, index=True),
    Column("started", _UTCDateTime),
    Column("finished", _UTCDateTime),
    _required("lease_token", Integer, default=0),
    Column("lease_holder", String(255)),
    Column("lease_heartbeat", _UTCDateTime),
    Column("lease_expires", _UTCDateTime),
    _required("priority", Integer, server_default="0"),
    Column("requested", String(16)),
    _required("spent", Float, server_default="0"),
    Column("code", String(64), index=True),
    Column("projector", String(255)),
    Column("projector_expires", _UTCDateTime),
)
"""Tuning jobs and their leases.

`lease_token` grows by one each time a job is acquired; every write names the token of its lease. `requested` is the
pending request to the holder. `spent` is the seconds of work on the job, as of `lease_heartbeat`. `owner` is the user
who submitted it to a service, and `code` the digest of its code archive. `projector` is the process that writes it to
MLflow at the moment, until `projector_expires`.
"""

TRIALS = Table(
    "trials",
    METADATA,
    _required("id", String(96), primary_key=True),
    _required("job_id", String(32), ForeignKey("jobs.id")),
    _required("arm", String(64)),
    _required("repeat", Integer, server_default="0"),
    _required("phase", String(16)),
    _required("number", Integer),
    _required("seed", Integer),
    _required("state", String(16)),
    _required("configuration", String(64)),
    _required("params", JSON),
    _required("hyperparameters", JSON),
    Column("source", String(96)),
    Column("value", Float),
    Column("reason", _FreeText),
    _required("steps", Integer, server_default="0"),
    _required("seconds", Float, server_default="0"),
    _required("created", _UTCDateTime),
    Column("started", _UTCDateTime),
    Column("finished", _UTCDateTime),
    UniqueConstraint("job_id", "arm", "repeat", "phase", "number"),
    # No search tries a configuration twice with the same seed.
    UniqueConstraint("job_id", "arm", "repeat", "phase", "configuration", "seed"),
    Index("ix_trials_in_order", "job_id", "created", "id"),
)
"""Configurations of one arm with one seed each; `repeat` is the search of the arm that a trial belongs to.

`steps` is the largest step of a trial's reports, and `seconds` their duration, so that the summary of a job
needs no reports.
"""

ATTEMPTS = Table(
    "attempts",
    METADATA,
    _required("trial_id", String(96), ForeignKey("trials.id"), primary_key=True),
    _required("number", Integer, primary_key=True),
    _required("started", _UTCDateTime),
    Column("finished", _UTCDateTime),
    Column("outcome", String(16)),
    Column("reason", _FreeText),
    Column("checkpoint", Text),
    Column("log", _FreeText),
)
"""Executions of trials; `outcome` is null while one runs. `log` is the end of its process's output."""

REPORTS = Table(
    "reports",
    METADATA,
    _required("trial_id", String(96), ForeignKey("trials.id"), primary_key=True),
    _required("step", Integer, primary_key=True),
    _required("attempt", Integer),
    Column("value", Float),
    _required("metrics", JSON),
    _required("time", _UTCDateTime),
)
"""Intermediate results; the first committed one of a step stands.

`value` is null if it was NaN or infinite, which not every database can store.
"""

PROJECTIONS = Table(
    "projections",
    METADATA,
    _required("subject", String(96), primary_key=True),
    _required("job_id", String(32), ForeignKey("jobs.id"), index=True),
    _required("run", String(64)),
    _required("steps", Integer, default=0),
    Column("state", String(16)),
)
"""Durable cursors of the projection of jobs and trials to MLflow."""

SUBMISSIONS = Table(
    "submissions",
    METADATA,
    _required("owner", String(64), primary_key=True),
    _required("key", String(255), primary_key=True),
    _required("digest", String(64)),
    _required("job_id", String(32), ForeignKey("jobs.id")),
)
"""Jobs by Idempotency-Key: repeating a request with its key returns the same job."""

CODE = Table(
    "code",
    METADATA,
    _required("digest", String(64), primary_key=True),
    _required("content", LargeBinary),
    Column("owner", String(64)),
    _required("created", _UTCDateTime),
)
"""Code archives (zip) of jobs, by their SHA-256."""

DELETED = Table(
    "deleted_jobs",
    METADATA,
    _required("id", String(32), primary_key=True),
    _required("deleted", _UTCDateTime),
)
"""Ids of deleted jobs, whose files may still be on machines that were away."""

TOKENS = Table(
    "tokens",
    METADATA,
    _required("id", String(16), primary_key=True),
    _required("owner", String(64)),
    _required("role", String(16)),
    _required("may_send_code", Boolean),
    _required("digest", String(64), unique=True),
    _required("created", _UTCDateTime),
    Column("revoked", _UTCDateTime),
    Column("expires", _UTCDateTime),
)
"""Tokens of the service's users. Only the `digest` of a token is stored."""

SESSIONS = Table(
    "sessions",
    METADATA,
    _required("digest", String(64), primary_key=True),
    _required("token_id", String(16), ForeignKey("tokens.id")),
    _required("once", Boolean),
    _required("expires", _UTCDateTime),
)
"""Sessions of browsers, and (`once`) links that sign in. Only the `digest` of a secret is stored."""

WORKERS = Table(
    "workers",
    METADATA,
    _required("id", String(32), primary_key=True),
    _required("holder", String(255)),
    _required("kind", String(16)),
    _required("machine", String(255)),
    _required("at_once", Integer),
    _required("cpus", Integer),
    _required("gpus", JSON),
    Column("largest_cpus", Float),
    Column("largest_gpus", Float),
    _required("versions", JSON),
    _required("started", _UTCDateTime),
    _required("heartbeat", _UTCDateTime),
)
"""Processes that work on jobs. `holder` is their name in leases, by which their jobs are found.

`gpus` are names. `largest_cpus` and `largest_gpus` are of the largest node that a trial can run on: null for a worker
of a cluster until its first job has seen the nodes.
"""

WEBHOOKS = Table(
    "webhooks",
    METADATA,
    _required("id", String(64), primary_key=True),
    _required("seen", _UTCDateTime),
)
"""Webhooks that a running process sends notices to, by the SHA-256 of their addresses, which may hold a secret."""

NOTICES = Table(
    "notices",
    METADATA,
    _required("id", String(32), primary_key=True),
    _required("webhook_id", String(64)),
    _required("job_id", String(32)),
    _required("state", String(16)),
    Column("reason", _FreeText),
    _required("created", _UTCDateTime),
    _required("due", _UTCDateTime),
    _required("tries", Integer, default=0),
)
"""Changes of jobs that a webhook has not taken yet (an outbox), written together with the change.

`due` is the time of the next try; the process that sends a notice sets it ahead, so that no other one sends it
meanwhile. No foreign keys: the deletion of a webhook or a job must never make a change of a job fail.
"""

AUDIT = Table(
    "audit",
    METADATA,
    _required("id", Integer, primary_key=True),
    _required("time", _UTCDateTime),
    Column("owner", String(64)),
    Column("token_id", String(16)),
    _required("channel", String(16)),
    _required("action", String(16)),
    Column("job_id", String(32), index=True),
    Column("subject", String(16)),
    Column("note", _FreeText),
)
"""Actions of users. They outlive the jobs that they name, so `job_id` is no foreign key."""
