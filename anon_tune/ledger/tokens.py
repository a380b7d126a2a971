"""Tokens of the service's users; the ledger stores only their digests."""

from __future__ import annotations

import hashlib
import secrets

import sqlalchemy as sa

from anon_tune.errors import ConflictError, NotFoundError
from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.rows import token_record
from anon_tune.ledger.tables import TOKENS
from anon_tune.records import Role, TokenRecord

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
        self, owner: str, role: Role, secret: str | None = None, *, may_send_code: bool = False
    ) -> tuple[TokenRecord, str]:
        """Create a token and return it with its secret, which cannot be shown again.

        With a `secret` that was stored before, return its token.

        Raises:
            ConflictError: That token has another owner or role, or was revoked.
        """
        secret = secret or _PREFIX + secrets.token_urlsafe(_BYTES)
        with write(self._engine) as connection:
            query = sa.select(TOKENS).where(TOKENS.c.digest == digest(secret)).with_for_update()
            known = connection.execute(query).mappings().first()
            if known is not None:
                found = token_record(known)
                wanted = owner, role, may_send_code, None
                if (found.owner, found.role, found.may_send_code, found.revoked) != wanted:
                    raise ConflictError(
                        f"This secret belongs to token {found.id} of {found.owner}, role {found.role}, "
                        f"{'revoked' if found.revoked else 'in use'}. Use another secret."
                    )
                return found, secret
            row = {
                "id": short_id(),
                "owner": owner,
                "role": role,
                "may_send_code": may_send_code,
                "digest": digest(secret),
                "created": database_time(connection),
                "revoked": None,
            }
            connection.execute(sa.insert(TOKENS).values(row))
        return token_record(row), secret

    def all(self) -> list[TokenRecord]:
        """Return all tokens, oldest first."""
        with read(self._engine) as connection:
            rows = connection.execute(sa.select(TOKENS).order_by(TOKENS.c.created, TOKENS.c.id)).mappings()
            return [token_record(row) for row in rows]

    def ever_existed(self) -> bool:
        """Return whether a token was ever created; revoking the last one does not open the service again."""
        with read(self._engine) as connection:
            return connection.execute(sa.select(TOKENS.c.id).limit(1)).first() is not None

    def find(self, secret: str) -> TokenRecord | None:
        """Return the token with this secret; None if there is none, or it was revoked."""
        # By its digest: how long the search takes tells nothing of the secret.
        query = sa.select(TOKENS).where(TOKENS.c.digest == digest(secret), TOKENS.c.revoked.is_(None))
        with read(self._engine) as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else token_record(row)

    def revoke(self, token_id: str) -> TokenRecord:
        """Revoke a token; repeating it changes nothing. Raises NotFoundError."""
        with write(self._engine) as connection:
            unrevoked = sa.update(TOKENS).where(TOKENS.c.id == token_id, TOKENS.c.revoked.is_(None))
            connection.execute(unrevoked.values(revoked=database_time(connection)))
            row = connection.execute(sa.select(TOKENS).where(TOKENS.c.id == token_id)).mappings().first()
        if row is None:
            raise NotFoundError(f"There is no token {token_id!r}. `anon-tune token list` lists them.")
        return token_record(row)


def digest(secret: str) -> str:
    """Return the SHA-256; a token is 256 random bits, which need no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
