"""The audit: who did what with jobs and tokens, and when. Entries are added, and never changed or removed."""

from __future__ import annotations

import sqlalchemy as sa

from anon_tune.ledger.database import database_time
from anon_tune.ledger.tables import AUDIT
from anon_tune.ledger.transaction import Transactions
from anon_tune.records import Actor, AuditAction, AuditQuery, AuditRecord, Channel

__all__ = ["Audit", "record"]


def record(
    connection: sa.Connection,
    by: Actor,
    action: AuditAction,
    *,
    job: str | None = None,
    subject: str | None = None,
    note: str | None = None,
) -> None:
    """Record an action of a user, in the transaction that it is part of.

    Args:
        connection: Connection of that transaction.
        by: The user.
        action: The action.
        job: Id of the job that it changes.
        subject: Id of the token that it creates or revokes.
        note: Details or result, for people; never a secret.
    """
    row = {
        "time": database_time(connection),
        "owner": by.owner,
        "token_id": by.token,
        "channel": by.channel,
        "action": action,
        "job_id": job,
        "subject": subject,
        "note": note,
    }
    connection.execute(sa.insert(AUDIT).values(row))


class Audit:
    """Audit of one ledger, or of one transaction: `Ledger.audit`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def record(
        self, by: Actor, action: AuditAction, *, job: str | None = None, note: str | None = None
    ) -> None:
        """Record an action of a user on a job."""
        with self._transactions.write() as transaction:
            record(transaction.connection, by, action, job=job, note=note)

    def find(self, query: AuditQuery) -> list[AuditRecord]:
        """Return a page of the entries that a query asks for, newest first."""
        wanted = sa.select(AUDIT).order_by(AUDIT.c.id.desc()).limit(query.limit)
        if query.job is not None:
            wanted = wanted.where(AUDIT.c.job_id == query.job)
        if query.owner is not None:
            wanted = wanted.where(AUDIT.c.owner == query.owner)
        if query.since is not None:
            wanted = wanted.where(AUDIT.c.time >= query.since)
        if query.after is not None:
            wanted = wanted.where(AUDIT.c.id < query.after)
        with self._transactions.read() as transaction:
            return [_audit_record(row) for row in transaction.connection.execute(wanted).mappings()]


def _audit_record(row: sa.RowMapping) -> AuditRecord:
    return AuditRecord(
        id=row["id"],
        time=row["time"],
        by=Actor(row["owner"], row["token_id"], Channel(row["channel"])),
        action=AuditAction(row["action"]),
        job=row["job_id"],
        subject=row["subject"],
        note=row["note"],
    )
