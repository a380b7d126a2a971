"""Sessions of browsers at the service: each stands for a token until it ends, runs out, or the token is revoked."""

from __future__ import annotations

import datetime
import secrets

import sqlalchemy as sa

from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.rows import token_record
from anon_tune.ledger.tables import SESSIONS, TOKENS
from anon_tune.ledger.tokens import digest
from anon_tune.records import TokenRecord

__all__ = ["Sessions"]

_BYTES = 32


class Sessions:
    """Sessions of one ledger: `Ledger.sessions`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def begin(self, token_id: str, seconds: float) -> str:
        """Begin a session for a token, and return its secret, which cannot be shown again."""
        return self._create(token_id, seconds, once=False)

    def link(self, token_id: str, seconds: float) -> str:
        """Return the secret of a link that begins a session once, within some seconds."""
        return self._create(token_id, seconds, once=True)

    def follow(self, secret: str, seconds: float) -> str | None:
        """Use a link up: begin its session and return the secret; None if it was used, ran out or was revoked."""
        with write(self._engine) as connection:
            query = _valid(secret, once=True, now=database_time(connection))
            found = connection.execute(query).mappings().first()
            used = sa.delete(SESSIONS).where(SESSIONS.c.digest == digest(secret))
            # No row if another transaction has used the link since the query.
            if found is None or connection.execute(used).rowcount == 0:
                return None
            return _insert(connection, str(found["id"]), seconds, once=False)

    def find(self, secret: str) -> TokenRecord | None:
        """Return the token of a session; None if it has ended, or its token was revoked."""
        with read(self._engine) as connection:
            query = _valid(secret, once=False, now=database_time(connection))
            row = connection.execute(query).mappings().first()
        return None if row is None else token_record(row)

    def end(self, secret: str) -> None:
        """End a session; repeating it changes nothing."""
        with write(self._engine) as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.digest == digest(secret)))

    def _create(self, token_id: str, seconds: float, *, once: bool) -> str:
        with write(self._engine) as connection:
            return _insert(connection, token_id, seconds, once=once)


def _insert(connection: sa.Connection, token_id: str, seconds: float, *, once: bool) -> str:
    """Store a new session, and delete those that have run out. Return its secret."""
    secret, now = secrets.token_urlsafe(_BYTES), database_time(connection)
    connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.expires < now))
    row = {
        "digest": digest(secret),
        "token_id": token_id,
        "once": once,
        "expires": now + datetime.timedelta(seconds=seconds),
    }
    connection.execute(sa.insert(SESSIONS).values(row))
    return secret


def _valid(secret: str, *, once: bool, now: datetime.datetime) -> sa.Select[tuple[object, ...]]:
    """Return the query for the token of a session, or of a link, that is valid now."""
    return (
        sa.select(TOKENS)
        .join(SESSIONS, SESSIONS.c.token_id == TOKENS.c.id)
        .where(
            SESSIONS.c.digest == digest(secret),
            SESSIONS.c.once.is_(once),
            SESSIONS.c.expires > now,
            TOKENS.c.revoked.is_(None),
        )
    )
