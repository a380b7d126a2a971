"""The ledger: one database of jobs, and the operations on it.

Operations are in four classes: `Jobs`, `Leases`, `Trials` and `Attempts`. `ledger.trials.report(...)` is a
transaction of its own. Several operations become one transaction on the object that `Ledger.transaction` gives::

    with ledger.transaction() as transaction:
        transaction.trials.report(lease, ...)
        transaction.trials.finish(lease, ...)

Who owns what
-------------
The one process that holds a job's lease works on the job. `leases.acquire` takes a given job, `leases.claim` the
next of the queue; both return a lease with a fencing token. Every write about the job's trials names that lease. It
is refused with LeaseLostError once a newer token was given or the lease was ended, and nothing of a refused write
is kept. `leases.heartbeat` renews the lease; anyone can take a lease that has run out. A RUNNING trial belongs to
the holder of its job's lease: the next holder finds the RUNNING trials back in WAITING, their attempts closed as
LOST. A job has a lease if and only if it is RUNNING.

The queue
---------
QUEUED jobs can be claimed, and RUNNING ones whose lease has run out. The highest priority comes first, and within
it the job that was created first. Two processes that claim at once get two jobs, or one of them none.

Requests
--------
`jobs.pause`, `cancel`, `resume` and `extend` need no lease. A job that nobody holds (QUEUED, PAUSED, or RUNNING
with a lease that has run out) is changed at once. Where a process holds it, `pause` and `cancel` leave a request,
which the holder reads at its next heartbeat and answers by `leases.release`; a cancel replaces a pause. No request
is forgotten: if the holder leaves the job in a state that could go on, the job is PAUSED or CANCELLED as requested,
and the next `claim` does so for a job that its holder left behind. `acquire` of such a job, which names it,
withdraws the request. A budget that was raised just before the job's end queues it again.

Transactions
------------
Each transaction reads the state it depends on under a lock (sqlite: the database's write lock; PostgreSQL: the
job's row). So a change of state is a compare-and-set: when the state is no longer the expected one, the operation
raises and changes nothing. Values go in and come out as copies (`records`). Times are the database's, in UTC. The
time spent on a job grows by the time between its heartbeats, so that a killed holder's last seconds do not count.
The first report of a trial's step stands. A checkpoint is named together with the report of its step and is durable
by then: training that goes on from a named checkpoint leaves no step out. An error of the database, in a read or a
write, is a DependencyError, and nothing of the transaction is kept (`database`). A DatabaseUnavailableError may pass;
one in a commit leaves open whether the transaction was stored, so `Ledger.persist` repeats it with care.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import sqlalchemy as sa

from anon_tune.ledger.archives import CodeArchives
from anon_tune.ledger.attempts import Attempts
from anon_tune.ledger.database import open_database, write
from anon_tune.ledger.jobs import Jobs
from anon_tune.ledger.leases import Leases
from anon_tune.ledger.overviews import Overviews
from anon_tune.ledger.projections import Projections
from anon_tune.ledger.retries import retried
from anon_tune.ledger.sessions import Sessions
from anon_tune.ledger.tokens import Tokens
from anon_tune.ledger.transaction import SeparateTransactions, Transaction, Transactions
from anon_tune.ledger.trials import Trials

__all__ = ["Ledger", "Operations"]

T = TypeVar("T")


class Operations:
    """Operations of a ledger, each in a transaction of its own or all in one.

    Attributes:
        jobs: Jobs, and requests of users.
        leases: Leases of the processes that work on jobs.
        trials: Trials and their reports.
        attempts: Executions of trials.
    """

    def __init__(self, transactions: Transactions) -> None:
        self.jobs = Jobs(transactions)
        self.leases = Leases(transactions)
        self.trials = Trials(transactions)
        self.attempts = Attempts(transactions)


class Ledger(Operations):
    """One database of jobs. Safe to share between threads; each process opens its own.

    Its operations are transactions of their own, also within `transaction`.

    Attributes:
        overviews: Summaries and pages of jobs and trials, without their reports.
        projections: Cursors of the projection to MLflow.
        archives: Code archives of jobs.
        tokens: Tokens of the service's users.
        sessions: Sessions of their browsers.
    """

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(SeparateTransactions(engine))
        self._engine = engine
        self.overviews = Overviews(engine)
        self.projections = Projections(engine)
        self.archives = CodeArchives(engine)
        self.tokens = Tokens(engine)
        self.sessions = Sessions(engine)

    @classmethod
    def open(cls, url: str, seconds: float | None = None) -> Ledger:
        """Open the database at an SQLAlchemy URL; create or migrate it if needed.

        Args:
            url: SQLAlchemy URL.
            seconds: Longest wait for the database; see `open_database`.

        Raises:
            InputError: `url` is not a database URL.
            ConflictError: The database was written by a newer anon_tune.
            DependencyError: The database cannot be reached, or its client library is not installed.
        """
        return cls(open_database(url, seconds))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Operations]:
        """Return operations that are committed together at the end of the block; an error rolls all of them back.

        Call no operation of the ledger itself in the block: it would wait for this transaction.

        Args:
            durable: Whether the transaction survives a power cut once this returns. If not, it does so once a later
                durable transaction has returned; it can only be lost together with the process that wrote it and all
                later transactions. PostgreSQL, whose clients may outlive it, always stores durably.
        """
        with write(self._engine, durable=durable) as connection:
            yield Operations(Transaction(connection))

    def persist(
        self, work: Callable[[Operations], T], is_over: Callable[[], bool], *, durable: bool = True
    ) -> T:
        """Return `work(operations)`, done in one transaction; repeat it while the database is unavailable.

        A connection that breaks during a commit leaves its outcome unknown. So the repetition looks first: an
        operation that was stored returns what it returned then, and changes nothing.

        Args:
            work: Operations of the holder of a lease, on trials, attempts and leases, or `jobs.update`.
            is_over: Returns whether to give up.
            durable: As for `transaction`.

        Raises:
            DatabaseUnavailableError: The error of the last try, once `is_over()` is true.
        """

        def do(again: bool) -> T:
            with write(self._engine, durable=durable) as connection:
                return work(Operations(Transaction(connection, again=again)))

        return retried(do, is_over)
