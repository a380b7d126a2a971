"""The description of a job's run in MLflow."""

from __future__ import annotations

import dataclasses
from typing import Any

from anon_tune.answer import Outcome, Spent
from anon_tune.dashboards.markdown import description
from anon_tune.records import ArmRecord, JobRecord, JobState, Phase, TrialState
from anon_tune.sentences import EXPLAINED, about_gamma, about_verdicts
from anon_tune.spec import parse_spec
from tests import builders
from tests.answers import answer, compared


def job(result: dict[str, Any] | None = None, **keys: Any) -> JobRecord:
    spec = builders.spec().model_dump(mode="json")
    usual = {"name": "mine", "state": JobState.SUCCEEDED, "spec": spec}
    return JobRecord(
        id="abc", phase=Phase.VERDICT, created=builders.EPOCH, result=result, **{**usual, **keys}
    )


def test_the_description_has_findings_uncertainty_next_steps_and_terms() -> None:
    found = answer(verdict=[compared(outcome=Outcome.BETTER, low=-0.05, high=-0.01)])
    text = description(job(found.model_dump(mode="json")))
    said = [*about_gamma(found), *about_verdicts(found, builders.spec()), *EXPLAINED.values()]
    for sentence in said:
        assert sentence in text
    assert "| anon | gamma 0.5, lr 0.01, betas (0.9, 0.999, 0.5), delay 2.5, floor 0.03 | 2 |" in text
    assert "anon-tune export abc" in text
    assert len(text) < 8000  # MLflow's limit of a tag


def test_the_description_has_the_cost_of_each_arm_and_says_which_data_it_is_about() -> None:
    spent = [
        Spent(arm=arm, phase="search", trials=4, epochs=6, steps=1200, samples=None, seconds=seconds)
        for arm, seconds in (("anon", 377.0), ("sgd", 119.0))
    ]
    text = description(job(answer(spent=spent, tested=False).model_dump(mode="json")))
    assert "| cost of arm | epochs | steps | samples | seconds |" in text
    assert "| anon | 6 | 1,200 | - | 377 |" in text
    assert "anon 377 s, 3.2 times as long as sgd (119 s)." in text
    assert "No test_loss was reported" in text
    assert "test loss" not in text


def test_a_job_in_steps_is_described_in_steps() -> None:
    spent = [Spent(arm="anon", phase="search", trials=4, steps=8000, seconds=30.0)]
    spec = parse_spec(
        {"name": "x", "task": "train:train", "folder": "/x", "budget": {"trials": 4, "steps": 2000}}
    )
    text = description(job(answer(spent=spent).model_dump(mode="json"), spec=spec.model_dump(mode="json")))
    assert "| cost of arm | steps | samples | seconds |\n|---|---|---|---|\n| anon | 8,000 | - | 30 |" in text
    assert "All of this holds for 2,000 steps; longer training was not tested." in text
    assert "Train for longer than 2,000 steps? " in text
    assert "run a job with the steps that you will train for." in text
    assert "epoch" not in text


def test_a_job_without_an_answer_shows_its_progress() -> None:
    text = description(job(state=JobState.PAUSED, reason="three trials failed: a|b_c"))
    assert text.startswith("**mine** (abc): PAUSED\n\nthree trials failed: a\\|b\\_c\n")
    assert "anon-tune show abc" in text


def test_a_name_is_escaped_for_markdown() -> None:
    odd = dataclasses.replace(job(), name="<b>*a*\n# b")
    assert description(odd).startswith("**\\<b\\>\\*a\\* \\# b** (abc)")


def test_a_running_job_is_described_by_its_progress_and_links_to_its_page() -> None:
    best = builders.trial(value=0.2, hyperparameters={"lr": 0.01, "gamma": 0.5})
    arms = {
        "anon": ArmRecord({TrialState.COMPLETE: 2, TrialState.RUNNING: 1}, {}, best, 9, 1.0),
        "sgd": ArmRecord({}, {}, None, 0, 0.0),
    }
    running = job(state=JobState.RUNNING)
    text = description(running, arms, "http://127.0.0.1:8000/jobs/abc")
    assert "[Open the job's page](http://127.0.0.1:8000/jobs/abc)" in text
    assert "| anon | 2 of 4 | 0.2 | gamma 0.5, lr 0.01 |" in text
    assert "| sgd | 0 of 4 | - | - |" in text
    assert "search trials" not in description(job(answer().model_dump(mode="json")), arms)
    assert "http" not in description(running, arms)
