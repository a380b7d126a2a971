"""Shared fixtures: one thread for torch, no skips in CI, and the databases that the ledger runs on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser

from anon_tune.workers.isolation.process import Keeper
from tests import trials
from tests.browsers import chromium

# Generated inputs are the same in each run. Machines may be busy: to take long is no fault of what is tested.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Receive Ctrl-C and SIGHUP in this and in child processes, also in a shell's background and under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI nothing may be skipped for want of a program; a GPU, what comes with it, and downloads cannot be had."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in ("CUDA", "GPU", "triton", "ANON_TUNE_DATA")):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests run beside other work, and torch's threads would wait for one another most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def keeper() -> Iterator[Keeper]:
    """A keeper that starts processes of user code; it loads torch once."""
    with trials.SHARED:
        yield trials.SHARED


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a file: Playwright's event loop in this thread must end before another's begins."""
    with chromium() as started:
        yield started


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of anon_tune, MLflow or Ray is set."""
    for name in list(os.environ):
        if name.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_")):
            monkeypatch.delenv(name)


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a temporary folder of the test in place of the system's, also in child processes."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture(scope="session")
def postgresql_programs() -> Callable[[str], contextlib.AbstractContextManager[Path]]:
    """Starts a PostgreSQL server with options of its own; the folder of its socket, until the context ends."""
    pytest.importorskip("psycopg")
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        pytest.skip("needs PostgreSQL's server programs (initdb, pg_ctl)")
    programs = Path(found).parent

    @contextlib.contextmanager
    def start(options: str) -> Iterator[Path]:
        # Not under pytest's own folder: the server's user cannot reach into it.
        folder = Path(tempfile.mkdtemp(prefix="anon_tune_pg_"))
        as_user: list[str] = []
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            shutil.chown(folder, "postgres")
            as_user = ["runuser", "-u", "postgres", "--"]

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs / program), "-D", str(folder / "data"), *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

        try:
            run(
                "initdb",
                "--auth-local",
                "trust",
                "--auth-host",
                "scram-sha-256",
                "-U",
                "postgres",
                "--no-sync",
            )
            run(
                "pg_ctl",
                "-w",
                "-l",
                str(folder / "log"),
                "-o",
                f"-k {folder} -c fsync=off {options}",
                "start",
            )
            try:
                yield folder
            finally:
                run("pg_ctl", "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(folder)

    return start


@pytest.fixture(scope="session")
def postgresql_server(
    postgresql_programs: Callable[[str], contextlib.AbstractContextManager[Path]],
) -> Iterator[Path]:
    """The socket folder of a PostgreSQL server of this session's own: no port, no password, no fsync."""
    with postgresql_programs("-c listen_addresses=''") as folder:
        yield folder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes an empty database and returns its URL; of each kind that the ledger runs on."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / uuid.uuid4().hex}.db"
    folder = request.getfixturevalue("postgresql_server")

    def create() -> str:
        import psycopg

        name = f"ledger_{uuid.uuid4().hex}"
        with psycopg.connect(host=str(folder), user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # as good as a database here, and 1,000 files less
        return f"postgresql+psycopg://postgres@/postgres?host={folder}&options=-csearch_path%3D{name}"

    return create


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """The URL of an empty database."""
    return new_database()
