"""Archives of the code of jobs."""

from __future__ import annotations

import contextlib
import datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from anon_tune.errors import QuotaError
from anon_tune.ledger.database import database_time, read, write
from anon_tune.ledger.deletions import no_such_code, remove_unused_code
from anon_tune.ledger.tables import CODE

__all__ = ["CodeArchives"]

_UNUSED = datetime.timedelta(days=1)
"""Age from which an archive that no job uses is deleted: its submission has failed."""


class CodeArchives:
    """Archives of code of one ledger: `Ledger.archives`. Each method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def store(self, digest: str, content: bytes, owner: str | None, most: int) -> None:
        """Store an archive under its digest; storing it again only makes it younger.

        Args:
            digest: Its SHA-256.
            content: The archive.
            owner: The user who sent it.
            most: Most bytes of all archives. Archives that are stored at the same moment may exceed it together.

        Raises:
            QuotaError: All archives would have more bytes.
        """
        with contextlib.suppress(IntegrityError), write(self._engine) as connection:
            now = database_time(connection)
            again = sa.update(CODE).where(CODE.c.digest == digest).values(created=now)
            if connection.execute(again).rowcount:
                return
            remove_unused_code(connection, CODE.c.created < now - _UNUSED)
            stored = connection.execute(_SIZE).scalar() or 0
            if stored + len(content) > most:
                raise QuotaError(
                    f"There is no room for this code of {len(content) / 2**20:.1f} MiB: {stored / 2**20:.1f} of "
                    f"{most / 2**20:.0f} MiB are used. Delete jobs that brought code (anon-tune delete JOB), or "
                    "raise ANON_TUNE_CODE_QUOTA of the service."
                )
            row = {"digest": digest, "content": content, "owner": owner, "created": now}
            connection.execute(sa.insert(CODE).values(row))

    def get(self, digest: str) -> bytes:
        """Return an archive. Raises NotFoundError."""
        with read(self._engine) as connection:
            found = connection.execute(sa.select(CODE.c.content).where(CODE.c.digest == digest)).scalar()
        if found is None:
            raise no_such_code(digest)
        return bytes(found)

    def size(self) -> int:
        """Return the bytes of all archives."""
        with read(self._engine) as connection:
            return connection.execute(_SIZE).scalar() or 0


_SIZE = sa.select(sa.func.sum(sa.func.length(CODE.c.content)))
