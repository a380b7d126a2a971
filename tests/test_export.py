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


@pytest.mark.parametrize("arm", ["anon", "adamw", "sgd"])
@pytest.mark.parametrize("form", FORMATS)
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


@pytest.mark.parametrize("form", FORMATS)
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


def test_of_a_training_function_only_what_is_known_is_said() -> None:
    function = {"name": "x", "task": "train:train", "arguments": {"width": 3}, "folder": "/x"}
    spec = parse_spec({**function, "budget": {"trials": 1, "epochs": 1}}).model_dump(mode="json")
    found = document(dataclasses.replace(job({**result(), "tested": False}), spec=spec))
    assert found["architecture"]["model"] == {"name": "train:train", "options": {"width": 3}}
    assert found["training"] == {}
    assert found["evidence"]["objective"] == "validation loss (min)"


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
