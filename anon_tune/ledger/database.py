"""The ledger's database: connections, transactions, errors, migrations, and the database's own clock.

Errors of the database become errors of anon_tune here and nowhere else. No other package imports SQLAlchemy.
"""

from __future__ import annotations

import datetime
import sqlite3
import time
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError,
)

from anon_tune.errors import (
    AnonTuneError,
    ConflictError,
    DatabaseUnavailableError,
    DependencyError,
    InputError,
)
from anon_tune.reachable import password_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "database_errors",
    "database_time",
    "open_database",
    "read",
    "sqlite_file",
    "upgrade",
    "with_sqlite_file",
    "write",
]

_MIGRATIONS = Path(__file__).parent / "migrations"
_READ_ONLY, _DURABLE = "anon_tune_read_only", "anon_tune_durable"
_BUSY_SECONDS = 30.0
_BUSY_POLL_SECONDS = 0.02
_SQLITE_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
}
_POSTGRESQL_UNWRITABLE = {
    "53100",
    "25006",
    "58030",
}  # disk full, read-only transaction, input or output error
_MIGRATION_LOCK = 0x616E6F6E  # "anon"; any number that the database's other users do not lock


def open_database(url: str, seconds: float | None = None) -> sa.Engine:
    """Return an engine with an up-to-date schema; a missing sqlite file and its folder are created.

    Args:
        url: SQLAlchemy URL.
        seconds: Longest wait for an answer of PostgreSQL, from 4 (default: 10), or for the lock of an sqlite file
            (default: 30).

    Raises:
        InputError: `url` is not a database URL.
        ConflictError: The database was written by a newer anon_tune.
        DependencyError: The database cannot be reached, or its client library is not installed.
    """
    try:
        if password_problem(url) is not None:  # libraries would take a part of it for the host, and name that
            raise ValueError
        parsed = make_url(url)
        _check_keeps(parsed)
        engine = _engine(parsed, seconds)
    except InputError:
        raise
    except (ArgumentError, ValueError):  # not shown: it may hold a password
        raise InputError(
            "ANON_TUNE_DATABASE_URL is not a database URL. Examples: sqlite:////data/ledger.db and "
            "postgresql+psycopg://user:password@host:5432/name; write @ in a password as %40"
        ) from None
    except OSError as error:  # the folder of an sqlite file
        raise DependencyError(
            f"The ledger cannot be opened ({error}). Check ANON_TUNE_DATABASE_URL."
        ) from error
    except ModuleNotFoundError as error:
        raise DependencyError(f"The ledger's database needs the package {error.name}. Install it.") from error
    try:
        upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def upgrade(engine: sa.Engine) -> None:
    """Bring the schema to the newest version; concurrent callers wait for one another.

    Raises:
        ConflictError: The database was written by a newer anon_tune.
        DependencyError: The database cannot be used.
    """
    known = sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))
    with _transaction(engine, "opened", **{_READ_ONLY: True}) as connection:
        current = _revision(connection)
    if current == known[-1]:
        return
    if current is not None and current not in known:
        raise ConflictError(
            f"The ledger at {engine.url.render_as_string(hide_password=True)} was written by a newer anon_tune "
            f"(schema {current}). Install that version, or set ANON_TUNE_HOME to another folder."
        )
    from alembic import command  # takes a fifth of a second, which every command would wait for
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with write(engine) as connection:
        if connection.dialect.name == "postgresql":  # sqlite's writers wait for one another anyway
            _lift_limits(connection)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: sa.Connection) -> str | None:
    """Return the version of the schema; None for an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def write(engine: sa.Engine, *, durable: bool = True) -> AbstractContextManager[sa.Connection]:
    """Begin a transaction that reads and writes.

    On sqlite it takes the write lock at once, so what it reads stays true.

    A transaction that is not `durable` survives a killed process but perhaps not a power cut: on sqlite it does not
    wait for the disk. The next durable one brings it to disk, since the log is written in order.

    Raises:
        DatabaseUnavailableError: The server is away or does not answer, or another process has held a lock for too
            long. Whether the transaction was stored is unknown if this happens in its commit.
        DependencyError: The database cannot be written: its disk is full, or it is read-only.
        InputError: The database cannot store a value.
    """
    return _transaction(engine, "written", **{_DURABLE: durable})


def read(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """Begin a read-only transaction on one snapshot of the database.

    Raises:
        DatabaseUnavailableError: As for `write`.
        DependencyError: The database cannot be read.
        InputError: The database cannot handle a value of the query.
    """
    options: dict[str, Any] = {_READ_ONLY: True}
    if engine.dialect.name == "postgresql":  # its default takes a new snapshot for each statement
        options["isolation_level"] = "REPEATABLE READ"
    return _transaction(engine, "read", **options)


@contextmanager
def database_errors(explain: Callable[[str], AnonTuneError]) -> Iterator[None]:
    """Raise `explain(reason)` in place of an error of another database, such as MLflow's store.

    Args:
        explain: Returns the error for a reason, which is one line of text.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise explain((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


@contextmanager
def _transaction(engine: sa.Engine, use: str, **options: Any) -> Iterator[sa.Connection]:
    """Begin a transaction. Errors of the database become errors of anon_tune, except violated constraints.

    The operation that violated a constraint knows its meaning and handles it.
    """
    try:
        with engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection
    except IntegrityError:
        raise
    except (DataError, OverflowError, UnicodeEncodeError) as error:  # not its message, which quotes the value
        raise InputError(
            "The ledger's database cannot store a value of this request, such as a text with a NUL character or a "
            "number that is too large."
        ) from error
    except (DBAPIError, TimeoutError) as error:
        kind = DatabaseUnavailableError if _is_away(engine, error) else DependencyError
        raise kind(_explanation(engine, error, use)) from error


def _is_away(engine: sa.Engine, error: DBAPIError | TimeoutError) -> bool:
    """Return whether trying again may help; a disk stays full, and a table that is missing does not come."""
    if not isinstance(error, DBAPIError):
        return True  # all connections are in use
    if engine.dialect.name == "sqlite":
        return _is_busy(error.orig)
    is_operational = error.connection_invalidated or isinstance(error, OperationalError)
    return is_operational and not _takes_no_writes(error.orig)


def _explanation(engine: sa.Engine, error: DBAPIError | TimeoutError, use: str) -> str:
    """Return the message for a database that cannot be used: its address, the reason and what to do."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if _is_busy(cause):
        advice = "Another process holds its write lock. End that process, or continue it if it is stopped."
    elif use == "written" and _takes_no_writes(cause):
        advice = "Free space on its disk, or make it writable."
    elif engine.dialect.name == "sqlite":
        advice = "Check ANON_TUNE_DATABASE_URL or, if that is not set, ANON_TUNE_HOME."
    else:
        advice = "Check that its server is running, and check ANON_TUNE_DATABASE_URL."
    where, reason = engine.url.render_as_string(hide_password=True), " ".join(str(cause).split())
    safe = "; what was stored before is safe" if use == "written" else ""
    return f"The ledger at {where} cannot be {use} ({reason}){safe}. {advice}"


def _is_busy(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def _takes_no_writes(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        # The lowest byte is the kind of error, the rest what it happened to.
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _SQLITE_UNWRITABLE
    return getattr(error, "sqlstate", None) in _POSTGRESQL_UNWRITABLE


def database_time(connection: sa.Connection) -> datetime.datetime:
    """Return the time by the database's clock (UTC), the only clock for leases and records."""
    if connection.dialect.name == "sqlite":
        text = connection.exec_driver_sql("SELECT strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')").scalar_one()
        return datetime.datetime.fromisoformat(text)
    moment: datetime.datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return moment.astimezone(datetime.UTC)


def sqlite_file(url: str) -> Path | None:
    """Return the file that an SQLAlchemy URL names; None for other databases and for servers."""
    database = make_url(url).database if url.startswith("sqlite:") else None
    return Path(database) if database else None


def with_sqlite_file(url: str, file: Path) -> str:
    """Return an SQLAlchemy URL with another file."""
    return make_url(url).set(database=str(file)).render_as_string()


def _check_keeps(url: sa.URL) -> None:
    in_memory = not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"
    if url.get_backend_name() == "sqlite" and in_memory:
        raise InputError(
            "ANON_TUNE_DATABASE_URL must name a file: an in-memory database is lost after each command. For example: "
            "sqlite:////data/ledger.db"
        )


def _engine(url: sa.URL, seconds: float | None) -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return _server_engine(url, seconds)
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    busy = _BUSY_SECONDS if seconds is None else seconds
    engine = sa.create_engine(url, connect_args={"timeout": busy}, hide_parameters=True)
    event.listen(engine, "connect", lambda connection, _: _sqlite_connect(connection, busy))
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _server_engine(url: sa.URL, seconds: float | None) -> sa.Engine:
    if (url.get_backend_name(), url.get_driver_name()) != ("postgresql", "psycopg"):
        return sa.create_engine(url, pool_pre_ping=True, hide_parameters=True)
    from anon_tune.ledger import postgresql  # psycopg is installed only for those who use it

    seconds = postgresql.ANSWER_SECONDS if seconds is None else seconds
    options = postgresql.connect_options(url, seconds)
    engine = sa.create_engine(url, connect_args=options, pool_pre_ping=True, hide_parameters=True)
    postgresql.limit_waits(engine, seconds)
    return engine


def _lift_limits(connection: sa.Connection) -> None:
    """Let a migration take its time."""
    if connection.dialect.driver == "psycopg":
        from anon_tune.ledger import postgresql

        postgresql.without_limits(connection)


def _sqlite_connect(connection: Any, seconds: float) -> None:
    # None: the driver leaves BEGIN to _sqlite_begin.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor, seconds)
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _use_wal(cursor: Any, seconds: float) -> None:
    """Set the file's journal to WAL.

    sqlite does not wait for a lock here: if several processes open a new file together, all but one get an error at
    once.
    """
    limit = time.monotonic() + seconds
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > limit:
                raise
            time.sleep(_BUSY_POLL_SECONDS)
        else:
            return


def _sqlite_begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    if options.get(_READ_ONLY, False):
        connection.exec_driver_sql("BEGIN")
        return
    # FULL: a committed report outlives a power cut too, not only a killed process.
    level = "FULL" if options.get(_DURABLE, True) else "NORMAL"
    if connection.info.get(_DURABLE) != level:
        connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
        connection.info[_DURABLE] = level
    connection.exec_driver_sql("BEGIN IMMEDIATE")
