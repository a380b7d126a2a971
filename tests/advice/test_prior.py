"""What is suggested for a family, and where it says that it comes from."""

from __future__ import annotations

import pytest

from anon_tune.advice.prior import PUBLISHED, suggest
from anon_tune.answer import Gamma
from anon_tune.records import JobRecord, JobState, Phase
from tests.answers import stored
from tests.builders import EPOCH


def finished(
    job: str, family: str, best: float | None, low: float | None = None, high: float | None = None
) -> JobRecord:
    """A job that recommends `best`; its trials say how sure that is if `low` and `high` are given."""
    gamma = Gamma(best=best, low=low, high=high)
    return JobRecord(
        job, f"{job} on {family}", JobState.SUCCEEDED, Phase.VERDICT, {}, EPOCH,
        architecture={"family": family}, result=stored((), gamma=gamma),
    )  # fmt: skip


def test_finished_jobs_of_the_family_come_before_the_published_guidance() -> None:
    jobs = [
        finished("a", "cnn", 0.2, 0.0, 0.4),
        finished("b", "cnn", 0.6, 0.3, 1.0),
        finished("c", "transformer", 1.2, 1.0, 1.4),
        finished("d", "cnn", 0.9),  # chosen among too few to say how sure it is
    ]
    found = suggest("cnn", jobs)
    assert found["source"] == "finished jobs"
    assert found["gamma"] == {"mean": pytest.approx(0.4), "low": 0.0, "high": 1.0}
    assert [(item["job"], item["best"]) for item in found["jobs"]] == [("a", 0.2), ("b", 0.6)]
    assert found["published"] == PUBLISHED["cnn"]["text"]


def test_without_jobs_the_published_guidance_is_given_as_such() -> None:
    found = suggest("transformer", [finished("a", "cnn", 0.2, 0.0, 0.4)])
    assert found["source"] == "published guidance"
    assert found["gamma"]["low"] >= 1.0
    assert found["jobs"] == []


def test_without_either_no_gamma_is_made_up() -> None:
    unfinished = JobRecord(
        "a", "a", JobState.RUNNING, Phase.SEARCH, {}, EPOCH, architecture={"family": "mlp"}
    )
    found = suggest("mlp", [unfinished, finished("b", "mlp", None)])
    assert (found["gamma"], found["source"], found["published"]) == (None, "nothing yet", None)
