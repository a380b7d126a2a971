"""The ledger: the only truth about jobs, trials, attempts and reports, in an SQL database."""

from anon_tune.ledger.database import open_database
from anon_tune.ledger.ledger import Cursor, Lease, Ledger

__all__ = ["Cursor", "Lease", "Ledger", "open_database"]
