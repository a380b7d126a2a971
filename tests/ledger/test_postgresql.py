"""A PostgreSQL server that restarts, freezes, or is found at another address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from anon_tune.errors import DatabaseUnavailableError
from anon_tune.ledger import Ledger
from anon_tune.ledger.database import read, write
from anon_tune.ledger.tables import JOBS
from tests.databases import Server, frozen

pytestmark = pytest.mark.slow

PATIENCE = 120.0
SECONDS = 4.0


@pytest.fixture(scope="module")
def folder(postgresql_programs: Server) -> Iterator[Path]:
    """The folder of a server's socket."""
    with postgresql_programs("-c listen_addresses=''") as started:
        yield started


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"postgresql+psycopg://postgres@/postgres?host={folder}", SECONDS)
    yield opened
    opened.close()


def test_a_frozen_server_is_an_error_of_reads_and_writes_and_comes_back(folder: Path, ledger: Ledger):
    job = ledger.jobs.create("x", {}, {})
    with frozen(folder):
        for ask in (ledger.overviews.jobs, lambda: ledger.leases.claim("me", 15.0)):
            with pytest.raises(DatabaseUnavailableError, match=r"cannot be (read|written)"):
                ask()
    until_it_answers(ledger)
    assert job in ledger.overviews.jobs()


def test_an_answer_that_does_not_come_ends_its_transaction(folder: Path, ledger: Ledger):
    """In the middle of one, whose connection was tried before."""
    engine = ledger._engine

    def freeze_within() -> None:
        with write(engine) as connection:
            connection.execute(sa.select(JOBS.c.id)).all()
            with frozen(folder):
                connection.execute(sa.select(JOBS.c.id)).all()

    with pytest.raises(DatabaseUnavailableError, match=r"written \(.*no answer within 4 s"):
        freeze_within()
    until_it_answers(ledger)


def test_frozen_connections_are_replaced(folder: Path, ledger: Ledger):
    """As those to an address that is no longer the server's."""
    job = ledger.jobs.create("x", {}, {})
    with frozen(folder, backends_only=True):
        assert ledger.jobs.get(job.id) == job


def test_a_lock_that_another_holds_for_ever_is_an_error(folder: Path, ledger: Ledger):
    job = ledger.jobs.create("x", {}, {})
    lock = sa.select(JOBS.c.id).where(JOBS.c.id == job.id).with_for_update()
    with write(ledger._engine) as other:
        other.execute(lock)
        with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
            ledger.jobs.pause(job.id)


def test_the_server_ends_a_statement_before_its_client_gives_up(ledger: Ledger):
    with read(ledger._engine) as connection:
        query = sa.text("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
        assert connection.execute(query).one() == ("3500ms", "3s")


def test_another_host_is_tried_where_the_first_does_not_answer(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        port = silent.getsockname()[1]
        hosts = f"host=127.0.0.1:{port}&host={folder}:5432&target_session_attrs=read-write"
        ledger = Ledger.open(f"postgresql+psycopg://postgres@/postgres?{hosts}", SECONDS)
        job = ledger.jobs.create("x", {}, {})
        assert ledger.jobs.get(job.id) == job
        ledger.close()


def until_it_answers(ledger: Ledger) -> None:
    limit = threading.Event()
    timer = threading.Timer(PATIENCE, limit.set)
    timer.start()
    try:
        while True:
            try:
                ledger.overviews.time()
            except DatabaseUnavailableError:
                assert not limit.wait(0.1), "the server does not come back"
            else:
                return
    finally:
        timer.cancel()
