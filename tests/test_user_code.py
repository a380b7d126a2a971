"""User models: found beside the job file, and checked before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anon_tune.errors import InputError, SpecError
from anon_tune.spec import load_spec
from anon_tune.user_code import load_function
from anon_tune.workers.problems.tasks import load_problem
from anon_tune.workers.trial.probe import probe
from tests.modules import forgotten

MODELS = """
from torch import nn

from helping import hidden  # beside it

LIMIT = 3


def perceptron(width=8, outputs=10, bias=True):
    return nn.Sequential(nn.Flatten(), hidden(width), nn.ReLU(), nn.Linear(width, outputs, bias=bias))


def nothing():
    return nn.Flatten()


def text():
    return "a model"


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = perceptron()

    def forward(self, x):
        return self.net(x), x
"""


HELPING = """
from torch import nn


def hidden(width):
    return nn.Linear(64, width)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A user's folder, which has a package of the name that a folder of this project has."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").touch()
    (tmp_path / "workers" / "nets.py").write_text(MODELS)
    (tmp_path / "helping.py").write_text(
        "from torch import nn\n\n\ndef hidden(width):\n    return nn.Linear(64, width)\n"
    )
    (tmp_path / "broken.py").write_text("import not_there_at_all\n")
    (tmp_path / "job.yaml").write_text(
        "name: mine\ntask: image_classification\ndata: digits\nbudget: {trials: 1, epochs: 1}\n"
        "model: {name: 'workers.nets:perceptron', width: 5, bias: false}\n"
    )
    before, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def test_a_model_beside_the_job_file_is_probed(folder: Path):
    spec = load_spec(folder / "job.yaml")
    assert spec.folder == str(folder)
    problem = load_problem(spec.task, spec.data.name, spec.model.name, spec.model.options, {}, spec.folder)
    found = probe(problem, seed=0, batch_size=32, floor=0.03, device="cpu")
    assert found.architecture["parameters"] == 64 * 5 + 5 + 5 * 10


def test_weights_are_drawn_from_the_seed(folder: Path):
    def weights() -> torch.Tensor:
        torch.manual_seed(4)
        problem = load_problem(
            "image_classification", "digits", "workers.nets:perceptron", {}, {}, str(folder)
        )
        return torch.cat([p.flatten() for p in problem.build_model().parameters()])

    assert torch.equal(weights(), weights())


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("wrkers.nets:perceptron", {}, ["There is no module 'wrkers' in {folder}"]),
        ("workers.net:perceptron", {}, ["There is no module 'workers.net' in {folder}"]),
        ("workers.nets:perceptorn", {}, ["nets.py: unknown function", "did you mean 'perceptron'?"]),
        ("workers.nets:LIMIT", {}, ["nets.py: LIMIT is a int, not a function"]),
        ("workers.nets:text", {}, ["returned a str, not a torch.nn.Module"]),
        ("workers.nets:nothing", {}, ["returned a model without parameters to train"]),
        (
            "workers.nets:perceptron",
            {"outputs": 9},
            ["(32, 9) for inputs of shape (32, 1, 8, 8)", "(32, 10)"],
        ),
        ("workers.nets:Pair", {}, ["returned tuple for inputs of shape", "a tensor of shape (32, 10)"]),
    ],
)
def test_what_is_wrong_is_said_before_the_first_trial(
    folder: Path, name: str, options: dict[str, int], parts: list[str]
):
    problem = load_problem("image_classification", "digits", name, options, {}, str(folder))
    with pytest.raises(InputError) as raised:
        probe(problem, seed=0, batch_size=32, floor=0.03, device="cpu")
    assert all(part.format(folder=folder) in str(raised.value) for part in parts), raised.value


def test_an_error_of_the_users_module_is_its_own(folder: Path):
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        load_function("broken:model", str(folder))


def test_a_function_of_an_installed_package_needs_no_folder():
    assert load_function("torch.nn:Linear", None) is torch.nn.Linear


def test_of_two_folders_with_a_module_of_one_name_none_gives_the_others(tmp_path: Path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for module in ("same", f"of_{name}"):
            (tmp_path / name / f"{module}.py").write_text(f"def folder():\n    return {name!r}\n")
    (tmp_path / "first" / "later.py").write_text("from of_first import folder\n")
    (tmp_path / "second" / "later.py").write_text("from of_second import folder\n")
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    with forgotten(tmp_path):
        assert load_function("same:folder", first)() == "first"
        with pytest.raises(InputError, match=r"second/same\.py has the same name: rename one of them"):
            load_function("same:folder", second)
        assert load_function("same:folder", first)() == "first"
        assert load_function("later:folder", first)() == "first"  # the second is in sys.path as well


def test_a_module_of_the_name_of_a_library_is_not_taken_for_it(tmp_path: Path):
    (tmp_path / "torch.py").write_text("def Linear():\n    pass\n")
    with (
        forgotten(tmp_path),
        pytest.raises(InputError, match=r"has the module 'torch' from .*torch/__init__\.py"),
    ):
        load_function("torch:Linear", str(tmp_path))


def test_a_folder_without_the_module_leaves_it_to_the_installed_packages(tmp_path: Path):
    (tmp_path / "torch").mkdir()  # of data, say: no package
    with forgotten(tmp_path):
        assert load_function("torch.nn:Linear", str(tmp_path)) is torch.nn.Linear


@pytest.mark.parametrize("name", ["nets.perceptron:", ":perceptron", "my-nets:perceptron", "a:b:c"])
def test_what_is_no_name_of_a_function_is_a_model_that_is_unknown(folder: Path, name: str):
    text = (folder / "job.yaml").read_text().replace("workers.nets:perceptron", name)
    (folder / "job.yaml").write_text(text)
    with pytest.raises(SpecError, match="model: unknown model"):
        load_spec(folder / "job.yaml")


def test_of_an_installed_module_only_what_its_package_defines_is_taken():
    """A service that allows a module does not allow what the module imports."""
    assert load_function("json.decoder:JSONDecoder", None)
    with pytest.raises(InputError, match="only imports"):
        load_function("functools:namedtuple", None)
