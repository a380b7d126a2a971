"""Job files: accepted values, and messages for invalid ones."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from anon_tune import catalogue, documents, search_spaces
from anon_tune.errors import InputError, NotFoundError, SpecError
from anon_tune.search_spaces import load_space
from anon_tune.spec import (
    JobSpec,
    Objective,
    apply_overrides,
    extended,
    load_spec,
    parse_spec,
    seconds,
    spaces_of,
    stored_spec,
)
from tests import builders

ROOT = Path(__file__).parents[1]

GOOD: dict[str, Any] = {
    "name": "digits small",
    "task": "image_classification",
    "data": "digits",
    "model": {"name": "vit_tiny", "width": 16},
    "budget": {"trials": 4, "epochs": 6},
}


def with_value(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one key set; REMOVE takes it away."""
    data = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    node = data
    for key in parents:
        node = node.setdefault(key, {})
    if value is REMOVE:
        del node[last]
    else:
        node[last] = value
    return data


REMOVE = object()


def test_a_short_job_gets_the_defaults():
    spec = parse_spec(GOOD)
    assert spec.arms == ("anon", "adamw", "sgd")
    assert (spec.model.name, spec.model.options) == ("vit_tiny", {"width": 16})
    assert (spec.objective.metric, spec.objective.mode, spec.space) == ("loss", "min", "default")


@pytest.mark.parametrize(
    "model",
    ["cnn", {"name": "cnn"}, {"name": "cnn", "options": {}}],
    ids=["name", "mapping", "with options"],
)
def test_a_model_can_be_named_in_three_ways(model: Any):
    assert parse_spec({**GOOD, "model": model}) == parse_spec({**GOOD, "model": "cnn"})


def test_the_options_of_a_model_can_be_written_beside_its_name():
    beside = parse_spec({**GOOD, "model": {"name": "cnn", "width": 4}})
    assert beside == parse_spec({**GOOD, "model": {"name": "cnn", "options": {"width": 4}}})


def test_the_folder_of_the_data_is_beside_the_job_file_or_where_all_data_is(tmp_path: Path):
    for folder in ("jobs/mine", "data/mine", "data/shared"):
        (tmp_path / folder).mkdir(parents=True)

    def found(folder: str) -> Any:
        data = {"name": "idx", "folder": folder}
        spec = parse_spec({**GOOD, "data": data}, "job", tmp_path / "jobs", tmp_path / "data")
        assert stored_spec(spec.model_dump(mode="json")) == spec
        return spec.data.options["folder"]

    assert found("mine") == str(tmp_path / "jobs" / "mine")
    assert found("shared") == str(tmp_path / "data" / "shared")
    assert found("/on/another/machine") == "/on/another/machine"


def test_data_is_looked_for_in_the_folder_that_is_given_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """No validator reads the environment."""
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("ANON_TUNE_DATA", str(tmp_path))
    data = {"name": "idx", "folder": "mine"}
    with pytest.raises(SpecError, match="there is no folder 'mine'"):
        parse_spec({**GOOD, "data": data}, "job", tmp_path / "jobs")


def test_a_space_is_parsed_once_for_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shipped = (Path(__file__).parents[1] / "search_spaces" / "cnn.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(f"# {tmp_path}\n{shipped}")  # no other test has parsed it
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**GOOD, "space": "mine.yaml"}))
    parsed = []
    real = documents.load_yaml
    monkeypatch.setattr(documents, "load_yaml", lambda text, **how: parsed.append(text) or real(text, **how))
    spec = load_spec(tmp_path / "job.yaml")
    assert spaces_of(spec)["anon"].optimizer == "anon"
    assert len([text for text in parsed if str(tmp_path) in text]) == 1
    (tmp_path / "mine.yaml").write_text(shipped.replace("optimizer: anon", "optimizer: sgd"))
    with pytest.raises(SpecError):  # a file that has changed is parsed anew
        load_spec(tmp_path / "job.yaml")


BAD = [
    # what is set, to what, and what the message must hold
    ("nmae", "x", ["nmae: unknown key", "did you mean 'name'?"]),
    ("Name", "x", ["Name: unknown key", "did you mean 'name'?"]),
    ("str", "x", ["str: unknown key", "Known: arguments, arms, budget"]),
    ("name", REMOVE, ["name: is missing"]),
    ("name", 3, ["name: ", "string", "found 3"]),
    ("name", "", ["name: "]),
    ("name", "../../etc", ["name: ", "'../../etc'"]),
    ("name", "x" * 81, ["name: ", "80"]),
    ("name", "  ", ["name: '  ' is not a valid name: expected 1 to 80 characters, found 0"]),
    ("task", "image_clasification", ["task: unknown task", "did you mean 'image_classification'?"]),
    ("data", "digit", ["data: unknown data set", "did you mean 'digits'?"]),
    ("data", {"name": "idx"}, ["data.folder: is missing", "data: {name: idx, folder: FOLDER}"]),
    ("data", {"name": "idx", "folder": 3}, ["data.folder: expected text, found 3"]),
    (
        "data",
        {"name": "idx", "folder": "/x", "trian": 3},
        ["data.trian: unknown option", "did you mean 'train'?"],
    ),
    (
        "data",
        {"name": "idx", "folder": "/x", "train": -1},
        ["data.train: ", "whole number of at least 0, found -1"],
    ),
    (
        "data",
        {"name": "idx", "folder": "no/such"},
        ["data: there is no folder 'no/such' in ", "ANON_TUNE_DATA"],
    ),
    ("data", {"name": "digits", "folder": "/x"}, ["data.folder: unknown option of digits 'folder'"]),
    ("model", "vit", ["model: unknown model", "did you mean 'vit_tiny'?"]),
    ("model", 3, ["model: expected keys and values", "found 3"]),
    ("model", {"width": 3}, ["model.name: is missing"]),
    ("model.widht", 3, ["model.widht: unknown option of vit_tiny", "did you mean 'width'?"]),
    ("model.width", "wide", ["model.width: ", "whole number", "found 'wide'"]),
    ("model.width", 0, ["model.width: ", "at least 1", "found 0"]),
    ("model.width", 2.5, ["model.width: ", "whole number", "found 2.5"]),
    ("space", "transfomer", ["space: unknown space", "did you mean 'transformer'?"]),
    ("space", "no/such/space.yaml", ["space: ", "no/such/space.yaml"]),
    ("space", "sgd", ["space: ", "'sgd' is a space of sgd"]),
    ("objective.metric", "acuracy", ["objective.metric: unknown metric", "did you mean 'accuracy'?"]),
    ("objective.mode", "max", ["objective.mode: the best loss is its minimum"]),
    ("objective.mode", "least", ["objective.mode: ", "'min' or 'max'", "found 'least'"]),
    ("objective.of", "worst", ["objective.of: expected `last`, `best`", "`last 3`", "found 'worst'"]),
    ("objective.of", "last 0", ["objective.of: expected `last`", "found 'last 0'"]),
    ("objective.of", 3, ["objective.of: expected `last`", "found 3"]),
    ("objective.of", "last 7", ["objective.of: last 7 needs more reports than budget.epochs (6)"]),
    ("budget", REMOVE, ["budget: is missing"]),
    ("budget", 12, ["budget: expected keys and values", "found 12"]),
    ("budget.trials", 0, ["budget.trials: ", "greater than or equal to 1", "found 0"]),
    ("budget.trials", 2.5, ["budget.trials: ", "found 2.5"]),
    ("budget.trials", "many", ["budget.trials: ", "found 'many'"]),
    ("budget.trails", 3, ["budget.trails: unknown key", "did you mean 'trials'?"]),
    ("budget.epochs", -1, ["budget.epochs: "]),
    ("search", {"pruner": "asha", "grace": 20}, ["search.grace: 20 epochs of grace", "budget's 6"]),
    ("budget.time", "soon", ["budget.time: expected a duration", "90m, 2h or 3600", "found 'soon'"]),
    ("budget.time", "1.2.3h", ["budget.time: expected a duration"]),
    ("budget.time", "2 weeks", ["budget.time: expected a duration"]),
    ("budget.time", 0, ["budget.time: ", "from 0.001 s", "found 0"]),
    ("budget.time", -3, ["budget.time: ", "from 0.001 s"]),
    ("budget.time", 1e16, ["budget.time: ", "to 3650 days", "found 1e+16"]),
    ("budget.time", "0.00001s", ["budget.time: ", "from 0.001 s"]),
    ("budget.time", "99999999999999999999d", ["budget.time: ", "to 3650 days"]),
    ("budget.time", "\u0663s", ["budget.time: expected a duration"]),
    ("budget.time", True, ["budget.time: ", "found True"]),
    ("budget.time", float("inf"), ["budget.time: "]),
    ("budget.trial_time", "soon", ["budget.trial_time: expected a duration", "found 'soon'"]),
    ("budget.trial_time", 0, ["budget.trial_time: ", "from 0.001 s", "found 0"]),
    ("budget.trial_time", float("inf"), ["budget.trial_time: "]),
    ("training.schedule", "cosin", ["training.schedule: ", "'cosine'", "found 'cosin'"]),
    ("training.warmup", 1, ["training.warmup: ", "less than 1"]),
    ("training.clip", 0, ["training.clip: ", "greater than 0"]),
    ("training.accumulate", 0, ["training.accumulate: ", "greater than or equal to 1"]),
    ("search.sampler", "gpp", ["search.sampler: ", "'gp', 'tpe', 'random' or 'grid'", "found 'gpp'"]),
    ("search.seed", -1, ["search.seed: "]),
    ("search.sede", 1, ["search.sede: unknown key", "did you mean 'seed'?"]),
    ("search.levels", 1, ["search.levels: ", "greater than or equal to 2", "found 1"]),
    ("search.levels", 2.5, ["search.levels: ", "found 2.5"]),
    ("search.try_first", 3, ["search.try_first: expected keys and values", "found 3"]),
    ("search.try_first", [3], ["search.try_first.anon.0: expected keys and values", "found 3"]),
    ("search.try_first", [{"gamma": 9}], ["search.try_first.anon.0.gamma: 9 is outside -0.5 to 1.5"]),
    ("search.try_first", [{"gama": 1}], ["search.try_first.anon.0.gama: unknown", "did you mean 'gamma'?"]),
    ("search.try_first", [{"floor": 0}], ["search.try_first.anon.0.floor: is fixed at 0.03", "omit it"]),
    ("search.try_first", [{"gamma": True}], ["search.try_first.anon.0.gamma: ", "found True"]),
    ("search.try_first", [{"gamma": "high"}], ["search.try_first.anon.0.gamma: ", "-0.5 to 1.5", "'high'"]),
    (
        "search.try_first",
        [{}, {"gamma": 0}, {"gamma": 0.0}],
        ["try_first.anon.2: the same point is listed twice"],
    ),
    (
        "search.try_first",
        [{"gamma": n / 9} for n in range(5)],
        ["try_first.anon: 5 points", "budget.trials (4)"],
    ),
    (
        "search.try_first",
        {"adam": [{"lr": 1}]},
        ["search.try_first.adam: unknown arm", "did you mean 'adamw'?"],
    ),
    ("search.try_first", {"sgd": [{"lr": 99}]}, ["search.try_first.sgd.0.lr: 99 is outside"]),
    (
        "search",
        {"sampler": "grid", "levels": 1000},
        ["search.levels: a grid of", "the space of anon is too large"],
    ),
    ("confirm.race", 3, ["confirm.race: ", "found 3"]),
    ("confirm.verdict_seeds", 1, ["confirm.verdict_seeds: expected at least 2, found 1"]),
    ("training.batch_size", 0, ["training.batch_size: "]),
    ("training.label_smoothing", 1.0, ["training.label_smoothing: "]),
    ("training.channels_last", True, ["training.channels_last: ", "vit_tiny has none", "remove it"]),
    ("training.augment", ["crops"], ["training.augment.0: "]),
    ("training.precision", "fp16", ["training.precision: "]),
    ("arms", "anon", ["arms: expected a list", "found 'anon'"]),
    ("arms", ["anon", "adamv"], ["arms: unknown arm 'adamv'", "did you mean 'adamw'?"]),
    ("arms", ["sgd"], ["arms: must contain 'anon'"]),
    ("arms", ["anon", "anon"], ["arms: the same arm is listed twice"]),
    ("arms", ["anon", 3], ["arms.1: ", "found 3"]),
    ("resources.gpu", -0.5, ["resources.gpu: "]),
    ("budget.trials", True, ["budget.trials: expected a number, found true"]),
    ("search.seed", False, ["search.seed: expected a number, found false"]),
    ("training.label_smoothing", False, ["training.label_smoothing: expected a number, found false"]),
    ("model.width", True, ["model.width: ", "whole number", "found True"]),
    ("resources.gpu", True, ["resources.gpu: expected a number, found true"]),
    ("resources.gpu", math.inf, ["resources.gpu: ", "finite number", "found inf"]),
    ("training.label_smoothing", math.nan, ["training.label_smoothing: ", "found nan"]),
    ("model.width", math.inf, ["model.width: ", "whole number", "found inf"]),
    ("resources.gpus", 1, ["resources.gpus: unknown key", "did you mean 'gpu'?"]),
]


def test_with_fixed_seeds_each_configuration_runs_once():
    spec = parse_spec({**GOOD, "seeds": "fixed", "confirm": {"finalists": 2, "seeds": 5}})
    assert (spec.confirm.finalists, spec.confirm.seeds, spec.confirm.verdict_seeds) == (2, 1, 1)
    assert stored_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(("path", "value", "parts"), BAD, ids=[f"{path}={v!r:.20}" for path, v, _ in BAD])
def test_bad_input_is_named_by_its_path(path: str, value: Any, parts: list[str]):
    with pytest.raises(SpecError) as caught:
        parse_spec(with_value(path, value), "job.yaml")
    assert caught.value.exit_code == InputError.exit_code == 2
    assert len({problem.partition(":")[0] for problem in caught.value.problems}) == 1
    message = str(caught.value)
    assert message.startswith("job.yaml: ")
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("task", "data", "model", "allowed"),
    [
        ("image_classification", "digits", "cnn", True),
        ("image_classification", "digits", "nets:make", True),
        ("diffusion", "digits", "unet", True),
        ("image_classification", "digits", "mlp", False),
        ("language_model", "python_source", "gpt", False),
        ("language_model", "python_source", "nets:make", False),
        ("regression", "diabetes", "mlp", False),
    ],
)
def test_channels_come_last_where_there_may_be_convolutions(task: str, data: str, model: str, allowed: bool):
    plain = {**GOOD, "task": task, "data": data, "model": model, "space": "default", "folder": "/x"}
    job = {**plain, "training": {"channels_last": True}}
    if allowed:
        assert parse_spec(job).training.channels_last
    else:
        parse_spec(plain)
        with pytest.raises(SpecError, match=r"training\.channels_last: is for convolutions of images"):
            parse_spec(job)


def test_a_key_that_is_no_text_is_named():
    with pytest.raises(SpecError, match="7: keys should be strings"):
        parse_spec({**GOOD, 7: "x"})


def test_all_problems_are_told_at_once():
    data = {**GOOD, "budget": {"trials": 0}, "nmae": 1, "search": {"sampler": "x"}}
    with pytest.raises(SpecError) as caught:
        parse_spec(data)
    paths = {problem.split(":")[0] for problem in caught.value.problems}
    assert paths == {"budget.trials", "budget.epochs", "nmae", "search.sampler"}


def test_a_budget_larger_than_the_space_is_refused(tmp_path: Path):
    """It would be found out in the middle of the job otherwise."""
    space = yaml.safe_load((Path(search_spaces.__file__).parent / "default.yaml").read_text())
    space["parameters"] = {"gamma": {"choices": [0, 1]}, "step_size": {"choices": [0.1, 1]}}
    space["fixed"] = {"beta3": 0.5, "delay": 2, "decay": 0}
    del space["start"]
    (tmp_path / "four.yaml").write_text(yaml.safe_dump(space))
    data = {**GOOD, "space": "four.yaml"}
    assert parse_spec(data, folder=tmp_path).budget.trials == 4
    data["budget"] = {"trials": 5, "epochs": 6}
    with pytest.raises(SpecError, match=r"budget\.trials: 5 is more than the 4 configurations .* of anon"):
        parse_spec(data, folder=tmp_path)


def test_a_budget_larger_than_the_grid_is_refused():
    data = {**GOOD, "search": {"sampler": "grid", "levels": 2}, "budget": {"trials": 8, "epochs": 6}}
    assert parse_spec(data).search.levels == 2
    data["budget"] = {"trials": 9, "epochs": 6}
    with pytest.raises(SpecError) as caught:
        parse_spec(data)
    for arm in ("adamw", "sgd"):  # anon has more coordinates
        problem = (
            f"budget.trials: 9 is more than the 8 points of the grid of 2 levels in the space of {arm}; lower"
        )
        assert problem in str(caught.value)
    assert "of anon;" not in str(caught.value)


def test_points_to_try_first_are_for_anon_or_by_arm():
    point = {"gamma": "1e-1", "step_size": 1}
    short = parse_spec({**GOOD, "search": {"try_first": [point]}})
    assert short == parse_spec({**GOOD, "search": {"try_first": {"anon": [point]}}})
    assert short.search.try_first == {"anon": ({"gamma": 0.1, "step_size": 1.0},)}
    assert parse_spec(short.model_dump(mode="json")) == short
    assert parse_spec({**GOOD, "search": {"try_first": []}}).search.try_first == {"anon": ()}


def test_points_for_an_arm_that_the_job_has_not_are_refused():
    data = {**GOOD, "arms": ["anon"], "search": {"try_first": {"sgd": [{"lr": 0.1}]}}}
    with pytest.raises(SpecError, match=r"search\.try_first\.sgd: unknown arm 'sgd'.*Known: anon"):
        parse_spec(data)


def test_points_of_a_conditional_space_name_the_family():
    data = {**GOOD, "space": "delays", "search": {"try_first": [{"delay_period": 3}]}}
    with pytest.raises(
        SpecError, match=r"anon\.0\.delay_period: exists only where delay_family is every; here"
    ):
        parse_spec(data)
    data["search"] = {"try_first": [{"delay_period": 3, "delay_family": "every"}]}
    assert parse_spec(data).search.try_first["anon"][0]["delay_period"] == 3.0


OWN: dict[str, Any] = {
    "name": "own", "task": "train:train", "folder": "/x", "budget": {"trials": 4, "steps": 2000}
}  # fmt: skip


def test_a_budget_in_steps_has_its_length_and_survives_storage():
    spec = parse_spec(OWN)
    assert (spec.budget.length, spec.budget.unit, spec.budget.in_words) == (2000, "step", "2,000 steps")
    assert stored_spec(spec.model_dump(mode="json")) == spec
    assert extended(spec, spaces_of(spec), 9).budget.steps == 2000
    pruned = {**OWN, "search": {"pruner": "median", "grace": 200}}
    assert stored_spec(parse_spec(pruned).model_dump(mode="json")).search.grace == 200


def test_a_job_that_was_stored_before_there_were_steps_loads():
    stored = parse_spec(GOOD).model_dump(mode="json")
    del stored["budget"]["steps"]
    budget = stored_spec(stored).budget
    assert (budget.length, budget.unit, budget.in_words) == (6, "epoch", "6 epochs")


@pytest.mark.parametrize(
    ("job", "problem"),
    [
        (
            {**GOOD, "budget": {"trials": 4, "steps": 2000}},
            "budget.steps: is for your own training; image_classification trains in epochs: set budget.epochs",
        ),
        (
            {**OWN, "budget": {"trials": 4, "steps": 9, "epochs": 3}},
            "budget.epochs: give either epochs or steps",
        ),
        ({**OWN, "budget": {"trials": 4}}, "budget.epochs: is missing; give epochs or"),
        ({**OWN, "budget": {"trials": 4, "steps": 0}}, "budget.steps: "),
        ({**OWN, "budget": {"trials": 4, "steps": True}}, "budget.steps: expected a number, found true"),
        (
            {**OWN, "search": {"pruner": "median"}},
            "search.grace: is missing; with median and a budget in steps, set the number of steps before any "
            "pruning, such as 200",
        ),
        (
            {**OWN, "search": {"pruner": "asha", "grace": 3000}},
            "3000 steps of grace are more than the budget's 2000",
        ),
        ({**OWN, "objective": {"of": "last 2001"}}, "last 2001 needs more reports than budget.steps (2000)"),
        (
            {**OWN, "task": "command", "command": "python t.py --n {epochs}"},
            "command: has {epochs}, but the budget is in steps: write {steps}",
        ),
        (
            {
                "name": "x",
                "folder": "/x",
                "command": "python t.py {steps}",
                "budget": {"trials": 1, "epochs": 2},
            },
            "command: has {steps}, but the budget is in epochs: write {epochs}",
        ),
    ],
    ids=str,
)
def test_a_length_that_does_not_fit_is_refused(job: dict[str, Any], problem: str):
    with pytest.raises(SpecError) as caught:
        parse_spec(job)
    assert problem in str(caught.value)


def test_short_budgets_need_no_pruner():
    data = {**GOOD, "budget": {"trials": 1, "epochs": 1}, "search": {"pruner": "none"}}
    assert parse_spec(data).budget.epochs == 1


# Files


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "job.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_job_file_is_read_with_overrides(tmp_path: Path):
    path = write(tmp_path, yaml.safe_dump(GOOD))
    spec = load_spec(
        path, ["budget.trials=9", "search.sampler=tpe", "arms=[anon, sgd]", "training.schedule=constant"]
    )
    assert (spec.budget.trials, spec.budget.epochs) == (9, 6)
    assert (spec.search.sampler, spec.arms, spec.training.schedule) == ("tpe", ("anon", "sgd"), "constant")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "found nothing"),
        ("- a\n- b\n", "found list"),
        ("just words", "found str"),
        ("a: [1, 2\n", "line 2, column 1: invalid YAML"),
        ("a: b: c\n", "line 1"),
        (b"name: \xff\xfe\x00", "UTF-8"),
        ("name: 2001-99-99\n", "cannot be read"),
        ("name: " + "1" * 5000, "cannot be read"),
        ("name: a\nbudget: {trials: 4}\nname: b\n", "line 3, column 1: invalid YAML ('name' appears twice)"),
        ("name: !!python/object/apply:os.system [ls]\n", "invalid YAML"),
    ],
    ids=[
        "empty",
        "list",
        "text",
        "unclosed",
        "two colons",
        "binary",
        "no date",
        "too long a number",
        "twice",
        "code",
    ],
)
def test_a_file_that_is_no_job_says_where(tmp_path: Path, text: str | bytes, part: str):
    path = write(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"absent\.yaml"):
        load_spec(tmp_path / "absent.yaml")


def test_a_folder_is_no_job_file(tmp_path: Path):
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("name=x=y", "name", "x=y"),
        ("budget.trials=8", "budget.trials", 8),
        ("search.seed=3", "search.seed", 3),
        ("name='8'", "name", "8"),
        ("arms=[anon]", "arms", ["anon"]),
    ],
)
def test_an_override_sets_one_value(override: str, path: str, value: Any):
    before = copy.deepcopy(GOOD)
    assert apply_overrides(GOOD, [override]) == with_value(path, value)
    assert before == GOOD


def test_an_override_has_each_key_once():
    with pytest.raises(SpecError, match="the value is not valid YAML"):
        apply_overrides({}, ["model={width: 8, width: 16}"])


def test_a_size_can_be_set_where_the_model_is_a_name():
    data = apply_overrides({**GOOD, "model": "cnn"}, ["model.width=4"])
    assert parse_spec(data).model == parse_spec({**GOOD, "model": {"name": "cnn", "width": 4}}).model


@pytest.mark.parametrize("override", ["budget.trials", "=3", "budget.trials=[1", "name=2001-99-99"])
def test_an_override_that_cannot_be_read_is_shown(override: str):
    with pytest.raises(SpecError) as caught:
        apply_overrides(GOOD, [override])
    assert repr(override) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("budget.trials=true", "found true"),
        ("budget.epochs=yes", "found true"),
        ("resources.gpu=.inf", "found inf"),
    ],
)
def test_an_override_with_what_is_no_number_is_refused(override: str, part: str):
    with pytest.raises(SpecError, match=part):
        parse_spec(apply_overrides(GOOD, [override]))


def test_an_unknown_key_in_an_override_is_named():
    with pytest.raises(SpecError, match=r"budget\.trails: unknown key .* did you mean 'trials'"):
        parse_spec(apply_overrides(GOOD, ["budget.trails=3"]))


# Any valid job

NAMES = st.text("abcXYZ012_ .:+-é", min_size=1, max_size=20).filter(str.strip)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    task = draw(st.sampled_from(sorted(catalogue.TASKS)))
    entry = catalogue.TASKS[task]
    model = draw(st.sampled_from(entry.models))
    metric = draw(st.sampled_from(sorted(entry.metrics)))
    sizes = {option: st.integers(1, 64) for option in catalogue.MODELS[model].options}
    epochs = draw(st.integers(1, 50))
    data = draw(st.sampled_from(entry.datasets))
    needed = [option for option, value in catalogue.DATASETS[data].options.items() if value == ""]
    return {
        "name": draw(NAMES),
        "task": task,
        "data": {"name": data, **dict.fromkeys(needed, "/data")},
        "model": {"name": model, **draw(st.fixed_dictionaries({}, optional=sizes))},
        "space": draw(st.sampled_from(["default", "cnn", "transformer"])),
        "objective": {"metric": metric, "mode": entry.metrics[metric]},
        "budget": {
            "trials": draw(st.integers(1, 10_000)),
            "epochs": epochs,
            "time": draw(st.none() | st.floats(0.001, 3650 * 86400)),
            "trial_time": draw(st.none() | st.integers(1, 3650 * 86400)),
        },
        "search": {
            "sampler": draw(st.sampled_from(["gp", "tpe", "random"])),
            "pruner": draw(st.sampled_from(["asha", "median", "none"])),
            "seed": draw(st.integers(0, 2**31 - 1)),
            "grace": draw(st.integers(1, epochs)),
        },
        "training": {"label_smoothing": draw(st.floats(0, 1, exclude_max=True))},
        "arms": ["anon", *draw(st.sets(st.sampled_from(["adamw", "sgd"])))],
        "resources": {"gpu": draw(st.floats(0, 8))},
    }


@given(jobs())
def test_a_job_survives_being_stored(data: dict[str, Any]):
    spec = parse_spec(data)
    stored = spec.model_dump(mode="json")
    assert parse_spec(stored) == spec
    assert stored_spec(json.loads(json.dumps(stored))) == spec
    assert parse_spec(yaml.safe_load(yaml.safe_dump(stored))) == spec


def test_each_arm_has_its_own_space():
    spec = parse_spec({**GOOD, "space": "cnn", "arms": ["sgd", "anon"]})
    assert {arm: space.optimizer for arm, space in spaces_of(spec).items()} == {"sgd": "sgd", "anon": "anon"}
    assert list(spaces_of(spec)) == ["sgd", "anon"]


def test_a_spec_cannot_be_changed():
    spec: JobSpec = parse_spec(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        spec.space = "cnn"  # type: ignore[misc]


def test_a_space_file_is_looked_for_beside_the_job_and_not_again(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text((ROOT / "search_spaces" / "cnn.yaml").read_text())
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({**GOOD, "space": "mine.yaml"}))
    spec = load_spec(tmp_path / "job.yaml")
    assert spaces_of(spec)["anon"].parameters == load_space("cnn").parameters
    (tmp_path / "mine.yaml").unlink()
    assert stored_spec(spec.model_dump(mode="json")) == spec
    with pytest.raises(SpecError, match=r"mine\.yaml"):
        load_spec(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("written", "length"),
    [
        ("2h", 7200),
        ("90m", 5400),
        ("30 s", 30),
        ("1.5h", 5400),
        ("1d", 86400),
        (45, 45),
        ("45", 45),
        (0.5, 0.5),
    ],
)
@pytest.mark.parametrize("key", ["time", "trial_time"])
def test_lengths_of_time(written, length, key):
    assert seconds(written) == length
    spec = parse_spec(with_value(f"budget.{key}", written))
    assert getattr(spec.budget, key) == length
    assert getattr(stored_spec(spec.model_dump(mode="json")).budget, key) == length


def test_a_job_from_before_there_was_a_limit_of_time_has_none():
    stored = builders.spec().model_dump(mode="json")
    del stored["budget"]["time"], stored["budget"]["trial_time"]
    budget = stored_spec(stored).budget
    assert (budget.time, budget.trial_time) == (None, None)


@pytest.mark.parametrize(("written", "read"), [(1e16, 3650 * 86400), (1e-5, 0.001), (1e300, 3650 * 86400)])
def test_durations_beyond_todays_bounds_are_read_from_the_ledger_as_the_nearest(written: float, read: float):
    stored = builders.spec().model_dump(mode="json")
    stored["budget"] |= {"time": written, "trial_time": written}
    budget = stored_spec(stored).budget
    assert (budget.time, budget.trial_time) == (read, read)


def test_a_larger_budget_has_to_fit_the_spaces():
    spec = builders.spec(search={"sampler": "grid", "levels": 2, "grace": 1})
    spaces = spaces_of(spec)
    assert extended(spec, spaces, 8).budget.trials == 8
    with pytest.raises(SpecError, match=r"--trials: budget\.trials: 9 is more than the 8 points of the grid"):
        extended(spec, spaces, 9)
    with pytest.raises(SpecError, match=r"budget\.trials"):
        extended(spec, spaces, 10_001)


MINE = """
optimizer: "mine:make"
summary: x
parameters: {lr: {low: 1.0e-3, high: 1, log: true}}
"""


def job_with(folder: Path, **keys: Any) -> JobSpec:
    """A job file in a folder with spaces of the user."""
    (folder / "muon.yaml").write_text(MINE)
    (folder / "my muon.yaml").write_text(MINE)
    (folder / "sgd.yaml").write_text(MINE)
    (folder / "broken.yaml").write_text(MINE.replace("low", "lowest"))
    (folder / "wide.yaml").write_text((ROOT / "search_spaces" / "adamw.yaml").read_text())
    (folder / "anon.yaml").write_text((ROOT / "search_spaces" / "adamw.yaml").read_text())
    (folder / "gamma.yaml").write_text((ROOT / "search_spaces" / "cnn.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump({**GOOD, **keys}))
    return load_spec(folder / "job.yaml")


@pytest.mark.parametrize(
    "keys",
    [
        {"arms": ["anon", "muon.yaml", "sgd", "wide.yaml"]},
        {
            "arms": ["anon", "muon", "sgd", "wide"],
            "spaces": {"muon": "muon.yaml", "wide": "wide.yaml"},
        },
    ],
)
def test_a_file_with_a_space_is_an_arm(tmp_path: Path, keys: dict[str, Any]):
    spec = job_with(tmp_path, **keys)
    assert spec.arms == ("anon", "muon", "sgd", "wide")
    assert [spec.optimizer(arm) for arm in spec.arms] == ["anon", "mine:make", "sgd", "adamw"]
    assert {arm: space.optimizer for arm, space in spaces_of(spec).items()} == {
        "anon": "anon", "muon": "mine:make", "sgd": "sgd", "wide": "adamw"
    }  # fmt: skip
    (tmp_path / "muon.yaml").unlink()
    assert stored_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"arms": ["anon", "mine:make"]}, ["arms: 'mine:make' needs a search space", "optimizer: mine:make"]),
        ({"arms": ["anon", "lion.yaml"]}, ["spaces.lion: There is no file", "lion.yaml"]),
        ({"arms": ["anon", "broken.yaml"]}, ["spaces.broken: parameters.lr.low: is missing; parameters.lr.lowest: "]),
        ({"arms": ["anon", "muon"]}, ["arms: unknown arm 'muon'", "or the path of a .yaml file"]),
        ({"arms": ["anon", "gamma.yaml"]}, ["spaces.gamma", "is a space of anon", "`space`"]),
        ({"arms": ["anon.yaml", "sgd"]}, ["spaces.anon: set the space of anon with the key `space`"]),
        ({"arms": ["anon", "sgd.yaml"]}, ["spaces.sgd", "is a space of mine:make; give this arm another name"]),
        ({"arms": ["anon", "my muon.yaml"]}, ["arms: 'my muon' is not a valid arm name", "rename its file"]),
        ({"arms": ["anon", "muon.yaml", "./muon.yaml"]}, ["arms: the same arm is listed twice"]),
        ({"arms": ["anon"], "spaces": {"muon": "muon.yaml"}}, ["spaces.muon: unknown arm 'muon'"]),
        ({"arms": ["anon", "muon"], "spaces": {"muon": 3}}, ["spaces.muon: expected the path of a .yaml file"]),
        (
            {"arms": ["anon", "muon.yaml"], "search": {"try_first": {"muon": [{"lr": 2}]}}},
            ["search.try_first.muon.0.lr: 2 is outside"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_arm_of_the_user_is_said(
    tmp_path: Path, keys: dict[str, Any], parts: list[str]
):
    with pytest.raises(SpecError) as caught:
        job_with(tmp_path, **keys)
    for part in parts:
        assert part in str(caught.value), caught.value
    assert len(caught.value.problems) == 1


def test_a_factory_needs_a_folder_to_be_imported_from(tmp_path: Path):
    (tmp_path / "muon.yaml").write_text(MINE)
    with pytest.raises(
        SpecError, match="folder: is missing; it is the folder from which mine:make is imported"
    ):
        parse_spec({**GOOD, "arms": ["anon", str(tmp_path / "muon.yaml")]})


FUNCTION = {"task": "function", "data": {"name": "rosenbrock"}, "model": "point"}


@pytest.mark.parametrize(("option", "value"), [("noise", 0.3), ("noise", 2), ("drift", 0.0), ("train", 7)])
def test_an_option_of_the_data_may_be_a_fraction_where_its_default_is(option: str, value: float):
    spec = parse_spec({**GOOD, **FUNCTION, "data": {"name": "rosenbrock", option: value}})
    assert spec.data is not None
    assert spec.data.options == {option: value}
    assert stored_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("noise", -0.1, r"data\.noise: expected a finite number of at least 0, found -0\.1"),
        ("noise", math.inf, r"data\.noise: expected a finite number of at least 0, found inf"),
        ("noise", math.nan, r"data\.noise: expected a finite number of at least 0, found nan"),
        ("noise", "much", r"data\.noise: expected a finite number of at least 0, found 'much'"),
        ("noise", True, r"data\.noise: expected a finite number of at least 0, found True"),
        ("train", True, r"data\.train: expected a whole number of at least 0, found True"),
        ("train", 1.5, r"data\.train: expected a whole number of at least 0, found 1\.5"),
    ],
)
def test_what_is_no_such_number_is_refused(option: str, value: Any, part: str):
    with pytest.raises(SpecError, match=part):
        parse_spec({**GOOD, **FUNCTION, "data": {"name": "rosenbrock", option: value}})


@pytest.mark.parametrize(
    ("given", "of", "reports"),
    [("last", "last", 1), ("last 1", "last", 1), ("last  5", "last 5", 5), ("best", "best", None)],
)
def test_which_reports_count(given: str, of: str, reports: int | None):
    objective = Objective.model_validate({"of": given})
    assert (objective.of, objective.reports) == (of, reports)


def with_arguments(arguments: Any) -> JobSpec:
    return parse_spec(
        {"name": "x", "task": "mine:train", "budget": {"trials": 1, "epochs": 1}, "arguments": arguments},
        folder=Path(),
    )


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ((1, (2.5, None)), [1, [2.5, None]]),
        ([True, None, "x"], [True, None, "x"]),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        (None, None),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        ([np.array(2)], [2]),
        (torch.tensor(2), 2),
    ],
)
def test_arguments_of_python_are_stored_as_json_has_them(given: Any, stored: Any):
    spec = with_arguments({"k": given})
    assert json.dumps(spec.model_dump(mode="json")["arguments"]) == json.dumps({"k": stored})
    assert stored_spec(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("arguments", "path", "found"),
    [
        ({"k": Path("x")}, "k", "PosixPath('x')"),
        ({"k": {"a": [1, {"b": {2}}]}}, "k.a.1.b", "{2}"),
        ({"k": {"dict": {1: 2}}}, "k.dict.1", "1"),
        ({"k": np.arange(2)}, "k", "array([0, 1])"),
    ],
)
def test_an_argument_that_json_has_not_is_named_by_its_path(arguments: Any, path: str, found: str):
    with pytest.raises(SpecError) as caught:
        with_arguments(arguments)
    (problem,) = caught.value.problems
    assert problem.startswith(f"arguments.{path}: ")
    assert problem.endswith(f"found {found}")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E5", 1e5), ("-2e+1", -20.0), ("1.5e3", 1500.0), ("e3", "e3")]
)
def test_a_number_with_an_exponent_is_a_number(text: str, value: Any):
    """YAML 1.1 has text there without a point."""
    found = documents.load_yaml(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))


def test_a_stored_job_keeps_the_name_that_an_earlier_version_took():
    stored = with_arguments({}).model_dump(mode="json")
    assert stored_spec({**stored, "name": "  "}).name == "  "


def test_weights_of_the_best_epoch_are_not_kept():
    with pytest.raises(
        SpecError, match=r"keep: best keeps the weights of the last epoch, and objective\.of: best"
    ):
        builders.spec(keep="best", objective={"of": "best"})


def test_a_search_that_ends_when_it_is_decided_needs_to_know_what_matters():
    search = {"stop": "decided"}
    assert builders.spec(search=search).search.stop == "decided"
    linear = {"scale": "linear"}
    assert builders.spec(search=search, objective={**linear, "practical": 0.1}).objective.practical == 0.1
    with pytest.raises(SpecError, match=r"search\.stop: .* set objective\.practical, in units of loss"):
        builders.spec(search=search, objective=linear)
