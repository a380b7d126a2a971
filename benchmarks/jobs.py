"""Real jobs for benchmarks: the command line in a process of its own, and what its ledger says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from anon_tune.ledger import Ledger
from anon_tune.records import JobRecord

_POLL_SECONDS = 0.2
_OWN = ("ANON_TUNE_", "MLFLOW_", "RAY_")
_PATIENCE_SECONDS = 600.0


def users_environment() -> dict[str, str]:
    """Return the environment as users have it: with no settings of ours, and with modules compiled once."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OWN) and name != "PYTHONDONTWRITEBYTECODE"
    }


class RunningJob:
    """`anon-tune run SPEC` in a home of its own.

    Args:
        folder: The home; short, since Ray keeps sockets below it.
        spec: The job file's text.
        environment: What to set besides the home.
    """

    def __init__(self, folder: Path, spec: str, **environment: str) -> None:
        path = folder / "job.yaml"
        path.write_text(spec, encoding="utf-8")
        self.environment = {**users_environment(), "ANON_TUNE_HOME": str(folder), **environment}
        self.log = folder / "run.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "anon_tune", "run", str(path)],
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}")

    def job(self, *, trials: bool = True) -> JobRecord:
        """Return the job as the ledger has it."""
        (found,) = self.ledger.overviews.jobs()
        return self.ledger.jobs.get(found.id, trials=trials)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition on the ledger."""
        limit = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            if self.process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"it did not come to that: {self.log.read_text()}")
            time.sleep(_POLL_SECONDS)

    def wait(self) -> None:
        """Wait for the command's end."""
        if self.process.wait():
            raise RuntimeError(self.log.read_text())

    def sync(self) -> subprocess.CompletedProcess[str]:
        """`anon-tune mlflow sync JOB`."""
        command = [sys.executable, "-m", "anon_tune", "mlflow", "sync", self.job(trials=False).id]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def close(self) -> None:
        """Stop the command if it runs still, and let go of the ledger."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.ledger.close()


def two_cores() -> None:
    """Keep this process, and those that it starts, on two cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
