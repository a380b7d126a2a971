"""Opening and migrating the ledger's database."""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import anon_tune.ledger
from anon_tune.errors import ConflictError, DependencyError, InputError
from anon_tune.ledger import Ledger, open_database
from anon_tune.ledger.database import database_time, read, upgrade, write
from anon_tune.ledger.tables import CODE, JOBS, METADATA
from anon_tune.records import NewTrial, Phase
from tests import builders

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.slow)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    opened = open_database(database_url)
    yield opened
    opened.dispose()


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def test_migrations_make_the_tables_that_the_code_reads(engine: sa.Engine):
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, METADATA) == []


def test_migrations_go_back_and_forth(engine: sa.Engine):
    config = Config()
    config.set_main_option("script_location", str(Path(anon_tune.ledger.__file__).parent / "migrations"))
    with write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert tables(engine) == {"alembic_version"}
    upgrade(engine)
    assert tables(engine) == {"alembic_version", *METADATA.tables}


def test_migrations_are_known_by_their_files():
    """An up-to-date database needs no alembic, which takes a fifth of a second to load."""
    folder = Path(anon_tune.ledger.__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder))
    chain = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    files = sorted(path.name.partition("_")[0] for path in (folder / "versions").glob("[0-9]*.py"))
    assert files == chain[::-1]


def test_migration_counts_existing_reports(database_url: str):
    ledger = Ledger.open(database_url)
    lease = ledger.leases.acquire(ledger.jobs.create("x", {}, {}).id, "me", 60.0)
    for number, epochs in enumerate((3, 0)):
        trial = ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, number, number, {"x": number}, {})).id
        ledger.attempts.start(lease, trial)
        for step in range(1, epochs + 1):
            ledger.trials.report(
                lease, trial, 1, step, 1.0, {"epoch_seconds": 1.5} if step > 1 else {"loss": 1.0}
            )
    ledger.close()
    engine = open_database(database_url)
    config = Config()
    config.set_main_option("script_location", str(Path(anon_tune.ledger.__file__).parent / "migrations"))
    with write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
    engine.dispose()
    again = Ledger.open(database_url)
    found = again.jobs.get(lease.job, trials=True).trials
    assert [(trial.steps, trial.seconds) for trial in found] == [(3, 3.0), (0, 0.0)]
    again.close()


def test_a_trial_is_as_far_as_its_largest_step(database_url: str):
    """Reports leave steps out, and another attempt may report at other steps than the one before."""
    ledger = Ledger.open(database_url)
    spec = builders.spec().model_dump(mode="json")
    lease = ledger.leases.acquire(ledger.jobs.create("x", spec, {}).id, "me", 60.0)
    trial = ledger.trials.add(lease, NewTrial("anon", Phase.SEARCH, 0, 0, {"x": 0}, {})).id
    for attempt, steps in ((1, (100, 400)), (2, (250, 400, 700))):
        ledger.attempts.start(lease, trial)
        for step in steps:
            ledger.trials.report(lease, trial, attempt, step, 1.0, {"epoch_seconds": 1.0})
        ledger.attempts.lose(lease, trial, "lost")
    (found,) = ledger.jobs.get(lease.job, trials=True).trials
    assert (found.steps, found.seconds) == (700, 4.0)
    assert [report.step for report in found.reports] == [100, 250, 400, 700]
    arm = ledger.overviews.job(lease.job).arms["anon"]
    assert (arm.steps, arm.seconds) == (700, 4.0)
    ledger.close()


def migrate_down(engine: sa.Engine, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(anon_tune.ledger.__file__).parent / "migrations"))
    with write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def test_migration_assigns_trials_to_the_first_search(database_url: str):
    """A downgrade drops trials of further searches; the others keep all rows that refer to them."""
    ledger = Ledger.open(database_url)
    lease = ledger.leases.acquire(ledger.jobs.create("x", {}, {}).id, "me", 60.0)
    for repeat in range(2):
        for number in range(3):
            new = NewTrial("anon", Phase.SEARCH, number, 7, {"x": number}, {}, repeat=repeat)
            trial = ledger.trials.add(lease, new).id
            ledger.attempts.start(lease, trial)
            ledger.trials.report(lease, trial, 1, 1, 0.5, {"loss": 0.5})
    ledger.projections.announce(lease.job)
    before, attempts = ledger.jobs.get(lease.job, trials=True).trials, ledger.attempts.of_job(lease.job)
    assert [trial.repeat for trial in before] == [0, 0, 0, 1, 1, 1]
    ledger.close()
    engine = open_database(database_url)
    migrate_down(engine, "0004")
    engine.dispose()
    again = Ledger.open(database_url)
    assert again.jobs.get(lease.job, trials=True).trials == before[:3]
    assert again.attempts.of_job(lease.job) == attempts[:3]
    further = NewTrial("anon", Phase.SEARCH, 0, 7, {"x": 0}, {}, repeat=1)
    assert again.trials.add(lease, further).id == before[3].id
    with pytest.raises(ConflictError):
        again.trials.add(lease, further)
    again.close()


def test_opening_again_keeps_what_is_there(database_url: str):
    first = Ledger.open(database_url)
    made = first.jobs.create("kept", {"a": 1}, {})
    first.close()
    second = Ledger.open(database_url)
    assert second.overviews.jobs() == [made]
    second.close()


def test_a_newer_schema_is_refused_and_left_alone(engine: sa.Engine, database_url: str):
    with write(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConflictError, match="newer anon_tune"):
        open_database(database_url)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_reader_sees_one_moment(engine: sa.Engine, database_url: str):
    ledger = Ledger.open(database_url)
    ledger.jobs.create("before", {}, {})
    count = sa.select(sa.func.count()).select_from(JOBS)
    with read(engine) as connection:
        assert connection.execute(count).scalar() == 1
        ledger.jobs.create("meanwhile", {}, {})
        assert connection.execute(count).scalar() == 1
    with read(engine) as connection:
        assert connection.execute(count).scalar() == 2
    ledger.close()


def test_a_write_that_fails_leaves_nothing(engine: sa.Engine):
    def fail() -> None:
        with write(engine) as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = 'x'"))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    with read(engine) as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() != "x"


def test_a_full_disk_is_reported_and_keeps_stored_data(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    engine = open_database(url)
    ledger = Ledger(engine)
    with read(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    engine.dispose()
    sa.event.listen(engine, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count = {pages + 4}"))
    kept = [ledger.jobs.create("small", {}, {})]
    with pytest.raises(
        DependencyError,
        match=rf"The ledger at {url} cannot be written \(database or disk is full\).*Free space",
    ):
        ledger.jobs.create("large", {"text": "x" * 100_000}, {})
    assert ledger.overviews.jobs() == kept
    kept.append(ledger.jobs.create("small", {}, {}))
    engine.dispose()
    again = Ledger.open(url)
    again.jobs.create("large", {"text": "x" * 100_000}, {})
    assert {job.id for job in kept} < {job.id for job in again.overviews.jobs()}
    again.close()


def test_a_read_only_database_is_reported(new_database: Callable[[], str]):
    url = new_database()
    engine = open_database(url)
    only = (
        "SET default_transaction_read_only = on"
        if engine.dialect.name == "postgresql"
        else "PRAGMA query_only = ON"
    )
    engine.dispose()
    sa.event.listen(engine, "connect", lambda connection, _: connection.cursor().execute(only))
    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "connect", lambda connection, _: connection.commit())
    with pytest.raises(
        DependencyError, match=r"cannot be written.*(readonly database|read-only transaction).*Free space"
    ):
        Ledger(engine).jobs.create("x", {}, {})
    assert Ledger(engine).overviews.jobs() == []
    engine.dispose()


@pytest.mark.parametrize(("begin", "use"), [(read, "read"), (write, "written")])
def test_an_error_of_the_database_is_a_dependency_error(
    engine: sa.Engine, begin: Callable[[sa.Engine], AbstractContextManager[sa.Connection]], use: str
):
    failing = pytest.raises(
        DependencyError, match=rf"cannot be {use} \(.*no_such_table.*ANON_TUNE_DATABASE_URL"
    )
    with failing, begin(engine) as connection:
        connection.execute(sa.text("SELECT * FROM no_such_table"))
    with begin(engine) as connection:
        assert connection.execute(sa.select(JOBS)).all() == []


def test_a_violated_constraint_is_left_to_the_operation(engine: sa.Engine):
    with write(engine) as connection:
        connection.execute(sa.insert(CODE).values(digest="x", content=b"", created=database_time(connection)))
    with pytest.raises(sa.exc.IntegrityError), write(engine) as connection:
        connection.execute(sa.insert(CODE).values(digest="x", content=b"", created=database_time(connection)))


@pytest.mark.parametrize("new_database", [POSTGRESQL], indirect=True)
def test_a_value_that_the_database_cannot_hold_is_an_input_error_without_it(database_url: str):
    ledger = Ledger.open(database_url)
    with pytest.raises(InputError, match="cannot store a value") as caught:
        ledger.jobs.create("secret\0", {}, {})
    assert "secret" not in str(caught.value)
    assert ledger.overviews.jobs() == []
    ledger.close()


def test_a_file_that_was_removed_is_a_dependency_error_of_reads(tmp_path: Path):
    file = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{file}")
    job = ledger.jobs.create("x", {}, {}).id
    ledger.close()  # a connection that is open would still have the file
    file.unlink()
    for ask in (ledger.overviews.jobs, ledger.leases.statistics, lambda: ledger.jobs.get(job)):
        with pytest.raises(
            DependencyError, match=rf"The ledger at sqlite:///{file} cannot be read \(no such table"
        ):
            ask()
    ledger.close()


def test_a_file_that_another_process_locked_is_a_dependency_error_of_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("anon_tune.ledger.database._BUSY_SECONDS", 0.05)
    file = tmp_path / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{file}")
    ledger.close()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DependencyError, match=r"cannot be read \(database is locked\).*Another process"):
            ledger.overviews.jobs()
    assert ledger.overviews.jobs() == []
    ledger.close()


@pytest.mark.slow
def test_a_server_that_was_stopped_is_a_dependency_error_of_reads_and_writes(
    postgresql_programs: Callable[[str], contextlib.AbstractContextManager[Path]],
):
    with postgresql_programs("-c listen_addresses=''") as folder:
        ledger = Ledger.open(f"postgresql+psycopg://postgres:secret@/postgres?host={folder}")
        ledger.jobs.create("x", {}, {})
    for use, ask in (
        ("read", ledger.overviews.jobs),
        ("written", lambda: ledger.leases.claim("me", 15.0)),
        ("read", ledger.overviews.time),
    ):
        with pytest.raises(
            DependencyError, match=rf"cannot be {use}.*Check that its server is running"
        ) as caught:
            ask()
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    ledger.close()


@pytest.mark.parametrize("new_database", [POSTGRESQL], indirect=True)
@pytest.mark.parametrize(("begin", "use"), [(read, "read"), (write, "written")])
def test_a_connection_that_breaks_in_a_transaction_is_a_dependency_error(
    engine: sa.Engine, begin: Callable[[sa.Engine], AbstractContextManager[sa.Connection]], use: str
):
    def breaks() -> None:
        with begin(engine) as connection:
            own = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            with begin(engine) as other:
                other.execute(sa.text(f"SELECT pg_terminate_backend({own}, 10000)"))
            connection.execute(sa.select(JOBS))

    with pytest.raises(DependencyError, match=f"cannot be {use}"):
        breaks()
    with begin(engine) as connection:
        assert connection.execute(sa.select(JOBS)).all() == []


def test_the_clock_is_utc_and_does_not_go_back(engine: sa.Engine):
    with read(engine) as connection:
        times = [database_time(connection) for _ in range(3)]
    assert times == sorted(times)
    assert all(time.utcoffset() == datetime.timedelta(0) for time in times)


def test_naive_times_are_refused(engine: sa.Engine):
    query = sa.select(JOBS.c.id).where(JOBS.c.created == datetime.datetime(2026, 1, 1))
    with pytest.raises(sa.exc.StatementError, match="aware"), read(engine) as connection:
        connection.execute(query)


def test_the_folder_of_an_sqlite_file_is_made(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "ledger.db"
    Ledger.open(f"sqlite:///{path}").close()
    assert path.is_file()


@pytest.mark.parametrize("url", ["", "ledger.db", "no such dialect://x/y", "nosuchdialect://x/y"])
def test_an_invalid_database_url_is_refused(url: str):
    with pytest.raises(InputError, match="ANON_TUNE_DATABASE_URL is no"):
        open_database(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_an_in_memory_database_is_refused(url: str):
    with pytest.raises(InputError, match="ANON_TUNE_DATABASE_URL must name a file"):
        open_database(url)


def test_a_missing_driver_is_named():
    if importlib.util.find_spec("psycopg2"):
        pytest.skip("needs a machine without psycopg2")
    with pytest.raises(DependencyError, match="psycopg2"):
        open_database("postgresql+psycopg2://localhost/x")


def test_a_file_that_is_not_a_database_is_not_changed(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes\n" * 100)
    with pytest.raises(DependencyError, match="not a database"):
        open_database(f"sqlite:///{path}")
    assert path.read_text() == "these are my notes\n" * 100


def test_a_folder_as_database_is_refused(tmp_path: Path):
    with pytest.raises(DependencyError, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path}")


def test_an_uncreatable_database_folder_is_reported(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(DependencyError, match=r"cannot be opened.*ANON_TUNE_DATABASE_URL"):
        open_database(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")


def test_an_unreachable_server_is_reported_without_the_password(tmp_path: Path):
    pytest.importorskip("psycopg")
    with pytest.raises(DependencyError) as caught:
        open_database(f"postgresql+psycopg://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(caught.value)


def test_a_database_lock_of_another_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("anon_tune.ledger.database._BUSY_SECONDS", 0.05)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    first, second = open_database(url), open_database(url)
    locked = pytest.raises(
        DependencyError, match=r"cannot be written \(database is locked\).*Another process"
    )
    with write(first), locked, write(second):
        pass
    with write(second):
        pass
    first.dispose()
    second.dispose()
