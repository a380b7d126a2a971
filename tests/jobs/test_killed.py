"""The benchmark of faults in short: whole jobs of a worker, whose processes are killed, lose nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest


def lose_nothing(*arguments: str) -> None:
    """The benchmark ends with 1 where anything was lost or done twice."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.short
def test_a_driver_killed_before_a_commit_and_a_worker_after_a_checkpoint_lose_nothing() -> None:
    lose_nothing("--quick")


@pytest.mark.slow
def test_a_kill_of_each_kind_loses_nothing() -> None:
    """`python -m benchmarks.faults` has more than fifty, and takes a quarter of an hour."""
    lose_nothing("--short")
