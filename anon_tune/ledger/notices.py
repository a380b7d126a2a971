"""Notices: changes of jobs that webhooks have not taken yet, an outbox in the ledger.

A change of a job and its notices are one transaction, so a process that is killed after the change loses none. Any
process with the webhook's address sends them, at least once each.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import Collection
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.tables import NOTICES, WEBHOOKS
from anon_tune.records import JobState, Notice

__all__ = ["Notices", "add_notices"]

_SENDING = datetime.timedelta(seconds=60)
"""Time after which a notice whose sender has died is sent again."""
_FORGOTTEN = datetime.timedelta(days=7)
_LIMIT = datetime.timedelta(days=1)
_ID_BYTES: Final = 16


class Notices:
    """Notices of one ledger: `Ledger.notices`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def expect(self, webhooks: Collection[str]) -> None:
        """Store that notices to these webhooks are to be kept from now on, until nobody has asked for a week."""
        with write(self._engine) as connection:
            now = database_time(connection)
            for webhook in webhooks:
                known = sa.update(WEBHOOKS).where(WEBHOOKS.c.id == webhook).values(seen=now)
                if connection.execute(known).rowcount == 0:
                    with (
                        contextlib.suppress(IntegrityError),
                        connection.begin_nested(),
                    ):  # another process was first
                        connection.execute(sa.insert(WEBHOOKS).values(id=webhook, seen=now))
            connection.execute(sa.delete(WEBHOOKS).where(WEBHOOKS.c.seen <= now - _FORGOTTEN))
            of_none = NOTICES.c.webhook_id.not_in(sa.select(WEBHOOKS.c.id))
            connection.execute(sa.delete(NOTICES).where(of_none))

    def take(self, webhooks: Collection[str]) -> Notice | None:
        """Take the next notice that is to be sent now to one of these webhooks; None if no notice is due.

        Nobody else sends it for a minute. Report the outcome with `sent` or `failed`.
        """
        if not self._is_any_due(webhooks):  # on sqlite a write would take the lock every second
            return None
        with write(self._engine) as connection:
            now = database_time(connection)
            query = sa.select(NOTICES).where(NOTICES.c.webhook_id.in_(webhooks), NOTICES.c.due <= now)
            query = query.order_by(NOTICES.c.created, NOTICES.c.id).limit(1).with_for_update(skip_locked=True)
            row = connection.execute(query).mappings().first()
            if row is None:
                return None
            taken = {"due": now + _SENDING, "tries": row["tries"] + 1}
            connection.execute(sa.update(NOTICES).where(NOTICES.c.id == row["id"]).values(taken))
        return Notice(
            row["id"],
            row["webhook_id"],
            row["job_id"],
            JobState(row["state"]),
            row["reason"],
            row["created"],
            row["tries"] + 1,
        )

    def sent(self, notice: Notice) -> None:
        """Delete a notice that its webhook has taken."""
        with write(self._engine) as connection:
            connection.execute(sa.delete(NOTICES).where(NOTICES.c.id == notice.id))

    def failed(self, notice: Notice, seconds: float) -> bool:
        """Have a notice sent again after some seconds. Return False if it is a day old, and was deleted instead."""
        with write(self._engine) as connection:
            now, of_notice = database_time(connection), NOTICES.c.id == notice.id
            if notice.created <= now - _LIMIT:
                connection.execute(sa.delete(NOTICES).where(of_notice))
                return False
            due = now + datetime.timedelta(seconds=seconds)
            connection.execute(sa.update(NOTICES).where(of_notice).values(due=due))
        return True

    def _is_any_due(self, webhooks: Collection[str]) -> bool:
        with read(self._engine) as connection:
            due = NOTICES.c.due <= database_time(connection)
            query = sa.select(NOTICES.c.id).where(NOTICES.c.webhook_id.in_(webhooks), due)
            return connection.execute(query.limit(1)).first() is not None


def add_notices(
    connection: sa.Connection, job_id: str, now: datetime.datetime, state: JobState, reason: str | None
) -> None:
    """Store a notice for each webhook, as part of the transaction that changes the job."""
    for webhook in connection.execute(sa.select(WEBHOOKS.c.id)).scalars().all():
        row = {
            "id": secrets.token_hex(_ID_BYTES),
            "webhook_id": webhook,
            "job_id": job_id,
            "state": state,
            "reason": reason,
            "created": now,
            "due": now,
            "tries": 0,
        }
        connection.execute(sa.insert(NOTICES).values(row))
