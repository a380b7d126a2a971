"""Arms by name, and exported files back into optimizers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from anon_tune.errors import DependencyError, HyperparameterError, InputError, NotFoundError
from anon_tune.optim import Anon, load_optimizer, make_optimizer
from tests.modules import forgotten

HYPERPARAMETERS = {
    "lr": 3e-3,
    "betas": [0.9, 0.99, 0.7],
    "gamma": 1.15,
    "delay": "every:10",
    "eps": 1e-12,
    "floor": 0.02,
    "weight_decay": 0.1,
}
DOCUMENT = {
    "version": 1,
    "optimizer": "anon",
    "hyperparameters": HYPERPARAMETERS,
    "schedule": {"kind": "cosine"},
    "architecture": {"family": "transformer"},
    "evidence": {"value": 0.2},
    "provenance": {"job": "j1"},
}


def params() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("name", "given", "kind"),
    [
        ("anon", HYPERPARAMETERS, Anon),
        ("adamw", {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-9, "weight_decay": 0.01}, torch.optim.AdamW),
        ("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}, torch.optim.SGD),
    ],
)
def test_arms(name, given, kind):
    optimizer = make_optimizer(name, params(), given)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert {key: list(group[key]) if key == "betas" else group[key] for key in given} == given


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("adam", {}, "adamw, anon, sgd"),
        ("anon", {"gama": 1.0}, "did you mean 'gamma'"),
        ("sgd", {"gamma": 1.0}, "momentum"),
        ("sgd", {"lr": -1.0}, "learning rate"),
        ("adamw", {"betas": [0.9, 0.99, 0.5]}, "two betas"),
        ("adamw", {"betas": 0.9}, "two betas"),
        ("adamw", {"lr": "1e-3"}, "cannot be made"),
        ("anon", {"betas": 0.9}, "three numbers"),
        ("anon", {"lr": "1e-3"}, "must be a number"),
        ("anon", {"betas": [0.9, 0.99]}, "three numbers"),
    ],
)
def test_invalid_arguments_of_make_optimizer_are_named(name, given, words):
    with pytest.raises(InputError, match=words):
        make_optimizer(name, params(), given)


def test_a_document_becomes_an_optimizer(tmp_path):
    (tmp_path / "best.yaml").write_text(yaml.safe_dump(DOCUMENT))
    (tmp_path / "best.json").write_text(json.dumps(DOCUMENT))
    groups = [
        load_optimizer(source, params()).param_groups[0]
        for source in (DOCUMENT, tmp_path / "best.yaml", str(tmp_path / "best.json"))
    ]
    for group in groups:
        assert group["gamma"] == 1.15
        assert group["betas"] == (0.9, 0.99, 0.7)
        assert group["delay"] == "every:10"


def test_groups_of_a_loaded_optimizer_may_differ():
    a, b = params() + params()
    optimizer = load_optimizer(DOCUMENT, [{"params": [a]}, {"params": [b], "gamma": 0.0}])
    assert [group["gamma"] for group in optimizer.param_groups] == [1.15, 0.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "upgrade anon_tune"),
        ({"optimizer": "lion"}, "unknown optimizer"),
        ({"hyperparameters": None}, "mapping"),
        ({"hyperparameters": {"gamma": 1.0, "momentum": 0.9}}, "no hyperparameter 'momentum'"),
    ],
)
def test_documents_of_another_version_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        load_optimizer({**DOCUMENT, **change}, params())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("best.yaml", "a: [", "not YAML"),
        ("best.json", "{", "not JSON"),
        ("best.json", "[1]", "does not hold a mapping"),
        ("best.txt", "", "ends in"),
        ("best.yaml", "version: 1", "needs optimizer, hyperparameters"),
    ],
)
def test_unreadable_exported_files_are_refused(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        load_optimizer(tmp_path / name, params())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFoundError, match=r"best\.yaml"):
        load_optimizer(tmp_path / "best.yaml", params())


def test_a_yaml_file_without_pyyaml_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "best.yaml").write_text("version: 1")
    monkeypatch.setitem(sys.modules, "yaml", None)  # as if it were not installed
    with pytest.raises(DependencyError, match="pip install pyyaml"):
        load_optimizer(tmp_path / "best.yaml", params())


def test_hyperparameter_errors_are_input_errors():
    with pytest.raises(HyperparameterError):
        load_optimizer({**DOCUMENT, "hyperparameters": {"gamma": float("nan")}}, params())
    with pytest.raises(HyperparameterError, match="three numbers"):
        load_optimizer({**DOCUMENT, "hyperparameters": {"betas": 0.9}}, params())


FACTORIES = """
import torch

LIMIT = 3


def make(model, lr, steps=1):
    if lr > LIMIT:
        raise RuntimeError("too large")
    return torch.optim.SGD([{"params": [p], "lr": lr * steps} for p in model.parameters()])


def nothing(model):
    return model
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "of_the_user.py").write_text(FACTORIES)
    with forgotten(tmp_path):
        yield tmp_path


def test_a_model_will_do_in_place_of_its_parameters():
    model = torch.nn.Linear(2, 1)
    for name in ("anon", "adamw", "sgd"):
        made = make_optimizer(name, model, {"lr": 0.1})
        assert [id(p) for p in made.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_a_factory_of_the_user_is_given_the_model(folder: Path):
    document = {**DOCUMENT, "optimizer": "of_the_user:make", "hyperparameters": {"lr": 0.1, "steps": 2}}
    made = load_optimizer(document, torch.nn.Linear(2, 1), folder)
    assert [group["lr"] for group in made.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize(
    ("name", "target", "given", "words"),
    [
        ("of_the_user:make", params(), {"lr": 0.1}, "pass it the model, not parameters"),
        ("of_the_user:make", torch.nn.Linear(2, 1), {"lr": 0.1, "momentum": 1}, "unexpected keyword argument"),
        ("of_the_user:make", torch.nn.Linear(2, 1), {}, "missing a required argument: 'lr'"),
        ("of_the_user:nothing", torch.nn.Linear(2, 1), {}, "returned a Linear, not a torch.optim.Optimizer"),
        ("of_the_user:mke", torch.nn.Linear(2, 1), {}, "unknown function 'mke'; did you mean 'make'"),
        ("of_somebody:make", torch.nn.Linear(2, 1), {}, "There is no module 'of_somebody'"),
        ("of_the_user:LIMIT", torch.nn.Linear(2, 1), {}, "LIMIT is a int, not a function"),
    ],
)  # fmt: skip
def test_a_factory_that_cannot_be_used_says_why(folder: Path, name: str, target, given, words: str):
    document = {**DOCUMENT, "optimizer": name, "hyperparameters": given}
    with pytest.raises(InputError, match=words):
        load_optimizer(document, target, folder)


def test_errors_of_a_factory_pass_through(folder: Path):
    with pytest.raises(RuntimeError, match="too large"):
        make_optimizer("of_the_user:make", torch.nn.Linear(2, 1), {"lr": 4.0}, folder)
