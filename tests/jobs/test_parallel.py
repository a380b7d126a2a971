"""Trials run beside one another, in every phase."""

from __future__ import annotations

import os

import pytest

from anon_tune.records import Phase
from tests.jobs.conftest import SPEC, Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs"),
]

# A trial of a second: much shorter ones are over before a second worker is up.
LONGER = SPEC.replace("name: mlp, width: 16", "name: cnn, width: 16").replace("epochs: 2", "epochs: 15")


def test_two_trials_run_at_a_time_in_every_phase(home: Home) -> None:
    """Tune by itself drops all workers but one whenever it waits, and may never start a second."""
    assert home.call("run", home.spec(LONGER), "--set", "budget.trials=3").returncode == 0
    for phase in (Phase.SEARCH, Phase.CONFIRM, Phase.VERDICT):
        trained = [
            (report.time.timestamp() - report.metrics["epoch_seconds"], report.time.timestamp(), trial.id)
            for trial in home.only_job().trials
            if trial.phase is phase
            for report in trial.reports
        ]
        assert any(
            a != b and start < other_end and other_start < end
            for start, end, a in trained
            for other_start, other_end, b in trained
        ), f"one after another in the {phase} phase"
