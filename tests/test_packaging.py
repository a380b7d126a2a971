"""Installing anon_tune: from a checkout without symbolic links, as a wheel, an editable install and an sdist."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anon_tune.export import render
from tests.sources import ROOT, needs_git, source_files, tracked

LINKED = ("dashboards", "search_spaces", "workers")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(*command: str | Path, folder: Path) -> str:
    """Return the output of a command that must succeed and sees this environment through no variable."""
    hidden = ("PYTHON", "ANON_TUNE_", "MLFLOW_", "RAY_")
    # In CI no test may be skipped; those of an sdist have no git checkout, and some need one.
    clean = {
        name: value for name, value in os.environ.items() if name != "CI" and not name.startswith(hidden)
    }
    environment = {**clean, "ANON_TUNE_HOME": str(folder / "home")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def new_environment(folder: Path) -> tuple[Path, Path]:
    """Make a virtual environment without any package, and return its Python and its folder of packages."""
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    return folder / "bin" / "python", packages


def with_dependencies(folder: Path) -> Path:
    """Make a virtual environment with the packages of this one, but not its anon_tune; return its Python.

    Python does not read the .pth files of a folder that a .pth file names, and these lead to an editable install.
    """
    python, packages = new_environment(folder)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def install(python: Path, *arguments: str | Path, folder: Path) -> None:
    """Install with pip as `make install` does, into the environment of another Python."""
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--ignore-installed"]
    run(*pip, "--no-deps", "--no-build-isolation", *arguments, folder=folder)


# What is packaged


def test_every_package_is_listed():
    packages = {name.removesuffix(".__init__") for name in source_files() if name.endswith(".__init__")}
    assert packages == set(PYPROJECT["tool"]["setuptools"]["packages"])


@needs_git
@pytest.mark.parametrize("name", LINKED)
def test_a_link_leads_to_its_top_level_folder(name: str):
    link = ROOT / "anon_tune" / name
    assert (str(link.readlink()) if link.is_symlink() else link.read_text()) == f"../{name}"
    assert PYPROJECT["tool"]["setuptools"]["package-dir"][f"anon_tune.{name}"] == name


def test_a_users_workers_package_is_theirs(tmp_path: Path):
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("OWNER = 'user'\n")
    code = (
        "import workers, anon_tune.workers.trial.training, anon_tune.search_spaces as s;"
        "print(workers.OWNER, len(s.space_names()) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["user", "True"], done.stderr


# Dependencies

BROUGHT_ALONG = {
    "anyio": "fastapi",
    "starlette": "fastapi",
    "gpytorch": "botorch",
    "markupsafe": "jinja2",
    "pydantic_core": "pydantic",
}
"""Packages that one of the dependencies builds on and shows in its own interface."""

OPTIONAL_OF = {"python-multipart": "fastapi"}
"""Dependencies that only another one imports, which does not require them by itself."""

NOT_REQUIRED = {"IPython", "triton"}
"""Used where they happen to be installed."""


def importers() -> dict[str, set[str]]:
    """Return which modules and folders of the package import each package of others."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, path in source_files().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"anon_tune"}:
                found[name].add(module.split(".")[1])
    return found


def declared(*extras: str) -> set[str]:
    """Return the canonical names of the dependencies, and of those of some extras."""
    project = PYPROJECT["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in extras for each in project["optional-dependencies"][extra]),
    ]
    return {canonicalize_name(Requirement(each).name) for each in listed}


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """Return the installed distributions of each top-level module."""
    return packages_distributions()


def provided_by(module: str) -> set[str]:
    """Return the canonical names of the distributions that a top-level module belongs to."""
    return {canonicalize_name(name) for name in distributions().get(module, ())}


def test_every_import_is_a_declared_dependency():
    known = declared("lightning", "hugging-face", "postgres")
    unknown = {
        module
        for module in importers().keys() - NOT_REQUIRED
        if not known & {BROUGHT_ALONG.get(module, ""), *provided_by(module)}
    }
    assert unknown == set()


def test_comments_on_dependencies_name_their_importers():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = text.split("\ndependencies = [\n")[1].split("\n]\n")[0].splitlines()
    found = [re.fullmatch(r'  "([\w-]+).*", +# ([a-z_, ]+): .+', line) for line in lines]
    commented = {canonicalize_name(each[1]): set(each[2].split(", ")) for each in found if each}
    actual = {name: {OPTIONAL_OF[name]} if name in OPTIONAL_OF else set() for name in declared()}
    for module, where in importers().items():
        for name in provided_by(module) & declared():
            actual[name] |= where
    assert commented == actual


# The image


def pinned(name: str) -> dict[str, str]:
    """Return the versions in a lock, by canonical name; each has a hash if the lock is the image's."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = dict(line.removesuffix(" \\").split("==") for line in lines if "==" in line)
    return {canonicalize_name(package): version for package, version in found.items()}


def test_the_image_has_the_versions_of_the_lock_and_no_tools_of_developers():
    everything, runtime = pinned("requirements.lock"), pinned("docker/runtime.lock")
    assert {name: everything.get(name) for name in runtime} == runtime, "run `make lock`"
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = [*PYPROJECT["project"]["dependencies"], *extras["postgres"], *extras["mlflow-server"]]
    assert needed_by(*wanted) - set(runtime) == {"torch"}
    assert {"setuptools"} <= set(runtime), "which builds the package"
    assert not {"pytest", "mypy", "ruff", "playwright", "transformers", "lightning"} & set(runtime)
    for build in ("cpu", "cuda"):
        assert pinned(f"docker/torch-{build}.lock")["torch"].partition("+")[0] == everything["torch"]


@pytest.mark.parametrize("name", ["runtime", "torch-cpu", "torch-cuda"])
def test_each_version_in_the_image_has_a_hash(name: str):
    text = (ROOT / "docker" / f"{name}.lock").read_text(encoding="utf-8")
    requirements = re.findall(r"^\S+==\S+(.*(?:\n .*)*)", text, re.MULTILINE)
    assert requirements
    assert all("--hash=sha256:" in rest for rest in requirements)


# A checkout without links, as on Windows or from a zip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose links are text files with the names of their targets."""
    folder = tmp_path_factory.mktemp("checkout")
    command = ["git", "clone", "--quiet", "--config", "core.symlinks=false", str(ROOT), str(folder)]
    subprocess.run(command, check=True)
    assert all((folder / "anon_tune" / name).is_file() for name in LINKED)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a checkout without links."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", folder, checkout, folder=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist of a checkout without links."""
    folder = tmp_path_factory.mktemp("sdist")
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, folder=checkout)
    (packed,) = folder.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


def expected_in_wheel() -> set[str]:
    """Every tracked file of the package, by its path in the wheel."""
    paths = tracked("anon_tune", *LINKED) - {f"anon_tune/{name}" for name in LINKED}
    return {path if path.startswith("anon_tune/") else f"anon_tune/{path}" for path in paths}


@needs_git
@pytest.mark.slow
def test_a_wheel_holds_every_module_and_data_file(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith("anon_tune-")}
    assert held == expected_in_wheel()


@needs_git
@pytest.mark.slow
def test_an_editable_install_runs_a_job(checkout: Path, tmp_path: Path):
    """The job's process, Ray's workers and the projection to MLflow are processes of their own."""
    python = with_dependencies(tmp_path / "environment")
    install(python, "--editable", checkout, folder=tmp_path)
    code = "import anon_tune.workers; print(anon_tune.workers.__file__)"
    assert run(python, "-c", code, folder=tmp_path).strip() == str(checkout / "workers" / "__init__.py")
    small = (
        "budget.trials=1",
        "budget.epochs=1",
        "confirm.finalists=1",
        "confirm.seeds=1",
        "confirm.verdict_seeds=2",
    )
    settings = [part for setting in small for part in ("--set", setting)]
    job = checkout / "examples" / "rosenbrock.yaml"
    shown = run(python.with_name("anon-tune"), "run", job, *settings, folder=tmp_path)
    assert ": SUCCEEDED" in shown
    assert (tmp_path / "home" / "mlflow.db").exists()


@needs_git
@pytest.mark.slow
def test_the_tests_of_an_sdist_run(sdist: Path, tmp_path: Path):
    held = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    left_out = {".ci/run", ".gitignore", *(f"anon_tune/{name}" for name in LINKED)}
    assert tracked() - held == left_out
    python = with_dependencies(tmp_path / "environment")
    install(python, "--editable", sdist, folder=tmp_path)
    # All are collected, so every helper is there; those with data from outside tests/ are run.
    selected = "test_readme or test_factory or test_history"
    shown = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selected, folder=sdist)
    assert " passed" in shown


# An environment with torch and PyYAML alone


def needed_by(*wanted: str) -> set[str]:
    """Return the distributions of some requirements, and all that these require here."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(each) for each in wanted]
    while left:
        requirement = left.pop()
        for extra in {"", *requirement.extras}:
            name = canonicalize_name(requirement.name)
            if (name, extra) not in found:
                found.add((name, extra))
                required = map(Requirement, distribution(name).requires or ())
                left += [
                    each for each in required if each.marker is None or each.marker.evaluate({"extra": extra})
                ]
    return {name for name, _ in found}


def lend(packages: Path, names: set[str]) -> None:
    """Make installed distributions, and no others, importable from a folder of packages."""
    for name in names:
        found = distribution(name)
        tops = {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}
        for top in tops:
            (packages / top).symlink_to(Path(str(found.locate_file(top))))


TRAIN = """
import importlib.metadata, sys
import torch
import anon_tune

def trained(make):
    torch.manual_seed(0)
    model, x = torch.nn.Linear(8, 1), torch.randn(64, 8)
    y = x.sum(1, keepdim=True)
    optimizer, losses = make(model), []
    for _ in range(50):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[-1] < losses[0] / 2

print(trained(lambda model: anon_tune.Anon(model.parameters(), lr=0.05)))
print(trained(lambda model: anon_tune.load_optimizer("best.yaml", model.parameters())))
print(anon_tune.__file__)
print(*(found.name for found in importlib.metadata.distributions()))
"""


@needs_git
@pytest.mark.slow
def test_the_optimizer_needs_torch_and_pyyaml_alone(wheel: Path, tmp_path: Path):
    """The environment has the wheel, torch, PyYAML and their own requirements: Python can find no other package."""
    python, packages = new_environment(tmp_path / "environment")
    install(python, wheel, folder=tmp_path)
    lent = needed_by("torch", "pyyaml")
    lend(packages, lent)
    found = {"lr": 0.05, "betas": [0.9, 0.999, 0.5], "gamma": 0.5, "delay": 2.0, "floor": 0.03}
    exported = {"version": 2, "optimizer": "anon", "hyperparameters": found}
    (tmp_path / "best.yaml").write_text(render(exported, "yaml"))
    with_anon, with_file, file, distributions = run(python, "-c", TRAIN, folder=tmp_path).splitlines()
    assert (with_anon, with_file) == ("True", "True")
    assert Path(file).is_relative_to(packages)
    assert {canonicalize_name(name) for name in distributions.split()} == {"anon-tune", *lent}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Anon", "anon_tune.Anon needs torch, which is not installed. Run `pip install torch`."),
        ("tune", "anon_tune.tune needs rich, which is not installed. Run `pip install anon_tune`."),
    ],
)
def test_a_name_whose_package_is_missing_says_what_to_install(name: str, error: str):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import anon_tune; anon_tune.{name}"
    # -S: without any installed package.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {error}"
