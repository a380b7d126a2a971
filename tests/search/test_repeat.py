"""Why another run of a job may find something else."""

from __future__ import annotations

from typing import Any

import pytest

from anon_tune.records import WORKER_DIED, Trial, TrialState
from anon_tune.search.repeat import reasons_to_differ
from anon_tune.workers.trial.watchdog import overdue
from tests import builders


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, []),
        ({"budget": {"trials": 4, "epochs": 9, "time": "1h"}}, ["budget.time"]),
        ({"search": {"pruner": "asha"}}, ["search.pruner (asha)"]),
        ({"resources": {"gpu": 0.5}}, ["GPU"]),
        ({"search": {"pruner": "median"}, "resources": {"gpu": 1}}, ["search.pruner (median)", "GPU"]),
    ],
)
def test_reasons_to_differ_name_time_and_device(keys: dict[str, Any], expected: list[str]):
    found = list(reasons_to_differ(builders.spec(**keys), []))
    assert len(found) == len(expected)
    assert all(part in reason for part, reason in zip(expected, found, strict=True))


def failed(reason: str) -> Trial:
    return builders.trial(0, TrialState.FAILED, reason=reason)


def test_a_trial_that_failed_by_itself_fails_again_and_one_that_was_lost_may_not():
    spec = builders.spec()
    assert list(reasons_to_differ(spec, [failed("ValueError: no")])) == []
    lost = [failed(f"{WORKER_DIED} (3 times)"), failed(str(overdue(61.0, 60.0, [])))]
    (reason,) = reasons_to_differ(spec, lost)
    assert reason.startswith("2 of its trials died or ran too long")
