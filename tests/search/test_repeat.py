"""Why another run of a job may find something else."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.records import Trial, TrialState
from anon_tune.search.repeat import reasons_to_differ
from tests import builders


@pytest.mark.parametrize(
    ("keys", "device", "expected"),
    [
        ({}, "cpu", []),
        ({"budget": {"trials": 4, "epochs": 9, "time": "1h"}}, "cpu", ["budget.time"]),
        ({"search": {"pruner": "asha"}}, "cpu", ["search.pruner (asha)"]),
        ({}, "NVIDIA H200", ["GPU"]),
        ({"search": {"pruner": "median"}}, "NVIDIA H200", ["search.pruner (median)", "GPU"]),
    ],
)
def test_what_depends_on_time_or_device_is_named(keys: dict[str, Any], device: str, expected: list[str]):
    found = list(reasons_to_differ(builders.spec(**keys), [], device))
    assert len(found) == len(expected)
    assert all(part in reason for part, reason in zip(expected, found, strict=True))


def failed(reason: str) -> Trial:
    return builders.trial(0, TrialState.FAILED, reason=reason)


def test_a_trial_that_failed_by_itself_fails_again_and_one_that_was_lost_may_not():
    spec = builders.spec()
    assert list(reasons_to_differ(spec, [failed("ValueError: no")], "cpu")) == []
    lost = [failed("the worker process died (3 times)"), failed("ran for more than 60 s (budget.trial_time)")]
    (reason,) = reasons_to_differ(spec, lost, "cpu")
    assert reason.startswith("2 of its trials FAILED")
