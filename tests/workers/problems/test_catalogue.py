"""The catalogue, which needs no torch, held against the tasks, models and data that are really there."""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from anon_tune import catalogue, spec
from anon_tune.architecture import fingerprint
from anon_tune.errors import InputError
from anon_tune.optim.factory import OPTIMIZERS
from anon_tune.workers.problems.models import build_model
from anon_tune.workers.problems.tasks import Problem, load_problem
from anon_tune.workers.trial.checkpoints import intact, save
from anon_tune.workers.trial.schedules import SCHEDULES
from anon_tune.workers.trial.training import Training

PROBLEMS = [
    # ResNet-20 is of the same class, and takes a fifth of the time.
    pytest.param(task, data, model, marks=pytest.mark.slow if model == "resnet18" else ())
    for task, entry in catalogue.TASKS.items()
    for data in entry.datasets
    if "" not in catalogue.DATASETS[data].options.values()
    for model in entry.models
]
"""Those whose data is at hand."""


def test_arms_are_those_that_can_be_made():
    assert catalogue.ARMS.keys() == OPTIMIZERS.keys()


def test_schedules_are_those_of_the_job_file():
    assert set(get_args(spec.Training.model_fields["schedule"].annotation)) == SCHEDULES.keys()


def test_every_entry_belongs_to_a_task():
    tasks = catalogue.TASKS.values()
    assert {model for task in tasks for model in task.models} == catalogue.MODELS.keys()
    assert {data for task in tasks for data in task.datasets} == catalogue.DATASETS.keys()
    assert all(catalogue.DATASETS[data].kind == task.kind for task in tasks for data in task.datasets)


def test_every_entry_says_what_it_is():
    for entries in (catalogue.TASKS, catalogue.DATASETS, catalogue.MODELS):
        assert all(entry.summary.endswith(".") for entry in entries.values())
    assert all(catalogue.ARMS.values())


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_options_are_the_keyword_arguments_of_the_model(name: str):
    signature = inspect.signature(catalogue.resolve(catalogue.MODELS[name].build))
    keywords = {
        p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    assert catalogue.MODELS[name].options.keys() == keywords


@pytest.mark.parametrize("name", catalogue.DATASETS)
def test_options_are_the_arguments_of_the_reader(name: str):
    reader = catalogue.resolve(catalogue.DATASETS[name].read)
    assert catalogue.DATASETS[name].options.keys() == inspect.signature(reader).parameters.keys()


@pytest.mark.parametrize(("task", "data", "model"), PROBLEMS)
def test_every_problem_can_be_trained_and_measured(task: str, data: str, model: str):
    problem = load_problem(task, data, model, {})
    network = problem.build_model()
    problem.loss(network, problem.train[:8], 0.1).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    measured = problem.measure(network, problem.train[:8])
    assert measured.keys() == catalogue.TASKS[task].metrics.keys()


@pytest.mark.parametrize(("task", "data", "model"), PROBLEMS)
def test_families_are_those_of_the_fingerprint(task: str, data: str, model: str):
    family = fingerprint(load_problem(task, data, model, {}).build_model())["family"]
    assert family == catalogue.MODELS[model].family
    assert family in {*catalogue.FAMILIES, "unknown"}


@pytest.mark.parametrize("name", [name for name, entry in catalogue.MODELS.items() if entry.options])
def test_an_option_changes_the_size(name: str):
    shape = (16,) if name in catalogue.TASKS["language_model"].models else (1, 8, 8)

    def size(options: dict[str, int]) -> int:
        return sum(p.numel() for p in build_model(name, shape, 10, options).parameters())

    wider = {"width": 2 * int(catalogue.MODELS[name].options["width"])}
    assert size(wider) > size({})
    assert size({}) == size(dict(catalogue.MODELS[name].options))


@pytest.mark.parametrize(("task", "data", "model"), [p for p in PROBLEMS if p.values[0] != "function"])
def test_at_the_start_a_model_knows_nothing(task: str, data: str, model: str):
    """Its cross-entropy is about the logarithm of the number of classes; its squared error about the variance."""
    torch.manual_seed(0)
    problem = load_problem(task, data, model, {})
    # In training mode: batch norm has learnt no statistics yet.
    measured = problem.measure(problem.build_model(), problem.validation[:360])
    expected = {"image_classification": math.log(10), "language_model": math.log(256)}.get(task, 1.0)
    assert measured["loss"] == pytest.approx(expected, abs=0.4)
    assert measured.get("accuracy", 0.0) < 0.35


def small_problem(task: str, data: str, model: str) -> Problem:
    problem = load_problem(task, data, model, {})
    parts = {"train": problem.train[:256], "validation": problem.validation[:64], "test": problem.test[:64]}
    return dataclasses.replace(problem, **parts)


@pytest.mark.parametrize(("task", "data", "model"), PROBLEMS)
def test_a_training_is_resumed_with_the_same_bits(tmp_path: Path, task: str, data: str, model: str):
    problem = small_problem(task, data, model)

    def fresh() -> Training:
        return Training(problem, "anon", {"lr": 0.01, "gamma": 1.0, "floor": 0.03}, seed=0, epochs=2)

    training = fresh()
    training.run_epoch()
    save(tmp_path, "t/1/1.pt", training.state_dict())
    ((_, state),) = intact(tmp_path, ["t/1/1.pt"], 2, [])
    expected = training.run_epoch(), training.test()
    resumed = fresh()
    resumed.load_state_dict(state)
    assert (resumed.run_epoch(), resumed.test()) == expected


@pytest.mark.parametrize(("task", "data", "model"), PROBLEMS)
def test_a_short_training_learns_something(task: str, data: str, model: str):
    problem = small_problem(task, data, model)
    torch.manual_seed(0)  # as in the training: the same weights
    before = problem.measure(problem.build_model(), problem.validation)["loss"]
    training = Training(problem, "adamw", {"lr": 3e-3, "betas": (0.9, 0.99)}, seed=0, epochs=3, batch_size=32)
    (*_, last) = (training.run_epoch() for _ in range(3))
    assert last["val_loss"] < 0.97 * before


def test_metrics_do_not_depend_on_how_a_split_is_cut():
    problem = load_problem("language_model", "python_source", "lstm", {"width": 8}, {"length": 16})
    model, split = problem.build_model(), problem.validation[:50]
    whole, cut = problem.measure(model, split), problem.measure(model, split, batch_size=7)
    assert whole == pytest.approx(cut)
    assert whole["perplexity"] == pytest.approx(math.exp(whole["loss"]))


def test_gpt_looks_back_only():
    model = build_model("gpt", (12,), 20, {}).eval()
    tokens = torch.arange(12).unsqueeze(0)
    changed = tokens.clone()
    changed[0, 7:] = 0
    with torch.no_grad():
        one, other = model(tokens), model(changed)
    assert torch.allclose(one[:, :7], other[:, :7], atol=1e-6)
    assert not torch.allclose(one[:, 7], other[:, 7], atol=1e-3)


def test_the_same_random_state_gives_the_same_weights():
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(build_model("vit_tiny", (1, 8, 8), 10, {}).parameters())

    for one, other in zip(weights(), weights(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("cmn", {}, "did you mean 'cnn'"),
        ("cnn", {"widht": 3}, "did you mean 'width'"),
        ("vit_tiny", {"patch_width": 3}, "do not tile an image of 8x8"),
        ("vit_tiny", {"width": 10}, "not a multiple of heads 4"),
        ("unet", {"depth": 5}, "8x8 cannot be halved 4 times; lower model.depth"),
        ("unet", {"width": 6}, "width 6 is not a multiple of 4"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(name: str, options: dict[str, int], part: str):
    with pytest.raises(InputError, match=part):
        build_model(name, (1, 8, 8), 10, options)


@pytest.mark.parametrize(
    ("task", "data", "part"),
    [
        ("image_clasification", "digits", "unknown task"),
        ("image_classification", "digit", "unknown data set"),
    ],
)
def test_an_unknown_problem_says_what_is_known(task: str, data: str, part: str):
    with pytest.raises(InputError, match=f"{part}.*did you mean"):
        load_problem(task, data, "cnn", {})
