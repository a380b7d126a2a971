"""The estimate of a job before its first trial."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.estimate import Measured, about_estimate, about_time
from tests import builders

SMALL: dict[str, Any] = {"budget": {"trials": 20, "epochs": 12}, "arms": ["anon", "sgd"]}


@pytest.mark.parametrize(
    ("keys", "epoch", "at_once", "said"),
    [
        (
            SMALL,
            0.5,
            2,
            "estimate: at most 40 search, 18 confirm and 20 verdict trials, 78 in all, of 12 epochs each; about 3.9 "
            "minutes of training with 2 trials at once (0.5 s for an epoch; evaluation and the start of trials come "
            "on top)",
        ),
        (SMALL, None, 1, "the time is unknown, since no report came while the model was measured"),
        (
            {**SMALL, "budget": {"trials": 20, "epochs": 1}},
            0.01,
            3,
            "of 1 epoch each; about 1 s of training with 3 trials at",
        ),
        (
            {**SMALL, "budget": {**SMALL["budget"], "time": "90m"}},
            60.0,
            1,
            "with 1 trial at once, or less: the search ends after 90 minutes (budget.time) (60 s for an epoch",
        ),
        (SMALL, 600.0, 1, "about 6.5 days of training with"),
    ],
)
def test_an_estimate_has_the_trials_and_the_time(
    keys: dict[str, Any], epoch: float | None, at_once: int, said: str
):
    assert said in about_estimate(builders.spec(**keys), epoch, at_once)


def test_the_time_is_that_of_a_job_which_is_alike():
    spec = builders.spec(**SMALL)
    probe = {"seconds_per_step": 0.05, "steps_per_epoch": 10}
    training, whole = about_time(spec, Measured("93gk79", probe, 120.0, 468))
    assert training.startswith(
        "About 7.8 minutes of training with one trial at a time: 0.5 s for an epoch, as job 93gk79"
    )
    assert whole == "Job 93gk79 took 2 minutes for 468 epochs in all. At that rate this job takes 4 minutes."
    assert len(list(about_time(spec, Measured("93gk79", probe, 3.0, 0)))) == 1


@pytest.mark.parametrize("measured", [None, Measured("93gk79", {"seconds_per_step": None}, 9.0, 9)])
def test_without_a_measurement_the_time_is_unknown(measured: Measured | None):
    spec = builders.spec(**{**SMALL, "budget": {**SMALL["budget"], "time": "90m"}})
    unknown, limit = about_time(spec, measured)
    assert unknown.startswith("The time is unknown until the first trials")
    assert limit == "The search ends after 90 minutes of work at the latest (budget.time)."
