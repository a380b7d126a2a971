"""Whole jobs, run as a user runs them: the command line in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from anon_tune.ledger import Ledger
from anon_tune.records import JobRecord

SPEC = """
name: digits-mlp
task: image_classification
data: digits
model: {name: mlp, width: 16}
space: default
budget: {trials: 12, epochs: 2}
search: {sampler: gp, pruner: none, seed: 3}
confirm: {finalists: 2, seeds: 2, verdict_seeds: 3}
"""

_PATIENCE = 300.0  # a machine may be busy with other work


@dataclass(frozen=True)
class Home:
    """A home of its own for jobs, and the command line on it."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANON_TUNE_", "MLFLOW_", "RAY_"))}
        return {**kept, "ANON_TUNE_HOME": str(self.folder)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "anon_tune", *arguments]

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {**self.environment, **environment}
        return subprocess.run(self.command(*arguments), env=variables, capture_output=True, text=True)

    def json(self, *arguments: str) -> Any:
        done = self.call(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in the background, in a process group of its own as a terminal does."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def spec(self, text: str = SPEC) -> str:
        path = self.folder / "job.yaml"
        path.write_text(text)
        return str(path)

    @property
    def ledger(self) -> Ledger:
        return Ledger.open(f"sqlite:///{self.folder / 'ledger.db'}")

    def newest(self) -> JobRecord | None:
        """The job that was made last, with its trials; None while there is none."""
        if not (self.folder / "ledger.db").exists():
            return None
        ledger = self.ledger
        jobs = ledger.overviews.jobs()
        return ledger.jobs.get(jobs[0].id, trials=True) if jobs else None

    def only_job(self) -> JobRecord:
        ledger = self.ledger
        (job,) = ledger.overviews.jobs()
        return ledger.jobs.get(job.id, trials=True)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    # Short: Ray keeps sockets below it, whose paths are limited.
    folder = Path(tempfile.mkdtemp(prefix="at"))
    yield Home(folder)
    shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a condition on the ledger; fail when the process ends before."""
    limit = time.monotonic() + _PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit, "the condition did not come true"
        time.sleep(0.1)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)
