"""A job that is only measured, and run afterwards."""

from __future__ import annotations

import pytest

from anon_tune.records import JobState, Phase, TrialState
from tests.jobs.conftest import Home

pytestmark = pytest.mark.slow


def test_an_estimate_stops_after_the_probe_and_the_job_can_be_run(home: Home) -> None:
    smaller = ("--set", "budget.trials=4", "--set", "arms=[anon]", "--set", "search.sampler=random")
    done = home.call("run", home.spec(), *smaller, "--estimate")
    assert done.returncode == 0, done.stderr
    job = home.only_job()
    assert (job.state, job.phase, job.trials) == (JobState.PAUSED, Phase.PROBE, ())
    assert job.probe is not None
    assert job.reason is not None
    said = "estimate: at most 4 search, 4 confirm and 3 verdict trials, 11 in all, of 2 epochs each; about "
    assert job.reason.startswith(said)
    assert said in " ".join(done.stdout.split())
    assert f"Continue with: anon-tune run --resume {job.id}" in done.stdout
    assert not (home.folder / "mlflow.db").exists()
    assert not list((home.folder / "ray").glob("*"))

    again = home.call("run", "--resume", job.id, "--estimate")
    assert again.returncode == 0, again.stderr
    assert home.only_job().probe == job.probe
    assert home.call("run", "--resume", job.id).returncode == 0
    ended = home.only_job()
    assert (ended.state, ended.probe, len(ended.trials)) == (JobState.SUCCEEDED, job.probe, 11)
    assert all(trial.state is TrialState.COMPLETE for trial in ended.trials)
