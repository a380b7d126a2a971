"""Sessions of browsers at the service: each stands for a token until it ends or runs out, or the token does."""

from __future__ import annotations

import datetime
import secrets

import sqlalchemy as sa

from anon_tune.ledger.audit import record
from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.rows import token_record
from anon_tune.ledger.tables import SESSIONS, TOKENS
from anon_tune.ledger.tokens import digest
from anon_tune.records import Actor, AuditAction, Channel, TokenRecord

__all__ = ["Sessions"]

_BYTES = 32


class Sessions:
    """Sessions of one ledger: `Ledger.sessions`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def begin(self, token_id: str, seconds: float) -> str:
        """Begin a session for a token, and return its secret, which cannot be shown again."""
        with write(self._engine) as connection:
            _record(connection, token_id, "with a token")
            return _insert(connection, token_id, seconds, once=False)

    def link(self, token_id: str, seconds: float) -> str:
        """Return the secret of a link that begins a session once, within some seconds."""
        with write(self._engine) as connection:
            return _insert(connection, token_id, seconds, once=True)

    def follow(self, secret: str, seconds: float) -> str | None:
        """Use a link up: begin its session and return the secret; None if it or its token has run out."""
        with write(self._engine) as connection:
            query = _valid(secret, once=True, now=database_time(connection))
            found = connection.execute(query).mappings().first()
            used = sa.delete(SESSIONS).where(SESSIONS.c.digest == digest(secret))
            # No row if another transaction has used the link since the query.
            if found is None or connection.execute(used).rowcount == 0:
                return None
            _record(connection, str(found["id"]), "by a link")
            return _insert(connection, str(found["id"]), seconds, once=False)

    def find(self, secret: str) -> TokenRecord | None:
        """Return the token of a session; None if it has ended, or its token was revoked or has expired."""
        with read(self._engine) as connection:
            now = database_time(connection)
            row = connection.execute(_valid(secret, once=False, now=now)).mappings().first()
        return None if row is None else token_record(row, now)

    def end(self, secret: str) -> None:
        """End a session; repeating it changes nothing."""
        with write(self._engine) as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.digest == digest(secret)))


def _record(connection: sa.Connection, token_id: str, note: str) -> None:
    """Record that the user of a token signs in."""
    owner = connection.execute(sa.select(TOKENS.c.owner).where(TOKENS.c.id == token_id)).scalar()
    record(connection, Actor(owner, token_id, Channel.PAGE), AuditAction.SIGN_IN, note=note)


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
            sa.or_(TOKENS.c.expires.is_(None), TOKENS.c.expires > now),
        )
    )
