"""Tokens of the service's users; the ledger stores only their digests."""

from __future__ import annotations

import datetime
import hashlib
import secrets

import sqlalchemy as sa

from anon_tune.errors import ConflictError, NotFoundError
from anon_tune.ledger.audit import record
from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.rows import token_record
from anon_tune.ledger.tables import TOKENS
from anon_tune.records import LOCAL, Actor, AuditAction, Role, TokenRecord

__all__ = ["Tokens", "digest", "short_id"]

# No vowels and no look-alikes: ids spell no words and are read aloud without doubt.
_ID_ALPHABET = "23456789bcdfghjkmnpqrstvwxz"
_ID_LENGTH = 6
_PREFIX = "at_"
_BYTES = 32


def short_id() -> str:
    """Return a new random short id. It is probably unique; the caller checks."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


class Tokens:
    """Tokens of one ledger: `Ledger.tokens`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(
        self,
        owner: str,
        role: Role,
        secret: str | None = None,
        *,
        may_send_code: bool = False,
        seconds: float | None = None,
        by: Actor = LOCAL,
    ) -> tuple[TokenRecord, str]:
        """Create a token and return it with its secret, which cannot be shown again.

        Args:
            owner: Name of the user.
            role: Their permissions.
            secret: One that was generated elsewhere. If it was stored before, its token is returned unchanged.
            may_send_code: Whether jobs submitted with it may bring code.
            seconds: Time until it expires; None for never.
            by: The user who creates it.

        Raises:
            ConflictError: The token of this secret has another owner or role, was revoked, or has expired.
        """
        secret = secret or _PREFIX + secrets.token_urlsafe(_BYTES)
        with write(self._engine) as connection:
            query = sa.select(TOKENS).where(TOKENS.c.digest == digest(secret)).with_for_update()
            known = connection.execute(query).mappings().first()
            now = database_time(connection)
            if known is not None:
                found = token_record(known, now)
                wanted = owner, role, may_send_code, None, False
                if (found.owner, found.role, found.may_send_code, found.revoked, found.is_expired) != wanted:
                    state = "revoked" if found.revoked else "expired" if found.is_expired else "in use"
                    raise ConflictError(
                        f"This secret belongs to token {found.id} of {found.owner}, role {found.role}, {state}. Use "
                        "another secret."
                    )
                return found, secret
            row = {
                "id": short_id(),
                "owner": owner,
                "role": role,
                "may_send_code": may_send_code,
                "digest": digest(secret),
                "created": now,
                "revoked": None,
                "expires": None if seconds is None else now + datetime.timedelta(seconds=seconds),
            }
            connection.execute(sa.insert(TOKENS).values(row))
            made = token_record(row, now)
            record(connection, by, AuditAction.CREATE_TOKEN, subject=made.id, note=_described(made))
        return made, secret

    def all(self) -> list[TokenRecord]:
        """Return all tokens, oldest first."""
        with read(self._engine) as connection:
            now = database_time(connection)
            rows = connection.execute(sa.select(TOKENS).order_by(TOKENS.c.created, TOKENS.c.id)).mappings()
            return [token_record(row, now) for row in rows]

    def ever_existed(self) -> bool:
        """Return whether a token was ever created; revoking the last one does not open the service again."""
        with read(self._engine) as connection:
            return connection.execute(sa.select(TOKENS.c.id).limit(1)).first() is not None

    def find(self, secret: str) -> TokenRecord | None:
        """Return the token with this secret; None if it is unknown, revoked or expired."""
        found = self._unrevoked(secret)
        return None if found is None or found.is_expired else found

    def expired(self, secret: str) -> TokenRecord | None:
        """Return the token with this secret if it has expired; None for any other."""
        found = self._unrevoked(secret)
        return found if found is not None and found.is_expired else None

    def _unrevoked(self, secret: str) -> TokenRecord | None:
        # By its digest: how long the search takes tells nothing of the secret.
        query = sa.select(TOKENS).where(TOKENS.c.digest == digest(secret), TOKENS.c.revoked.is_(None))
        with read(self._engine) as connection:
            row = connection.execute(query).mappings().first()
            return None if row is None else token_record(row, database_time(connection))

    def revoke(self, token_id: str, by: Actor = LOCAL) -> TokenRecord:
        """Revoke a token; repeating it changes nothing. Raises NotFoundError."""
        with write(self._engine) as connection:
            now = database_time(connection)
            unrevoked = sa.update(TOKENS).where(TOKENS.c.id == token_id, TOKENS.c.revoked.is_(None))
            changed = connection.execute(unrevoked.values(revoked=now)).rowcount
            row = connection.execute(sa.select(TOKENS).where(TOKENS.c.id == token_id)).mappings().first()
            if row is None:
                raise NotFoundError(f"There is no token {token_id!r}. `anon-tune token list` lists them.")
            revoked = token_record(row, now)
            if changed:
                record(connection, by, AuditAction.REVOKE_TOKEN, subject=token_id, note=_described(revoked))
        return revoked


def _described(token: TokenRecord) -> str:
    """Return a token in words, for the audit."""
    code = ", may send code" if token.may_send_code else ""
    until = f", until {token.expires:%Y-%m-%d %H:%M} UTC" if token.expires else ""
    return f"of {token.owner}, role {token.role}{code}{until}"


def digest(secret: str) -> str:
    """Return the SHA-256; a token is 256 random bits, which need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
