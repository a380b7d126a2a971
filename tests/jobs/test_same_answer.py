"""The same job finds the same: with one slot or two, beside other work, and after kills."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from anon_tune.records import JobRecord, JobState, Trial
from tests.jobs.conftest import Home, descendants, until
from tests.trials import untimed

pytestmark = pytest.mark.slow

_NICE = 15

SPEC = """
name: digits-mlp
task: image_classification
data: digits
model: {name: mlp, width: 16}
budget: {trials: 12, epochs: 2}
search: {seed: 3}
confirm: {finalists: 2, seeds: 3, verdict_seeds: 2}
arms: [anon, adamw, sgd]
"""


@contextlib.contextmanager
def new_home() -> Iterator[Home]:
    folder = Path(tempfile.mkdtemp(prefix="at"))
    try:
        yield Home(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that compute without end, as politely as Ray's workers do."""
    endless = f"import os; os.nice({_NICE})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", endless]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def found(job: JobRecord) -> tuple[list[Any], Any]:
    """Return a job's trials and result without ids, times and attempts, for comparison with another run."""

    def plain(trial: Trial) -> tuple[Any, ...]:
        values = [(report.step, report.value) for report in trial.reports]
        name, source = (text and text.removeprefix(job.id) for text in (trial.id, trial.source))
        return name, source, trial.seed, trial.state, trial.params, trial.hyperparameters, trial.value, values

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_times(v) for key, v in untimed(value).items()}
        if isinstance(value, list):
            return [without_times(v) for v in value]
        return value.removeprefix(job.id) if isinstance(value, str) else value

    return sorted(map(plain, job.trials), key=str), without_times(dict(job.result or {}))


def run(home: Home) -> JobRecord:
    done = home.call("run", home.spec(SPEC))
    assert done.returncode == 0, done.stderr
    return home.only_job()


def killed_at(home: Home, trials: list[int]) -> JobRecord:
    """Run the job, and kill its driver once it has had so many trials."""
    path = home.spec(SPEC)
    arguments = ["run", path]
    for count in trials:
        process = home.start(*arguments)

        def has_them(count: int) -> bool:
            job = home.newest()
            return job is not None and len(job.trials) >= count

        until(partial(has_them, count), process)
        processes = descendants(process)
        process.kill()
        process.communicate()
        psutil.wait_procs(processes, timeout=300)
        arguments = ["run", "--resume", home.only_job().id]
    done = home.call(*arguments)
    assert done.returncode == 0, done.stderr
    return home.only_job()


@pytest.fixture(scope="module")
def alone() -> tuple[list[Any], Any]:
    """Run the job with as many slots as there are cores, and nothing beside it."""
    with new_home() as home:
        job = run(home)
    assert job.state is JobState.SUCCEEDED
    assert job.result is not None
    assert job.result["may_differ"] == []
    return found(job)


def test_the_answer_is_the_same_with_one_slot_under_load(alone: tuple[list[Any], Any]) -> None:
    cores = os.sched_getaffinity(0)
    with new_home() as home, load(4):
        os.sched_setaffinity(0, {min(cores)})  # of this thread, and of the processes that it starts
        try:
            job = run(home)
        finally:
            os.sched_setaffinity(0, cores)
    assert found(job) == alone


def test_the_answer_is_the_same_after_two_kills(alone: tuple[list[Any], Any]) -> None:
    chance = random.Random(0)
    with new_home() as home:
        job = killed_at(home, sorted(chance.sample(range(4, 45), 2)))
    assert found(job) == alone
