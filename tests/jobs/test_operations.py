"""The commands of docs/operations.md for backup, restore and upgrade, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

import anon_tune.ledger
from anon_tune.ledger import Ledger, open_database
from anon_tune.ledger.database import write
from anon_tune.records import JobState

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
Server = Callable[[str], AbstractContextManager[Path]]


def commands(program: str) -> list[str]:
    """The lines of the page's shell blocks that begin with a program."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith(program)]


def downgrade(url: str) -> None:
    """Bring the schema back by one version, as an older anon_tune has it."""
    config = Config()
    config.set_main_option("script_location", str(Path(anon_tune.ledger.__file__).parent / "migrations"))
    engine = open_database(url)
    with write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "-1")
    engine.dispose()


@pytest.mark.slow
def test_a_running_job_outlives_restore_and_upgrade(postgresql_programs: Server, tmp_path: Path):
    with postgresql_programs("-c listen_addresses=''") as folder:
        programs = Path(next(Path("/usr/lib/postgresql").glob("*/bin")))
        environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PGHOST": str(folder),
            "PGUSER": "postgres",
        }

        def run(line: str, **more: str) -> None:
            done = subprocess.run(
                line.split(), env={**environment, **more}, cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}: {done.stderr}"

        def url(database: str) -> str:
            return f"postgresql+psycopg://postgres@/{database}?host={folder}"

        run("createdb anon_tune")
        ledger = Ledger.open(url("anon_tune"))
        job = ledger.jobs.create("kept", {"a": 1}, {})
        ledger.leases.acquire(job.id, "the old worker", 0.1)
        ledger.close()
        downgrade(url("anon_tune"))
        (dump,) = commands("pg_dump")
        (empty,) = commands("createdb")
        (restore,) = commands("pg_restore")
        for line in (dump, empty, restore):
            run(line)
        assert commands("anon-tune db upgrade")
        restored = url("anon_tune_restored")
        run(
            f"{sys.executable} -m anon_tune db upgrade",
            ANON_TUNE_DATABASE_URL=restored,
            ANON_TUNE_HOME=str(tmp_path / "home"),
        )
        ledger = Ledger.open(restored)
        assert ledger.jobs.get(job.id).state is JobState.RUNNING
        limit = time.monotonic() + 120
        while (lease := ledger.leases.claim("the new worker", 15.0)) is None:
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert lease.job == job.id
        assert ledger.jobs.get(job.id).spec == {"a": 1}
        ledger.close()
