"""The ledger: the source of truth about jobs, trials, attempts and reports, in an SQL database."""

from anon_tune.ledger.database import database_errors, open_database, sqlite_file, with_sqlite_file
from anon_tune.ledger.jobs import SubmissionKey
from anon_tune.ledger.leases import LeaseStatistics
from anon_tune.ledger.ledger import Ledger, Operations
from anon_tune.ledger.projections import Cursor
from anon_tune.ledger.retries import after, retried
from anon_tune.ledger.transaction import Lease

__all__ = [
    "Cursor",
    "Lease",
    "LeaseStatistics",
    "Ledger",
    "Operations",
    "SubmissionKey",
    "after",
    "database_errors",
    "open_database",
    "retried",
    "sqlite_file",
    "with_sqlite_file",
]
