"""The ledger: the only truth about jobs, trials, attempts and reports, in an SQL database."""

from anon_tune.ledger.database import open_database
from anon_tune.ledger.ledger import Lease, Ledger, Pulse, SubmissionKey
from anon_tune.ledger.projections import Cursor

__all__ = ["Cursor", "Lease", "Ledger", "Pulse", "SubmissionKey", "open_database"]
