"""Archives of the code of jobs."""

from __future__ import annotations

import contextlib

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from anon_tune.errors import NotFoundError
from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.tables import CODE

__all__ = ["CodeArchives"]


class CodeArchives:
    """Archives of code of one ledger: `Ledger.archives`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def store(self, digest: str, content: bytes, owner: str | None) -> None:
        """Store an archive under its digest; storing it again changes nothing."""
        with contextlib.suppress(IntegrityError), write(self._engine) as connection:
            row = {"digest": digest, "content": content, "owner": owner, "created": database_time(connection)}
            connection.execute(sa.insert(CODE).values(row))

    def get(self, digest: str) -> bytes:
        """Return an archive. Raises NotFoundError."""
        with read(self._engine) as connection:
            found = connection.execute(sa.select(CODE.c.content).where(CODE.c.digest == digest)).scalar()
        if found is None:
            raise NotFoundError(f"There is no code archive {digest!r}. Send it first.")
        return bytes(found)
