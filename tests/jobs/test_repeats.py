"""A whole job that searches each arm twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from mlflow import MlflowClient

from anon_tune.records import JobRecord, Phase
from tests.jobs.conftest import Home

pytestmark = pytest.mark.slow

SPEC = """
name: digits-mlp
task: image_classification
data: digits
model: {name: mlp, width: 16}
budget: {trials: 5, epochs: 2}
search: {seed: 3, repeats: 2}
confirm: {finalists: 2, seeds: 2, verdict_seeds: 3}
arms: [anon, sgd]
"""


@pytest.fixture(scope="module")
def printed(home: Home) -> str:
    done = home.call("run", home.spec(SPEC))
    assert done.returncode == 0, done.stderr
    assert "search.repeats searches each arm 2 times, with 5 trials each." in done.stderr
    assert "Planned at most: 20 search, 16 confirm and 18 verdict trials, 54 in all." in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def job(home: Home, printed: str) -> JobRecord:
    return home.only_job()


@pytest.fixture(scope="module")
def answer(home: Home, job: JobRecord) -> dict[str, Any]:
    return home.json("show", job.id)["result"]


def test_each_search_has_the_whole_budget(job: JobRecord):
    search = Counter((t.arm, t.repeat) for t in job.trials if t.phase is Phase.SEARCH)
    assert search == {(arm, repeat): 5 for arm in ("anon", "sgd") for repeat in range(2)}
    assert {t.id for t in job.trials if t.repeat} == {t.id for t in job.trials if t.id.endswith("r1")}


def test_the_answer_has_all_searches_and_a_measured_verdict(answer: dict[str, Any], printed: str):
    found = answer["searches"]
    assert [(each["arm"], each["repeat"]) for each in found] == [
        ("anon", 0), ("sgd", 0), ("anon", 1), ("sgd", 1)
    ]  # fmt: skip
    assert all(each["confirm"] > 0 and each["test"] > 0 for each in found)
    assert [each["gamma"] is None for each in found] == [False, True, False, True]
    won = {each["trial"]: each["confirm"] for each in found if each["arm"] == "anon"}
    assert answer["winners"]["anon"]["trial"] in won
    (optimizer,) = [each for each in answer["verdict"] if each["of"] == "optimizer"]
    assert (optimizer["searches"], optimizer["seeds"]) == (2, 6)
    assert optimizer["low"] is not None
    assert "measured over 2 searches of each" in printed
    assert "2 searches of anon chose gamma" in printed


def test_trials_say_which_search_they_belong_to(home: Home, job: JobRecord):
    listed = {each["id"]: each["repeat"] for each in home.json("trials", job.id)}
    assert listed == {t.id: t.repeat for t in job.trials}
    client = MlflowClient(f"sqlite:///{home.folder / 'mlflow.db'}")
    for trial in job.trials:
        assert trial.mlflow_run is not None
        assert client.get_run(trial.mlflow_run).data.tags["anon_tune.repeat"] == str(trial.repeat)


def test_an_extension_gives_each_search_more(home: Home, job: JobRecord):
    assert home.call("extend", job.id, "--trials", "6").returncode == 0
    assert home.call("run", "--resume", job.id).returncode == 0
    after = home.only_job().trials
    assert [(t.id, t.seed, t.value, t.attempts) for t in after[: len(job.trials)]] == [
        (t.id, t.seed, t.value, t.attempts) for t in job.trials
    ]
    search = Counter((t.arm, t.repeat) for t in after if t.phase is Phase.SEARCH)
    assert search == {(arm, repeat): 6 for arm in ("anon", "sgd") for repeat in range(2)}
