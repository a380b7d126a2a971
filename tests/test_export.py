"""The exported document: what it says, in each form, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anon_tune import load_optimizer
from anon_tune.answer import Spent
from anon_tune.errors import ConflictError, InputError
from anon_tune.export import FORMATS, document, render
from anon_tune.records import JobRecord, JobState, Phase
from anon_tune.spec import load_spec, parse_spec
from tests import builders
from tests.answers import HYPERPARAMETERS, compared, stored, winner
from tests.modules import forgotten, imported


def job(result: dict[str, Any] | None) -> JobRecord:
    spec = builders.spec().model_dump(mode="json")
    return JobRecord("abc", "a job", JobState.RUNNING, Phase.SEARCH, spec, builders.EPOCH, result=result)


def result(
    tests: tuple[float | None, ...] = (1.0, 2.0, 3.0), arms: tuple[str, ...] = ("anon", "adamw", "sgd")
) -> Any:
    return stored(arms, winners={arm: winner(arm, tests) for arm in arms}, verdict=[compared()])


DOCUMENTS = ("yaml", "json", "python")
"""Formats that do not depend on a training loop; tests/test_snippets.py runs the others."""


@pytest.mark.parametrize("arm", ["anon", "adamw", "sgd"])
@pytest.mark.parametrize("form", DOCUMENTS)
def test_every_form_gives_the_same_optimizer(tmp_path: Any, arm: str, form: str) -> None:
    text = render(document(job(result()), arm), form)
    parameters = [torch.nn.Parameter(torch.ones(3))]
    if form == "python":
        names: dict[str, Any] = {}
        exec(text, names)
        optimizer = names["make_optimizer"](parameters)
    else:
        (tmp_path / f"best.{form}").write_text(text)
        optimizer = load_optimizer(tmp_path / f"best.{form}", parameters)
    for name, value in HYPERPARAMETERS[arm].items():
        assert optimizer.defaults[name] == (tuple(value) if isinstance(value, list) else value)


OPTIMIZERS = Path(__file__).parents[1] / "examples" / "bring_your_own" / "optimizers"


@pytest.mark.parametrize("form", DOCUMENTS)
def test_an_arm_of_the_user_is_exported_by_its_factory(tmp_path: Any, form: str) -> None:
    spec = load_spec(OPTIMIZERS / "job.yaml").model_dump(mode="json")
    found = result(arms=("anon",))
    found["winners"]["lion"] = {**found["winners"]["anon"], "hyperparameters": {"lr": 0.001, "beta1": 0.95}}
    text = render(document(dataclasses.replace(job(found), spec=spec), "lion"), form)
    model = torch.nn.Linear(3, 1)
    if form == "python":
        names: dict[str, Any] = {}
        with imported("optimizers", OPTIMIZERS):
            exec(text, names)
        optimizer = names["make_optimizer"](model)
    else:
        (tmp_path / f"best.{form}").write_text(text)
        with forgotten(OPTIMIZERS):
            optimizer = load_optimizer(tmp_path / f"best.{form}", model, OPTIMIZERS)
    assert type(optimizer).__name__ == "Lion"
    (group,) = optimizer.param_groups
    assert (group["lr"], group["beta1"], group["beta2"]) == (0.001, 0.95, 0.99)


def test_how_it_was_trained_is_said() -> None:
    training = {"warmup": 0.1, "clip": 1.0, "accumulate": 2, "augment": ["flip"], "precision": "bf16"}
    spec = builders.spec(training=training).model_dump(mode="json")
    found = document(dataclasses.replace(job(result()), spec=spec))
    assert found["schedule"] == {"name": "cosine", "warmup": 0.1, "epochs": 9}
    assert found["training"] == {
        "batch_size": 64,
        "clip": 1.0,
        "accumulate": 2,
        "label_smoothing": 0.0,
        "augment": ["flip"],
        "precision": "bf16",
        "channels_last": False,
        "compile": False,
    }
    assert "cosine, warm-up 0.1." in render(found, "python")


@pytest.mark.parametrize("of", ["last", "last 3", "best"])
def test_which_reports_counted_is_said(of: str) -> None:
    found = job(result())
    found = dataclasses.replace(
        found, spec={**found.spec, "objective": {**found.spec["objective"], "of": of}}
    )
    assert document(found)["evidence"]["of"] == of
    assert f"test loss (min), of: {of}: " in render(document(found), "python")


def of_function(tested: bool = True, probe: dict[str, Any] | None = None) -> JobRecord:
    function = {"name": "x", "task": "train:train", "arguments": {"width": 3}, "folder": "/x"}
    training = {"schedule": "cosine", "warmup": 0.1}
    spec = parse_spec({**function, "budget": {"trials": 1, "epochs": 7}, "training": training})
    found = job({**result(), "tested": tested})
    return dataclasses.replace(found, spec=spec.model_dump(mode="json"), probe=probe)


def test_of_a_training_function_only_what_is_known_is_said() -> None:
    found = document(of_function(probe={"uses_schedule": False}))
    assert found["architecture"]["model"] == {"name": "train:train", "options": {"width": 3}}
    assert (found["schedule"], found["training"]) == ("the script's own", "the script's own")
    assert found["evidence"]["epochs"] == 7
    text = render(found, "python")
    assert "Schedule of the learning rate: the script's own." in text
    assert "Batch size, clipping and accumulation: the script's own." in text
    assert "cosine" not in text


def test_a_schedule_that_a_training_function_took_from_us_is_said() -> None:
    found = document(of_function(probe={"uses_schedule": True}))
    assert found["schedule"] == {"name": "cosine", "warmup": 0.1, "epochs": 7}
    assert found["training"] == "the script's own"
    assert "Schedule of the learning rate: cosine, warm-up 0.1." in render(found, "python")


@pytest.mark.parametrize("probe", [None, {"log_mean_sigma": -9.0}])
def test_the_schedule_of_a_job_of_an_earlier_version_is_not_guessed(probe: dict[str, Any] | None) -> None:
    assert str(document(of_function(probe=probe))["schedule"]).startswith("not recorded")


@pytest.mark.parametrize("form", FORMATS)
def test_a_validation_metric_is_not_called_a_test(form: str) -> None:
    untested = document(of_function(tested=False))
    assert untested["evidence"]["objective"] == "validation loss (min)"
    text = " ".join(render(untested, form).split())
    assert "validation loss (min)" in text
    assert "test loss" not in text
    assert "test loss (min)" in " ".join(render(document(of_function()), form).split())


@pytest.mark.parametrize("form", FORMATS)
def test_a_job_in_steps_is_exported_in_steps(form: str) -> None:
    spec = parse_spec(
        {"name": "x", "task": "train:train", "folder": "/x", "budget": {"trials": 4, "steps": 2000}}
    )
    probe = {"uses_schedule": True}
    record = dataclasses.replace(job(result()), spec=spec.model_dump(mode="json"), probe=probe)
    found = document(record)
    assert found["schedule"] == {"name": "cosine", "warmup": 0.0, "steps": 2000}
    assert (found["evidence"]["steps"], found["evidence"].get("epochs")) == (2000, None)
    assert "for 2,000 steps; longer training was not tested." in " ".join(render(found, form).split())


def test_without_an_effect_of_the_seed_there_is_no_interval() -> None:
    evidence = document(job(result((0.7215, 0.7215, 0.7215))))["evidence"]
    assert evidence["value"] == pytest.approx(0.7215)
    assert (evidence["interval"], evidence["seeds"]) == (None, 3)


def test_the_cost_of_each_arm_is_said() -> None:
    spent = [
        Spent(arm=arm, phase=phase, trials=4, epochs=8, steps=80, seconds=seconds)
        for arm, seconds in (("anon", 188.5), ("sgd", 59.5))
        for phase in ("search", "verdict")
    ]
    found = document(job({**result(), "spent": [each.model_dump(mode="json") for each in spent]}))
    assert found["evidence"]["spent"]["anon"] == {
        "epochs": 16,
        "steps": 160,
        "samples": None,
        "seconds": 377.0,
    }
    (said,) = found["in_words"]["cost"]
    assert said == "The arms did not train for the same time: anon 377 s, 3.2 times as long as sgd (119 s)."
    assert said in " ".join(render(found, "python").split())


def test_evidence_is_an_interval_over_the_fresh_seeds() -> None:
    evidence = document(job(result()))["evidence"]
    assert evidence["value"] == 2.0
    # Student's t with 2 degrees of freedom at 97.5% is 4.3027; the standard error is 1 / sqrt(3).
    assert evidence["interval"] == pytest.approx([2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], abs=1e-4)
    assert evidence["seeds"] == 3
    (verdict,) = evidence["verdict"]
    assert (verdict["baseline"], verdict["of"], verdict["outcome"]) == ("sgd", "configuration", "undecided")
    assert (evidence["gamma"]["low"], evidence["gamma"]["high"]) == (0.2, 0.8)
    assert "curve" not in evidence["gamma"]
    lonely = document(job(result((1.0, None, None))))["evidence"]
    assert (lonely["interval"], lonely["seeds"], lonely["seeds_tried"]) == (None, 1, 3)


def test_the_answer_is_told_in_sentences() -> None:
    exported = document(job(result()))
    said = exported["in_words"]
    assert "recommended gamma 0.50" in " ".join(said["gamma"])
    assert any("no winner" in sentence.lower() for sentence in said["verdict"])
    assert said["words"]["gamma"].startswith("adaptivity")
    assert any(step.startswith("Train for longer") for step in said["next"])
    text = " ".join(render(exported, "python").split())
    for sentence in (*said["gamma"], *said["verdict"], said["holds_for"]):
        assert sentence in text


def test_yaml_and_json_hold_the_same() -> None:
    exported = document(job(result()))
    assert yaml.safe_load(render(exported, "yaml")) == json.loads(render(exported, "json")) == exported


def test_what_cannot_be_exported_is_refused() -> None:
    with pytest.raises(ConflictError, match="anon-tune best abc"):
        document(job(None))
    with pytest.raises(ConflictError, match="No configuration of anon"):
        document(job(result(arms=("sgd",))))
    with pytest.raises(InputError, match="no arm 'lion'"):
        document(job(result()), "lion")
    with pytest.raises(InputError, match="toml"):
        render(document(job(result())), "toml")


def test_a_file_of_the_first_layout_still_loads() -> None:
    first = {"version": 1, "optimizer": "anon", "hyperparameters": HYPERPARAMETERS["anon"], "evidence": {}}
    assert load_optimizer(first, [torch.nn.Parameter(torch.ones(3))]).defaults["gamma"] == 0.5
    with pytest.raises(InputError, match="version 3 and this anon_tune reads up to 2"):
        load_optimizer({**first, "version": 3}, [torch.nn.Parameter(torch.ones(3))])
