"""One whole job, and every way to look at it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient

from anon_tune import load_optimizer
from anon_tune.advice.response import FEWEST_TRIALS
from anon_tune.dashboards.charts import CHARTS
from anon_tune.optim import Anon
from anon_tune.records import JobRecord, Phase, TrialState
from tests.jobs.conftest import Home


@pytest.fixture(scope="module")
def answer(home: Home) -> dict[str, Any]:
    done = home.call("run", home.spec(), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # one JSON value and nothing else


@pytest.fixture(scope="module")
def job(home: Home, answer: dict[str, Any]) -> JobRecord:
    return home.only_job()


@pytest.fixture(scope="module")
def client(home: Home, answer: dict[str, Any]) -> MlflowClient:
    return MlflowClient(f"sqlite:///{home.folder / 'mlflow.db'}")


def test_spends_exactly_the_budget(answer: dict[str, Any], job: JobRecord) -> None:
    assert answer["state"] == "SUCCEEDED"
    assert set(answer["arms"]) == {"anon", "adamw", "sgd"}
    for arm in answer["arms"].values():
        assert arm["budget"] == 12
        assert sum(arm["trials"].values()) == 12
        assert arm["best"]["value"] > 0
    assert all(trial.attempts == 1 for trial in job.trials)


def test_probe_measured_the_model(job: JobRecord) -> None:
    assert job.architecture is not None
    assert job.architecture["family"] == "mlp"
    assert job.probe is not None
    assert job.probe["seconds_per_step"] > 0
    # lr and weight decay follow from the coordinates through the measured scale.
    scale = job.probe["log_mean_sigma"]
    for trial in job.trials:
        if trial.arm == "anon":
            multiplier = torch.tensor(-0.5 * trial.params["gamma"] * scale, dtype=torch.float64).exp().item()
            assert trial.hyperparameters["lr"] * multiplier == pytest.approx(trial.params["step_size"])


def test_verdict_is_on_fresh_seeds(answer: dict[str, Any], job: JobRecord) -> None:
    seeds = {phase: {t.seed for t in job.trials if t.phase is phase} for phase in Phase}
    assert len(seeds[Phase.VERDICT]) == 3
    assert not seeds[Phase.VERDICT] & (seeds[Phase.SEARCH] | seeds[Phase.CONFIRM])
    assert {item["baseline"]: item["seeds"] for item in answer["verdict"]} == {"adamw": 3, "sgd": 3}
    for trial in job.trials:
        tested = "test_loss" in trial.reports[-1].metrics
        assert tested == (trial.phase is Phase.VERDICT), "only the verdict may see the test split"


def test_gamma_has_an_interval_or_says_why_not(answer: dict[str, Any], job: JobRecord) -> None:
    gamma = answer["gamma"]
    complete = sum(
        t.state is TrialState.COMPLETE and t.arm == "anon" and t.phase is Phase.SEARCH for t in job.trials
    )
    assert gamma["trials"] == complete
    if complete >= FEWEST_TRIALS:
        assert gamma["low"] <= gamma["low50"] <= gamma["high50"] <= gamma["high"]
        assert len(answer["result"]["gamma"]["curve"]["gamma"]) == 25
    else:
        assert gamma["low"] is None
        assert "trials of anon completed" in gamma["note"]


def test_reading_commands_agree(home: Home, answer: dict[str, Any], job: JobRecord) -> None:
    assert [item["id"] for item in home.json("jobs")] == [job.id]
    shown = home.json("show", job.id)
    assert {key: shown[key] for key in ("id", "arms", "gamma", "verdict")} == {
        key: answer[key] for key in ("id", "arms", "gamma", "verdict")
    }
    trials = home.json("trials", job.id)
    assert {trial["id"] for trial in trials} == {trial.id for trial in job.trials}
    wanted = {"id", "arm", "phase", "seed", "state", "params", "value", "steps", "attempts", "mlflow_run_id"}
    assert all(wanted <= set(trial) for trial in trials)
    assert home.json("best", job.id)["anon"] == answer["arms"]["anon"]["best"]
    advice = home.json("suggest", "--family", "mlp")
    expected = "finished jobs" if answer["gamma"]["low"] is not None else "shipped searches"
    assert advice["source"] == expected


def test_tables_name_the_answer(home: Home, answer: dict[str, Any]) -> None:
    shown = home.call("show", answer["id"])
    assert shown.returncode == 0
    for text in (
        answer["id"],
        "Anon against",
        "adamw",
        "sgd",
        "fresh seeds",
        "mlflow ui --backend-store-uri",
    ):
        assert text in shown.stdout
    assert answer["id"] in home.call("jobs").stdout
    assert answer["arms"]["sgd"]["best"]["trial"] in home.call("best", answer["id"]).stdout
    assert f"{answer['id']}-adamw-v002" in home.call("trials", answer["id"]).stdout


def test_mlflow_has_one_parent_and_one_child_per_trial(client: MlflowClient, job: JobRecord) -> None:
    (experiment,) = client.search_experiments(filter_string="name = 'anon_tune'")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    assert Counter(run.data.tags["anon_tune.trial_id"] for run in children) == Counter(
        t.id for t in job.trials
    )
    assert parent.info.status == "FINISHED"
    assert parent.info.run_id == job.mlflow_run
    by_trial = {run.data.tags["anon_tune.trial_id"]: run for run in children}
    status = {TrialState.COMPLETE: "FINISHED", TrialState.DIVERGED: "FAILED", TrialState.PRUNED: "KILLED"}
    for trial in job.trials:
        run = by_trial[trial.id]
        assert run.info.status == status[trial.state]
        assert run.info.run_id == trial.mlflow_run
        assert float(run.data.params["lr"]) == pytest.approx(trial.hyperparameters["lr"], rel=1e-5)
        history = client.get_metric_history(run.info.run_id, "val_loss")
        assert [(m.step, m.value) for m in history] == [
            (r.step, r.metrics["val_loss"]) for r in trial.reports
        ]
        assert [m.timestamp for m in history] == [round(r.time.timestamp() * 1000) for r in trial.reports]


def test_mlflow_parent_carries_charts_and_config(client: MlflowClient, job: JobRecord) -> None:
    assert job.mlflow_run is not None
    assert {item.path for item in client.list_artifacts(job.mlflow_run)} == {"best.yaml", "charts.html"}
    text = Path(client.download_artifacts(job.mlflow_run, "charts.html")).read_text(encoding="utf-8")
    for name in ("response", "verdict", "curves", "best"):
        assert CHARTS[name].title in text


def test_syncing_again_changes_nothing(home: Home, client: MlflowClient, job: JobRecord) -> None:
    def everything() -> list[Any]:
        (experiment,) = client.search_experiments(filter_string="name = 'anon_tune'")
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        return sorted((run.info.run_id, run.info.status, sorted(run.data.metrics.items())) for run in runs)

    before = everything()
    done = home.call("mlflow", "sync", job.id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 trials")
    assert everything() == before


def test_export_loads_and_trains(home: Home, job: JobRecord) -> None:
    assert job.result is not None
    chosen = job.result["winners"]["anon"]["hyperparameters"]
    for suffix, first in (("yaml", "version"), ("json", "{")):
        path = home.folder / f"best.{suffix}"
        assert home.call("export", job.id, "-o", str(path)).returncode == 0
        assert path.read_text().startswith(first)
        model = torch.nn.Linear(4, 1)
        optimizer = load_optimizer(path, model.parameters())
        assert isinstance(optimizer, Anon)
        (group,) = optimizer.param_groups
        assert {key: group[key] for key in ("lr", "gamma", "delay", "floor", "weight_decay")} == {
            key: chosen[key] for key in ("lr", "gamma", "delay", "floor", "weight_decay")
        }
    pasted: dict[str, Any] = {}
    exec(home.call("export", job.id, "--format", "python", "-o", "-").stdout, pasted)
    assert pasted["make_optimizer"]([torch.nn.Parameter(torch.zeros(1))]).defaults["gamma"] == chosen["gamma"]
    other = home.call("export", job.id, "--arm", "adamw").stdout
    assert yaml.safe_load(other)["optimizer"] == "adamw"


def test_export_says_how_sure_it_is(home: Home, job: JobRecord) -> None:
    exported = yaml.safe_load((home.folder / "jobs" / job.id / "best.yaml").read_text())
    evidence = exported["evidence"]
    low, high = evidence["interval"]
    assert low < evidence["value"] < high
    assert evidence["seeds"] == 3
    assert {(each["baseline"], each["of"]) for each in evidence["verdict"]} == {
        (arm, of) for arm in ("adamw", "sgd") for of in ("configuration", "optimizer")
    }
    assert exported["provenance"]["job"] == job.id
    assert exported["provenance"]["mlflow_run"] == job.mlflow_run
    assert exported["provenance"]["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_nothing_of_ray_stays(home: Home, job: JobRecord) -> None:
    assert not list((home.folder / "ray").glob(f"{job.id}*"))
    assert {path.name for path in (home.folder / "jobs" / job.id).iterdir()} == {
        "best.yaml",
        "job.log",
        "mlflow.log",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "nosuch"), 3, "There is no job 'nosuch'"),
        (("trials", "nosuch"), 3, "There is no job"),
        (("run", "--resume", "nosuch"), 3, "There is no job"),
        (("export", "nosuch"), 3, "There is no job"),
        (("suggest", "--family", "cn"), 2, "did you mean 'cnn'"),
        (("run",), 2, "Give a job file"),
    ],
)
def test_errors_are_one_message(home: Home, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = home.call(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_finished_job_is_not_resumed(home: Home, job: JobRecord) -> None:
    done = home.call("run", "--resume", job.id)
    assert done.returncode == 4
    assert "SUCCEEDED" in done.stderr
