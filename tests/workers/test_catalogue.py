"""The catalogue, which needs no torch, held against the tasks, models and data that are really there."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from anon_tune import catalogue
from anon_tune.architecture import fingerprint
from anon_tune.errors import InputError
from anon_tune.optim.factory import OPTIMIZERS
from anon_tune.workers.data import READERS
from anon_tune.workers.models import FACTORIES, build_model
from anon_tune.workers.tasks import load_problem

PROBLEMS = [
    (task, data, model)
    for task, entry in catalogue.TASKS.items()
    for data in entry.datasets
    if "folder" not in catalogue.DATASETS[data].options
    for model in entry.models
]
"""Those whose data is at hand."""


def test_names_are_those_of_the_real_ones():
    assert catalogue.MODELS.keys() == FACTORIES.keys()
    assert catalogue.DATASETS.keys() == READERS.keys()
    assert catalogue.ARMS.keys() == OPTIMIZERS.keys()


def test_every_entry_belongs_to_a_task():
    tasks = catalogue.TASKS.values()
    assert {model for task in tasks for model in task.models} == catalogue.MODELS.keys()
    assert {data for task in tasks for data in task.datasets} == catalogue.DATASETS.keys()


def test_every_entry_says_what_it_is():
    for entries in (catalogue.TASKS, catalogue.DATASETS, catalogue.MODELS):
        assert all(entry.summary.endswith(".") for entry in entries.values())
    assert all(catalogue.ARMS.values())


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_options_are_the_keyword_arguments_of_the_model(name: str):
    signature = inspect.signature(FACTORIES[name])
    keywords = {
        p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    }
    assert catalogue.MODELS[name].options.keys() == keywords


@pytest.mark.parametrize("name", catalogue.DATASETS)
def test_options_are_the_arguments_of_the_reader(name: str):
    assert catalogue.DATASETS[name].options.keys() == inspect.signature(READERS[name]).parameters.keys()


@pytest.mark.parametrize(("task", "data", "model"), PROBLEMS)
def test_every_problem_can_be_trained_and_measured(task: str, data: str, model: str):
    problem = load_problem(task, data, model, {})
    network = problem.build_model()
    outputs = network(problem.train.inputs[:8])
    problem.loss(outputs, problem.train.targets[:8], 0.1).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    measured = problem.metrics(outputs.detach(), problem.train.targets[:8])
    assert measured.keys() == catalogue.TASKS[task].metrics.keys()


@pytest.mark.parametrize(("task", "data", "model"), PROBLEMS)
def test_families_are_those_of_the_fingerprint(task: str, data: str, model: str):
    family = fingerprint(load_problem(task, data, model, {}).build_model())["family"]
    assert family == catalogue.MODELS[model].family
    assert family in catalogue.FAMILIES


@pytest.mark.parametrize("name", catalogue.MODELS)
def test_an_option_changes_the_size(name: str):
    def size(options: dict[str, int]) -> int:
        return sum(p.numel() for p in build_model(name, (1, 8, 8), 10, options).parameters())

    wider = {"width": 2 * int(catalogue.MODELS[name].options["width"])}
    assert size(wider) > size({})
    assert size({}) == size(dict(catalogue.MODELS[name].options))


def test_at_the_start_a_model_knows_nothing():
    """Cross-entropy of an untrained classifier is about log(10), and accuracy about a tenth."""
    for _, _, model in PROBLEMS:
        torch.manual_seed(0)
        problem = load_problem("image_classification", "digits", model, {})
        with torch.no_grad():
            network = problem.build_model().eval()
            measured = problem.metrics(network(problem.validation.inputs), problem.validation.targets)
        assert measured["loss"] == pytest.approx(math.log(10), abs=0.4)
        assert measured["accuracy"] < 0.35


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
