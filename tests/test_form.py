"""The job file's schema as a form, and texts to start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anon_tune import catalogue
from anon_tune.documents import load_yaml
from anon_tune.search_spaces import Space, load_space
from anon_tune.spec import parse_spec
from anon_tune.spec.form import FormField, field_values, form_sections, with_field
from anon_tune.spec.starting import STARTING_POINTS, StartingPoint, job_text, spaces_text, starting_text
from tests.sources import ROOT

TEXT = starting_text()


def fields(document: dict[str, Any]) -> dict[str, FormField]:
    return {field.path: field for section in form_sections(document) for field in section.fields}


def test_fields_have_the_kinds_and_limits_of_the_schema():
    found = fields(load_yaml(TEXT))
    trials = found["budget.trials"]
    assert (trials.kind, trials.required, trials.low, trials.high, trials.whole) == (
        "number",
        True,
        1,
        10_000,
        True,
    )
    assert found["training.schedule"].choices == ("constant", "cosine", "step", "wsd")
    assert found["training.schedule"].default == "cosine"
    assert found["training.augment"].kind == "several"
    assert found["confirm.race"].choices == ("true", "false")
    assert found["budget.time"].kind == "text"
    assert found["model"].choices == catalogue.TASKS["image_classification"].models
    assert found["model.width"].default == "16"
    assert not {"folder", "command", "arguments", "spaces", "search.try_first"} & found.keys()
    assert all(field.help for field in found.values())


def test_own_training_has_neither_data_nor_a_model():
    found = fields({"task": "train:run", "budget": {"steps": 3}})
    assert "train:run" in found["task"].choices
    assert not {"data", "model"} & found.keys()
    assert "budget.steps" in found


@pytest.mark.parametrize(
    "document", [{}, {"task": 3, "model": [1], "data": {}, "arms": 5, "budget": None, "search": "x"}]
)
def test_a_form_is_made_of_any_document(document: dict[str, Any]):
    assert field_values(document, form_sections(document)).keys() == fields(document).keys()


@pytest.mark.parametrize(
    ("path", "values", "found"),
    [
        ("search.seed", [""], {}),
        ("arms", ["anon", "sgd"], {"arms": ["anon", "sgd"]}),
        (
            "training.augment",
            ["flip"],
            {"training": {"batch_size": 64, "schedule": "cosine", "augment": ["flip"]}},
        ),
        ("resources.gpu", ["0.5"], {"resources": {"gpu": 0.5}}),
        (
            "confirm.race",
            ["false"],
            {"confirm": {"finalists": 3, "seeds": 3, "verdict_seeds": 10, "race": False}},
        ),
        ("budget.trials", ["many"], {"budget": {"trials": "many", "epochs": 12}}),
        ("model", ["vit_tiny"], {"model": "vit_tiny", "space": "transformer"}),
        ("objective.metric", ["accuracy"], {"objective": {"metric": "accuracy", "mode": "max"}}),
        ("model.depth", ["3"], {}),
        ("name", [""], {"name": ""}),
    ],
)
def test_a_field_changes_its_key_and_what_follows(path: str, values: list[str], found: dict[str, Any]):
    before = load_yaml(TEXT)
    if path == "search.seed":
        del before["search"]
    assert load_yaml(with_field(TEXT, path, values)) == {**before, **found}


def test_a_space_that_was_chosen_stays():
    text = TEXT.replace("space: cnn", "space: delays")
    assert load_yaml(with_field(text, "model", ["mlp"]))["space"] == "delays"


@pytest.mark.parametrize("task", catalogue.TASKS)
def test_another_task_makes_a_valid_job(task: str):
    parse_spec(load_yaml(with_field(TEXT, "task", [task])))


@pytest.mark.parametrize("point", STARTING_POINTS, ids=lambda point: point.title)
def test_starting_points_are_valid_and_survive_a_copy(point: StartingPoint):
    spec = parse_spec(load_yaml(starting_text(point.task, point.data, point.model)))
    assert parse_spec(load_yaml(job_text(spec))) == spec


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer", "rosenbrock"])
def test_a_copy_of_an_example_is_the_same_job(name: str):
    spec = parse_spec(load_yaml((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8")))
    assert parse_spec(load_yaml(job_text(spec))) == spec


def test_a_copy_names_data_by_its_path_in_the_data_folder_and_own_spaces_by_file(tmp_path: Path):
    (tmp_path / "images").mkdir()
    space = load_space("sgd").model_copy(update={"summary": "mine"})
    (tmp_path / "mine.yaml").write_text(spaces_text_of(space), encoding="utf-8")
    document = {**load_yaml(TEXT), "data": {"name": "idx", "folder": "images"}, "arms": ["anon", "mine.yaml"]}
    spec = parse_spec(document, folder=tmp_path)
    copied = load_yaml(job_text(spec, tmp_path))
    assert (copied["data"], copied["arms"]) == ({"name": "idx", "folder": "images"}, ["anon", "mine.yaml"])
    assert "folder" not in copied
    own = load_yaml(spaces_text(spec, {"anon": load_space("cnn"), "mine": space}))
    assert own == {"mine.yaml": load_yaml(spaces_text_of(space))}


def spaces_text_of(space: Space) -> str:
    return json.dumps(space.model_dump(mode="json", exclude_defaults=True))
